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
│   └── StoreUnavailable        Qdrant
│       ├── StoreTooSlow        it timed out on this request; a smaller one may pass
│       └── StoreFull           it has no disk, memory or quota left
├── QueueFull                   the queue has reached its limit: try again later
├── KeyReused                   an idempotency key was used before, with another request
├── UploadExpired               a blob waited too long to be queued: upload it again
├── DocumentRejected            this document can never be processed, by any worker
├── SourceChanged               a file changed while it was read
├── SourceFailed                a scheduled source is missing, or failed before its end
├── StoreRejected               Qdrant will never accept this request
├── PoolFailure                 a pool process died or hung during a task
│   └── PoolBroken              pool processes died, and no task can be blamed
└── ContractError               bytes on the queue that this version cannot read as a job
"""

import re
from enum import Enum


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


class BlobStoreUnavailable(ServiceUnavailable):
    """The blob store cannot be reached, is full, or refuses access."""


class StoreUnavailable(ServiceUnavailable):
    """Qdrant does not answer, or asks to wait."""


class StoreTooSlow(StoreUnavailable):
    """Qdrant timed out on a request, which may have been carried out fully, partly or not."""


class StoreFull(StoreUnavailable):
    """Qdrant has no disk, memory or quota left. Nothing can be written until it has."""


class QueueFull(IngestqError):
    """The queue has reached its limit in jobs or bytes. Try again after ``retry_after`` seconds.

    If several jobs were offered, ``refused`` has the ids of those that were not queued.
    """

    def __init__(self, retry_after: float, refused: frozenset[str] = frozenset()) -> None:
        super().__init__(f"the queue is full; try again in {retry_after:g} s")
        self.retry_after = retry_after
        self.refused = refused


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


class PoolFailure(IngestqError):
    """A pool process died or hung during a task, and was replaced. The task may be tried again."""


class PoolBroken(PoolFailure):
    """Pool processes died and were replaced; it is unknown whether a task was the cause."""


class SourceFailed(IngestqError):
    """The source of a scheduled run does not exist, or failed before its end.

    The run fails and deletes nothing. Fix the source; the next run tries again.
    """


class DocumentRejected(IngestqError):
    """A document can never be processed. The message is the reason shown to the user.

    The document becomes a dead letter. Submit a corrected version.
    """


class SourceChanged(IngestqError):
    """A file was changed or removed while it was read. The document is tried again."""


class ContractError(IngestqError):
    """A payload on the queue is not a job that this version of ingestq can read.

    The job becomes a dead letter as it is. A newer worker may be able to process it: requeue it.
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


def public_url(url: str) -> str:
    """Return ``url`` for messages, without passwords, tokens and the values of its query.

    Everything before the last "@" counts as credentials, even if it is not a valid user and
    password: an unescaped password may contain any character.
    """
    scheme, separator, rest = url.partition("//")
    if not separator or "/" in scheme:
        scheme, separator, rest = "", "", url
    credentials, at, place = rest.rpartition("@")
    if at and not separator and "/" in credentials:
        return url  # the path of a folder
    if at:
        user, colon, _ = credentials.partition(":")
        place = f"{user}:***@{place}" if colon else f"***@{place}"
    place = re.sub(r"([?&][^=&#]*)=[^&#]*", r"\1=***", place)
    return f"{scheme}{separator}{place}"


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
        case ServiceUnavailable() | QueueFull():
            return Failure.UNAVAILABLE
        case DocumentRejected() | ContractError() | StoreRejected():
            return Failure.PERMANENT
        case UsageError():
            return Failure.FATAL
        case _:  # also SourceChanged
            return Failure.TRANSIENT
