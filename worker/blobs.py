"""Blobs in a worker: gives parse processes a file to read, and collects garbage."""

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

log = structlog.get_logger()


class BlobContents:
    """Reads documents from ``blobs``, up to ``max_bytes`` each. Without a store, rejects blobs."""

    def __init__(self, blobs: BlobStore | None = None, max_bytes: int = 0) -> None:
        self._blobs = blobs
        self._max_bytes = max_bytes

    @asynccontextmanager
    async def as_file(self, document: Document) -> AsyncIterator[Document]:
        """Yield ``document`` with a path in place of a blob, which is readable while inside.

        A document without a blob is yielded as it is. Raises DocumentRejected if the blob is
        missing or too large, and what `BlobStore` raises if the store is unavailable.
        """
        if document.blob is None:
            yield document
            return
        if self._blobs is None:
            raise DocumentRejected("its content is in a blob store, but this worker has none")
        size = await self._blobs.size(document.blob)
        if size > self._max_bytes:  # before it is copied
            raise DocumentRejected(too_large(size, self._max_bytes))
        async with self._blobs.as_file(document.blob) as path:
            yield msgspec.structs.replace(document, blob=None, path=path_to_text(path))


COLLECT_SECONDS: Final = 3600.0
"""How often garbage is collected; a blob is garbage only after some hours."""


def garbage_collection(garbage: GarbageCollector) -> Service:
    """Return a service that collects garbage when it starts, and then every hour."""
    return Service(partial(_collect_until, garbage), name="collect garbage in the blob store")


async def _collect_until(garbage: GarbageCollector, stopping: asyncio.Event) -> None:
    while not stopping.is_set():
        try:
            removed = await garbage.collect()
        except (ServiceUnavailable, UsageError) as error:
            log.warning(events.BLOBS_NOT_COLLECTED, error=str(error))
        else:
            if removed:
                log.info(events.BLOBS_COLLECTED, objects=removed)
        await happens_within(stopping, COLLECT_SECONDS)
