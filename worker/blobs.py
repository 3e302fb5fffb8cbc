"""Blobs in the worker: content that parse processes can read, and garbage collection."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import msgspec
import structlog

from ingestq.broker.blobs.garbage import GarbageCollector
from ingestq.broker.blobs.store import BlobStore
from ingestq.core import events
from ingestq.core.documents import Document
from ingestq.core.errors import DocumentRejected, ServiceUnavailable, UsageError
from ingestq.core.paths import path_to_text
from ingestq.core.service import Service, happens_within
from worker.text.content import too_large


class BlobContents:
    """What is in ``blobs``, up to ``max_bytes`` of a document; without one, nothing is."""

    def __init__(self, blobs: BlobStore | None = None, max_bytes: int = 0) -> None:
        self._blobs = blobs
        self._max_bytes = max_bytes

    @asynccontextmanager
    async def at_hand(self, document: Document) -> AsyncIterator[Document]:
        """Give ``document`` a path, as long as inside, if its content is in the blob store.

        Raises DocumentRejected if it is not there or too large, SpoolUnavailable, and UsageError.
        """
        if document.blob is None:
            yield document
            return
        if self._blobs is None:
            raise DocumentRejected("its content is in a blob store, and this worker has none")
        size = await self._blobs.size(document.blob)
        if size > self._max_bytes:  # before it is copied
            raise DocumentRejected(too_large(size, self._max_bytes))
        async with self._blobs.as_file(document.blob) as path:
            yield msgspec.structs.replace(document, blob=None, path=path_to_text(path))


log = structlog.get_logger()

CLEAN_SECONDS: Final = 3600.0
"""How often it is looked for objects that are left over; they are hours old by then."""


def cleaning(leftovers: GarbageCollector) -> Service:
    """Return a service that removes ``leftovers`` now and then."""
    return Service(partial(_clean_until, leftovers), name="clean the blob store")


async def _clean_until(leftovers: GarbageCollector, stopping: asyncio.Event) -> None:
    while not stopping.is_set():
        try:
            removed = await leftovers.collect()
        except (ServiceUnavailable, UsageError) as error:
            log.warning(events.BLOBS_NOT_COLLECTED, error=str(error))
        else:
            if removed:
                log.info(events.BLOBS_COLLECTED, objects=removed)
        await happens_within(stopping, CLEAN_SECONDS)
