"""Every error that ingestq raises on purpose, and the one table of what is retryable.

IngestqError
├── UsageError                  a setting or request is wrong: change it (exit code 2)
│   ├── ModelUnavailable        the embedding model does not exist or cannot be loaded
│   ├── CollectionMismatch      the collection was built with another model or chunking
│   ├── CollectionMissing       the collection was deleted while it was in use
│   └── InvalidQuery            the collection cannot be searched in this way
├── ServiceUnavailable          a service does not answer: try again later (exit code 3)
│   ├── BrokerUnavailable       Redis
│   ├── BlobStoreUnavailable    the store for large content
│   ├── EmbedderUnavailable     the embeddings endpoint
│   ├── RemoteUnavailable       a bucket or other remote source
│   ├── RerankerUnavailable     the reranker, which searches can do without
│   ├── HookUnavailable         what a hook needs, as the hook says
│   └── StoreUnavailable        Qdrant
│       ├── StoreTooSlow        it timed out on this request; a smaller one may pass
│       └── StoreFull           it has no disk, memory or quota left
├── QueueFull                   the queue has reached its limit: try again later
├── NotPermitted                the token does not allow this request
├── KeyReused                   an idempotency key was used before, with another request
├── UploadExpired               a blob waited too long to be queued: upload it again
├── DocumentRejected            this document can never be processed, by any worker
│   └── HookFailed              a hook raised over it, or returned something wrong
├── SourceChanged               a file changed while it was read
├── SiteBusy                    a web site is asked for other pages first: try again later
├── PageFailed                  a web site failed over one page: tried a few times
├── SourceFailed                a scheduled source is missing, or failed before its end
├── StoreRejected               Qdrant will never accept this request
├── PoolFailure                 a pool process died or hung during a task
│   ├── PoolBroken              pool processes died, and no task can be blamed
│   └── LimitExceeded           a task needs more memory or time than its process may use
└── ContractError               bytes on the queue that this version cannot read as a job
    └── InvalidJob              a job of a known version whose documents are invalid
"""

from collections.abc import Sequence
from enum import Enum, StrEnum
from typing import Final


class IngestqError(Exception):
    """Base class of all errors that ingestq raises. The message is written for the user."""


class UsageError(IngestqError):
    """A setting or a request is wrong. The message names it and says what is allowed.

    Trying again does not help: change the setting or the request.
    """


class ModelUnavailable(UsageError):
    """The embedding model does not exist or cannot be loaded.

    Raised when a worker, a search or the API starts. Check INGESTQ_MODEL and that the model's files
    or the embeddings endpoint can be reached.
    """


class CollectionMismatch(UsageError):
    """The collection in Qdrant was built with another model or chunking than is configured.

    Raised before anything is written or searched. Restore the setting, or run `ingestq reindex`.
    """


class InvalidQuery(UsageError):
    """The collection cannot be searched in the way that was asked for.

    Raised by a search, for example for a mode that needs sparse vectors. Change the query.
    """


class CollectionMissing(UsageError):
    """The collection, or its ledger, was deleted while it was in use.

    The document that was being processed is not to blame: every other one would fail as well.
    """


class ServiceUnavailable(IngestqError):
    """A service does not answer, or asks for a pause. The same request may succeed later.

    ``retry_after`` is the number of seconds that the service asks to wait; None if it does not say.
    """

    def __init__(self, text: str, retry_after: float | None = None) -> None:
        super().__init__(text)
        self.retry_after = retry_after


class BrokerUnavailable(ServiceUnavailable):
    """Redis does not answer, or refuses writes.

    After a write, the outcome is unknown. Sending the same again is safe.
    """


class EmbedderUnavailable(ServiceUnavailable):
    """The embeddings endpoint does not answer, or asks to wait."""


class RerankerUnavailable(ServiceUnavailable):
    """The reranker does not answer, is too slow, or cannot be loaded.

    A search answers without it, and says so in a warning.
    """


class BlobStoreUnavailable(ServiceUnavailable):
    """The blob store cannot be reached, is full, or refuses access."""


class RemoteUnavailable(ServiceUnavailable):
    """A remote source, such as a bucket, does not answer. Nothing is known of what it holds."""


class HookUnavailable(ServiceUnavailable):
    """A hook says that a service which it needs does not answer."""


class StoreUnavailable(ServiceUnavailable):
    """Qdrant does not answer, or asks to wait."""


class StoreTooSlow(StoreUnavailable):
    """Qdrant timed out on a request, which may have been carried out fully, partly or not."""


class StoreFull(StoreUnavailable):
    """Qdrant has no disk, memory or quota left. Nothing can be written until it has."""


