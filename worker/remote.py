"""Remote objects in a worker: gives parse processes a copy to read, or lets them read by ranges."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

import msgspec

from ingestq.core.documents import Document
from ingestq.core.errors import DocumentRejected, RemoteUnavailable, SourceChanged
from ingestq.core.limits import REMOTE_COPY_BYTES
from ingestq.core.outages import note_answer
from ingestq.core.paths import BLOB_PREFIX, object_state, path_to_text
from ingestq.core.tracing import span
from worker.pipeline.ports import Contents
from worker.text.content import too_large

P = ParamSpec("P")
T = TypeVar("T")

FETCHES: Final = 32
"""Objects that are fetched at the same time. A store answers in some 50 ms, whatever the size."""


class RemoteContents:
    """Reads documents from remote stores, up to ``max_bytes`` each, and all others from ``local``.

    Objects of up to ``copy_bytes`` are copied to the temporary directory, at most as many at a time
    as there are documents in work. Parse processes read larger ones by ranges, without a copy.
    """

    def __init__(
        self, local: Contents, max_bytes: int, copy_bytes: int = REMOTE_COPY_BYTES
    ) -> None:
        self._local = local
        self._max_bytes = max_bytes
        self._copy_bytes = copy_bytes

    @asynccontextmanager
    async def as_file(self, document: Document) -> AsyncIterator[Document]:
        """Yield ``document`` as a parse process can read it while inside.

        Its ``file`` is the state of the object that was read, which may be newer than the one that
        was listed. Raises DocumentRejected if the object is gone, too large, may not be read, or
        this worker lacks the package for it, SourceChanged if it changes meanwhile, and
        RemoteUnavailable if the store does not answer.
        """
        if document.url is None:
            async with self._local.as_file(document) as content:
                yield content
            return
        with tempfile.TemporaryDirectory(prefix=BLOB_PREFIX) as folder:
            with span("read object", "client", {}):
                content = await self._do(_fetch, document, Path(folder), self._limits)
            note_answer(RemoteUnavailable)
            yield content

    @property
    def _limits(self) -> tuple[int, int]:
        return self._max_bytes, self._copy_bytes

    @cached_property
    def _threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(FETCHES, "fetching")

    async def _do(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, partial(function, *args, **kwargs))


def _fetch(document: Document, folder: Path, limits: tuple[int, int]) -> Document:
    """Copy the object of ``document`` into ``folder`` unless it is too large for that. Blocks."""
    from ingestq.client.object_store import open_object

    assert document.url is not None, "the caller has checked it"
    max_bytes, copy_bytes = limits
    copy = folder / "content"
    with open_object(document.url) as found:
        if found.size is not None and found.size > max_bytes:
            raise DocumentRejected(too_large(found.size, max_bytes))
        state = object_state(document, found.size, found.tag)
        if found.size is not None and found.size > copy_bytes:
            return msgspec.structs.replace(document, file=state)
        size = 0
        for block in found.blocks:
            size += len(block)
            if size > max_bytes:
                raise DocumentRejected(too_large(size, max_bytes))
            _append(copy, block)
        if not size:
            _append(copy, b"")
        if found.size is not None and size != found.size:
            raise SourceChanged("the object was changed while it was read")
    return msgspec.structs.replace(document, url=None, path=path_to_text(copy), file=state)


def _append(copy: Path, block: bytes) -> None:
    """Append to a copy. Raises RemoteUnavailable: there may be space once others are done."""
    try:
        with copy.open("ab") as file:
            file.write(block)
    except OSError as error:
        raise RemoteUnavailable(
            f"no copy of a remote object can be written to {copy.parent.parent} "
            f"({error.strerror}); free some space there, set TMPDIR to another folder, or lower "
            "INGESTQ_REMOTE_COPY_BYTES"
        ) from error
