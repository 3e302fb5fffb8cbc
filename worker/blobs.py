"""Blobs in a worker: gives parse processes a file to read."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec

from ingestq.broker.blobs.store import BlobStore
from ingestq.core.documents import Document
from ingestq.core.errors import BlobStoreUnavailable, DocumentRejected
from ingestq.core.outages import note_answer
from ingestq.core.paths import path_to_text
from ingestq.core.tracing import span
from worker.text.content import too_large


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
        async with AsyncExitStack() as opened:
            with span("read blob", "client", {}):
                size = await self._blobs.size(document.blob)
                if size > self._max_bytes:  # before it is copied
                    raise DocumentRejected(too_large(size, self._max_bytes))
                path = await opened.enter_async_context(self._blobs.as_file(document.blob))
            note_answer(BlobStoreUnavailable)
            yield msgspec.structs.replace(document, blob=None, path=path_to_text(path))