class QueueFull(IngestqError):
    """The queue has reached its limit in jobs or bytes. Try again after ``retry_after`` seconds.

    If several jobs were offered, ``refused`` has the ids of those that were not queued, and
    ``documents`` the ids of their documents. The others are on the queue.
    """

    def __init__(
        self,
        retry_after: float,
        refused: frozenset[str] = frozenset(),
        documents: Sequence[str] = (),
    ) -> None:
        some = f", and {len(documents):,} of the documents were not queued" if documents else ""
        super().__init__(f"the queue is full{some}; try again in {retry_after:g} s")
        self.retry_after = retry_after
        self.refused = refused
        self.documents = tuple(documents)


class NotPermitted(IngestqError):
    """The caller's token does not allow this request. The message says what it allows."""


class KeyReused(IngestqError):
    """An idempotency key was already used for a different request. Use a new key."""


class UploadExpired(IngestqError):
    """A blob was written hours ago and its document cannot be queued any more. Upload it again.

    By its age the blob may be garbage that is about to be deleted; see
    `ingestq.broker.blobs.garbage`.
    """


class StoreRejected(IngestqError):
    """Qdrant refused a request for good; sending the same again changes nothing.

    The request may be too large or contain one bad item, so parts of it may still succeed.
    """


class ProcessEnd(StrEnum):
    """Why a pool process was replaced."""

    OUT_OF_MEMORY = "out_of_memory"
    PROCESSOR_TIME = "processor_time"
    TIME = "time"
    KILLED = "killed"
    CRASHED = "crashed"
    EXITED = "exited"
    POOL_BROKEN = "pool_broken"
    """All processes of its pool were replaced: they were killed, or cannot be reached."""


class PoolFailure(IngestqError):
    """A pool process died or hung during a task, and was replaced. The task may be tried again.

    ``end`` says why it was replaced; None if this process does not know.
    """

    def __init__(self, text: str, end: ProcessEnd | None = None) -> None:
        super().__init__(text)
        self.end = end


class PoolBroken(PoolFailure):
    """Pool processes died and were replaced; it is unknown whether a task was the cause."""


class LimitExceeded(PoolFailure):
    """A task needs more memory or processor time than its process may use.

    Trying again does not help: it would meet the same limit.
    """


class SourceFailed(IngestqError):
    """The source of a scheduled run does not exist, or failed before its end.

    The run fails and deletes nothing. Fix the source; the next run tries again.
    """


class DocumentRejected(IngestqError):
    """A document can never be processed. The message is the reason shown to the user.

    The document becomes a dead letter. Submit a corrected version.
    """


class HookFailed(DocumentRejected):
    """A hook raised an exception over a document, or returned something wrong.

    A note has the traceback, if the hook raised. Fix the hook, and requeue the document.
    """


class SourceChanged(IngestqError):
    """A file was changed or removed while it was read. The document is tried again."""


class SiteBusy(IngestqError):
    """So many pages of a web site wait already that this one has its turn in ``seconds``.

    It is no outage, and not counted as a try.
    """

    def __init__(self, message: str, seconds: float) -> None:
        super().__init__(message)
        self.seconds = seconds


class PageFailed(IngestqError):
    """A web site failed over one page: an error of its server, or an answer that broke off.

    The document is tried again, a limited number of times.
    """


class ContractError(IngestqError):
    """A payload on the queue is not a job that this version of ingestq can read.

    The job becomes a dead letter as it is. A newer worker may be able to process it: requeue it.
    """


class InvalidJob(ContractError):
    """A job of a known version has invalid documents: they exceed a limit, or have no content.

    No worker can process it, so it becomes a dead letter at once.
    """


def describe(error: BaseException) -> str:
    """Return the message of ``error`` as text that can be stored and shown."""
    return encodable(str(error) or type(error).__name__)


def in_one_line(error: BaseException) -> str:
    """Return the type of ``error``, a library's, and the first line of its message."""
    lines = str(error).strip().splitlines()
    return encodable(f"{type(error).__name__}: {lines[0] if lines else 'no message'}")


def encodable(text: str) -> str:
    """Return ``text`` with lone surrogates escaped. File names may hold them; no encoding does."""
    return text.encode(errors="backslashreplace").decode()


def expected_error(error: Exception) -> IngestqError | None:
    """Return ``error`` if it is one of ingestq's own, or the first of a group of only such errors.

    Returns None if ``error`` is, or contains, any other exception.
    """
    if isinstance(error, IngestqError):
        return error
    if isinstance(error, ExceptionGroup):
        found = [expected_error(part) for part in error.exceptions]
        return None if None in found else found[0]
    return None


