"""The content of a document that came through the spool, as the pool's children can read it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from broker.contract import Document
from broker.errors import DocumentRejected
from broker.paths import path_to_text
from broker.spool.store import Spool
from worker.prepare import too_large


class SpooledContents:
    """What is in ``spool``, up to ``max_bytes`` of a document; without one, nothing is."""

    def __init__(self, spool: Spool | None = None, max_bytes: int = 0) -> None:
        self._spool = spool
        self._max_bytes = max_bytes

    @asynccontextmanager
    async def at_hand(self, document: Document) -> AsyncIterator[Document]:
        """``document`` with a path, as long as inside, if its content is in the spool.

        Raises DocumentRejected if it is not there or too large, SpoolUnavailable, and UsageError.
        """
        if document.spooled is None:
            yield document
            return
        if self._spool is None:
            raise DocumentRejected("its content is in a spool, and this worker has none")
        size = await self._spool.size(document.spooled)
        if size > self._max_bytes:  # before it is copied
            raise DocumentRejected(too_large(size, self._max_bytes))
        async with self._spool.at_hand(document.spooled) as path:
            yield msgspec.structs.replace(document, spooled=None, path=path_to_text(path))
