"""The interface of blob stores, and the deletion of blobs along with their jobs."""

from collections.abc import AsyncIterable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Final, Protocol

import structlog

from ingestq.core import events
from ingestq.core.errors import BlobStoreUnavailable, ContractError, DocumentRejected, UsageError
from ingestq.core.jobs import blobs_in

log = structlog.get_logger()

UNFINISHED: Final = ".part"
"""Suffix of a blob's name while the blob is being written."""

BLOB_FIELD: Final = b"blob"
"""Occurs in the payload of every job that refers to a blob: the name of a document's field."""


class BlobStore(Protocol):
    """Stores blobs by name; see `ingestq.core.blobs` for the names.

    Every method raises BlobStoreUnavailable if the store cannot be used at the moment, and
    UsageError if it can never be used with these settings.
    """

    async def put(self, name: str, parts: AsyncIterable[bytes]) -> None:
        """Write a blob, which is durable on return.

        Whatever happens, there is either a complete blob of this name or none. Raises whatever
        ``parts`` raises.
        """
        ...

    async def size(self, name: str) -> int:
        """Return the size of a blob in bytes. Raises DocumentRejected if there is none."""
        ...

    def as_file(self, name: str) -> AbstractAsyncContextManager[Path]:
        """Yield the path of a file with the content of a blob. It must not be changed.

        The file may be gone on leaving. Raises DocumentRejected if there is no such blob.
        """
        ...

    async def delete(self, names: Iterable[str]) -> None:
        """Delete blobs, ignoring those that do not exist."""
        ...

    async def names(self, space: str) -> list[str]:
        """Return the names of all blobs in a space; unfinished ones end with UNFINISHED."""
        ...


def missing(name: str) -> DocumentRejected:
    """Return the error for a document whose blob does not exist."""
    return DocumentRejected(
        f"its content {name} is not in the blob store any more, or not in this worker's "
        "(INGESTQ_BLOB_URL)"
    )


async def delete_blobs_of(
    blobs: BlobStore | None, payloads: Iterable[bytes], kept: Iterable[bytes] = ()
) -> None:
    """Delete the blobs to which ``payloads`` refer, except those to which ``kept`` refer, too.

    Call it after the payloads are gone from Redis, never before. Blobs that cannot be deleted now
    are garbage: see `ingestq.broker.blobs.garbage`.
    """
    if blobs is None:
        return
    names = _names(payloads) - _names(kept)
    if names:
        await delete_blobs(blobs, sorted(names))


async def delete_blobs(blobs: BlobStore, names: Sequence[str]) -> None:
    """Delete blobs to which nothing refers. If that fails it is only logged: they are garbage."""
    try:
        await blobs.delete(names)
    except (BlobStoreUnavailable, UsageError) as error:
        log.warning(events.BLOBS_NOT_DELETED, objects=len(names), error=str(error))


def _names(payloads: Iterable[bytes]) -> frozenset[str]:
    names: set[str] = set()
    for payload in payloads:
        if BLOB_FIELD not in payload:  # most have none: they need not be decoded
            continue
        try:
            names |= blobs_in(payload)
        except ContractError:
            continue  # of another version: its blobs are unknown
    return frozenset(names)