class Failure(Enum):
    """The consequence of a failure for the job that met it."""

    UNAVAILABLE = "unavailable"
    """A service is away: retry for as long as it takes; not counted as a try."""
    TRANSIENT = "transient"
    """It may pass: retry a limited number of times."""
    PERMANENT = "permanent"
    """It never passes: dead-letter the document with its reason."""
    FATAL = "fatal"
    """The worker itself is set up wrongly: return the job to the queue and stop the worker."""


def classify(error: BaseException) -> Failure:
    """Return what ``error`` means for the job that met it.

    An unexpected error counts as transient: it is retried a limited number of times and then
    dead-lettered, so it is neither lost nor repeated for ever.
    """
    match error:
        case ServiceUnavailable() | QueueFull() | SiteBusy():
            return Failure.UNAVAILABLE
        case DocumentRejected() | ContractError() | StoreRejected():
            return Failure.PERMANENT
        case UsageError():
            return Failure.FATAL
        case _:  # also SourceChanged
            return Failure.TRANSIENT


class Cause(StrEnum):
    """The class of the reason why a document, a job or a request failed: one of a few, for metrics.

    The reason itself is a text for the user.
    """

    DOCUMENT = "document"
    """The document itself: it is damaged, encrypted, too large, no text."""
    LIMIT = "limit"
    """It needs more memory or time than a process may use."""
    PROCESS_DIED = "process_died"
    """A pool process died or hung over it."""
    WORKER_DIED = "worker_died"
    """Workers died over it."""
    SOURCE_CHANGED = "source_changed"
    UNORDERED = "unordered"
    """Its version and the indexed one cannot be compared."""
    OVERTAKEN = "overtaken"
    """Another worker changed the document at the same time."""
    SCAN_RUNNING = "scan_running"
    """A folder is swept once the documents of its scan are finished."""
    HELD_BACK = "held_back"
    """The mass-deletion guard keeps it."""
    UNKNOWN_JOB = "unknown_job"
    """This version cannot read the job, or has no function for it."""
    ABORTED = "aborted"
    STOPPING = "stopping"
    """The worker stops."""
    REDIS = "redis"
    QDRANT = "qdrant"
    QDRANT_SLOW = "qdrant_slow"
    QDRANT_FULL = "qdrant_full"
    QDRANT_REFUSED = "qdrant_refused"
    EMBEDDINGS_ENDPOINT = "embeddings_endpoint"
    RERANKER = "reranker"
    BLOB_STORE = "blob_store"
    REMOTE_SOURCE = "remote_source"
    """A bucket or other remote source does not answer."""
    HOOK = "hook"
    """A hook failed, or what it needs is away."""
    QUEUE_FULL = "queue_full"
    COLLECTION_MISSING = "collection_missing"
    """There is no such collection, or not any more."""
    SETTINGS = "settings"
    UNEXPECTED = "unexpected"


CAUSES: Final[tuple[tuple[type[IngestqError], Cause], ...]] = (
    (BrokerUnavailable, Cause.REDIS),
    (BlobStoreUnavailable, Cause.BLOB_STORE),
    (EmbedderUnavailable, Cause.EMBEDDINGS_ENDPOINT),
    (RemoteUnavailable, Cause.REMOTE_SOURCE),
    (SiteBusy, Cause.REMOTE_SOURCE),
    (PageFailed, Cause.REMOTE_SOURCE),
    (RerankerUnavailable, Cause.RERANKER),
    (HookUnavailable, Cause.HOOK),
    (StoreTooSlow, Cause.QDRANT_SLOW),
    (StoreFull, Cause.QDRANT_FULL),
    (StoreUnavailable, Cause.QDRANT),
    (StoreRejected, Cause.QDRANT_REFUSED),
    (QueueFull, Cause.QUEUE_FULL),
    (LimitExceeded, Cause.LIMIT),
    (PoolFailure, Cause.PROCESS_DIED),
    (SourceChanged, Cause.SOURCE_CHANGED),
    (ContractError, Cause.UNKNOWN_JOB),
    (CollectionMissing, Cause.COLLECTION_MISSING),
    (UsageError, Cause.SETTINGS),
    (HookFailed, Cause.HOOK),
    (DocumentRejected, Cause.DOCUMENT),
)
"""The class of the reason of each error; subclasses stand before their bases."""


def cause_of(error: BaseException) -> Cause:
    """Return the class of the reason that ``error`` gives.

    A document that is rejected because of what its processes did has their cause.
    """
    if isinstance(error, DocumentRejected) and isinstance(error.__cause__, PoolFailure):
        return cause_of(error.__cause__)
    return next((cause for kind, cause in CAUSES if isinstance(error, kind)), Cause.UNEXPECTED)
