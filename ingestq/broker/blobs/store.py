"""What a blob store can do, and how blobs are deleted with the jobs that named them."""

from collections.abc import AsyncIterable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Final, Protocol

import structlog

from ingestq.core import events
from ingestq.core.errors import BlobStoreUnavailable, ContractError, DocumentRejected, UsageError
from ingestq.core.jobs import blobs_in

UNFINISHED: Final = ".part"
"""What the name of an object ends with while it is written."""


class BlobStore(Protocol):
    """A place for objects; see `ingestq.core.blobs` for what they are called.

    Every method raises SpoolUnavailable if the place cannot be used, and UsageError if it can be
    used by nobody who is set up like this.
    """

    async def put(self, name: str, parts: AsyncIterable[bytes]) -> None:
        """Write an object; durable on return. There is a whole one or none, whatever happens.

        Raises what ``parts`` raises.
        """
        ...

    async def size(self, name: str) -> int:
        """How many bytes an object has. Raises DocumentRejected if it is not there."""
        ...

    def at_hand(self, name: str) -> AbstractAsyncContextManager[Path]:
        """A file that has the content of an object, as long as inside; nobody may change it.

        Raises DocumentRejected if the object is not there.
        """
        ...

    async def remove(self, names: Iterable[str]) -> None:
        """Remove objects; those that are gone already are fine."""
        ...

    async def names(self, space: str) -> list[str]:
        """What there is in a space: names of objects, of unfinished ones with their ending."""
        ...


def missing(name: str) -> DocumentRejected:
    """Why the document of an object that is not there cannot be read."""
    return DocumentRejected(
        f"its content {name} is not in the blob store any more, or not in this worker's "
        "(INGESTQ_BLOB_URL)"
    )


log = structlog.get_logger()


async def delete_unnamed_blobs(
    blobs: BlobStore | None, payloads: Iterable[bytes], kept: Iterable[bytes] = ()
) -> None:
    """Remove the objects that ``payloads`` name, but those that others which are ``kept`` name.

    To be called when Redis has forgotten them, never before. What cannot be removed now is left
    over: see `ingestq.broker.blobs.garbage`.
    """
    if blobs is None:
        return
    names = sorted(_objects(payloads) - _objects(kept))
    await delete_blobs(blobs, names)


async def delete_blobs(blobs: BlobStore, names: Sequence[str]) -> None:
    """Remove objects that nobody names; a failure is only logged."""
    try:
        await blobs.remove(names)
    except (BlobStoreUnavailable, UsageError) as error:
        log.warning(events.BLOBS_LEFT, objects=len(names), error=str(error))


def _objects(payloads: Iterable[bytes]) -> frozenset[str]:
    names: set[str] = set()
    for payload in payloads:
        try:
            names |= blobs_in(payload)
        except ContractError:
            continue  # of another version: nobody knows what it names
    return frozenset(names)
