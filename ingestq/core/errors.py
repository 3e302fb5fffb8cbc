"""Every error ingestq raises on purpose, and the one place that knows what is retryable.

IngestqError
├── UsageError            wrong setting or request: the user has to change something (exit 2)
│   ├── ModelUnavailable  the embedding model cannot be loaded
│   ├── CollectionMismatch  the collection was built another way than this worker would write
│   ├── WrongQuestion     the collection cannot be searched that way
│   └── CollectionMissing the collection that was opened is not there any more
├── ServiceUnavailable    a service does not answer: the same request may succeed later (exit 3)
│   ├── BrokerUnavailable Redis
│   ├── EmbedderUnavailable  the endpoint that makes vectors
│   ├── SpoolUnavailable  the place where large content is kept
│   └── StoreUnavailable  Qdrant
│       ├── StoreTooSlow  it ran out of time over this request; half of it may pass
│       └── StoreFull     it has no room: nothing can be written before somebody makes some
├── QueueFull             the queue has reached its bound: offer the work again later
├── KeyReused             an idempotency key came with another request before
├── UploadExpired         content lay in the blob store for too long before it was to be queued
├── StoreRejected         Qdrant will never accept this request; a part of it, it may
├── PoolFailure           a process of the pool died or hung over a task
│   └── PoolBroken        the processes of the pool died, over this task or not
├── SourceFailed          what is to be indexed on a schedule cannot be read to its end
├── DocumentRejected      this document can never be processed, whoever tries
├── SourceChanged         a file became another one while it was read
└── ContractError         bytes from the queue that are not a job of a known version
"""

import re
from enum import Enum


class IngestqError(Exception):
    """Base of all errors that ingestq raises; its text is written for the user."""


class UsageError(IngestqError):
    """A setting or a request is wrong; the text says which one and what is allowed."""


class ModelUnavailable(UsageError):
    """The embedding model does not exist or cannot be loaded."""


class CollectionMismatch(UsageError):
    """The collection in Qdrant was built with another model or chunking than is configured."""


class InvalidQuery(UsageError):
    """The collection cannot be searched in the way that was asked for."""


class CollectionMissing(UsageError):
    """The collection, or its ledger, was deleted while it was in use.

    Not an error of the document that met it: every other one would meet it, too.
    """


class ServiceUnavailable(IngestqError):
    """A service does not answer at the moment.

    ``retry_after`` is for how many seconds it asks to be left alone; None if it does not say.
    """

    def __init__(self, text: str, retry_after: float | None = None) -> None:
        super().__init__(text)
        self.retry_after = retry_after


class BrokerUnavailable(ServiceUnavailable):
    """Redis does not answer, or refuses writes."""


class EmbedderUnavailable(ServiceUnavailable):
    """The embeddings endpoint does not answer, or asks to be left alone for a while."""


class BlobStoreUnavailable(ServiceUnavailable):
    """The blob store cannot be reached, has no room, or refuses us."""


class StoreUnavailable(ServiceUnavailable):
    """Qdrant does not answer, or asks to be left alone for a while."""


class StoreTooSlow(StoreUnavailable):
    """Qdrant ran out of time over a request: it may have been carried out, or half of it may be."""


class StoreFull(StoreUnavailable):
    """Qdrant has no disk, memory or quota left for what is written."""


class QueueFull(IngestqError):
    """The queue has reached its bound in jobs or bytes.

    Of several jobs those that are ``refused``, by their ids, were not put on it.
    """

    def __init__(self, retry_after: float, refused: frozenset[str] = frozenset()) -> None:
        super().__init__(f"the queue is full; try again in {retry_after:g} s")
        self.retry_after = retry_after
        self.refused = refused


class KeyReused(IngestqError):
    """An idempotency key was sent before, with something else."""


class UploadExpired(IngestqError):
    """Content lay in the blob store for so long that its document is not let on the queue any more.

    What is left over there is told by its age, see `ingestq.broker.blobs.garbage`.
    """


class StoreRejected(IngestqError):
    """Qdrant refused a request for good: sending it again changes nothing.

    It may be too large, or ask for one thing too many: see `worker.store.client.ask_in_parts`.
    """


class PoolFailure(IngestqError):
    """A process of the pool died or hung over a task; it was replaced."""


class PoolBroken(PoolFailure):
    """The processes of the pool died, and nobody knows of which task; they were replaced."""


class SourceFailed(IngestqError):
    """What is to be indexed on a schedule is not there, or failed before its end."""


class DocumentRejected(IngestqError):
    """A document can never be processed; the text is the reason shown to the user."""


class SourceChanged(IngestqError):
    """A file was changed, or removed, between the readings of two of its parts."""


class ContractError(IngestqError):
    """A payload on the queue is not a job of a version this worker knows."""


def describe(error: BaseException) -> str:
    """The reason to be shown and stored: what ``error`` says, as text that can be encoded."""
    return encodable(str(error) or type(error).__name__)


def in_one_line(error: BaseException) -> str:
    """What a library's ``error`` is, and the first line of what it says."""
    lines = str(error).strip().splitlines()
    return encodable(f"{type(error).__name__}: {lines[0] if lines else 'it says no more'}")


def encodable(text: str) -> str:
    """``text`` without lone surrogates, which no encoding has; file names may hold them."""
    return text.encode(errors="backslashreplace").decode()


def public_url(url: str) -> str:
    """Return ``url`` for messages, without passwords, tokens and the values of its query.

    Everything before the last "@" counts as credentials, even if it is not a valid user and
    password: an unescaped password may contain any character.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, rest = "", url
    credentials, at, place = rest.rpartition("@")
    if at and not separator and "/" in credentials:
        return url  # the path of a folder
    if at:
        user, colon, _ = credentials.partition(":")
        place = f"{user}:***@{place}" if colon else f"***@{place}"
    place = re.sub(r"([?&][^=&#]*)=[^&#]*", r"\1=***", place)
    return f"{scheme}{separator}{place}"


def foreseen(error: Exception) -> IngestqError | None:
    """The first of our own errors in ``error``, if there is nothing else in it."""
    if isinstance(error, IngestqError):
        return error
    if isinstance(error, ExceptionGroup):
        found = [foreseen(part) for part in error.exceptions]
        return None if None in found else found[0]
    return None


class Failure(Enum):
    """What a failure means for the job that met it."""

    UNAVAILABLE = "unavailable"
    """A service is away: try again as long as it takes, without counting."""
    TRANSIENT = "transient"
    """May pass: try again a bounded number of times."""
    PERMANENT = "permanent"
    """Never passes: bury the document with its reason."""
    FATAL = "fatal"
    """The worker itself is set up wrongly: put the job back and stop the worker."""


def classify(error: BaseException) -> Failure:
    """Say what ``error`` means for the job that met it.

    An error nobody foresaw counts as transient: it is tried again a bounded number of times
    and then buried, so it is neither lost nor repeated for ever.
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
