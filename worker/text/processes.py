"""Parse processes: they read, parse and chunk documents, so a slow parser never delays embedding.

The first half of this module is the worker's side, the second half runs in the processes. The
second half imports parsers and tokenizers inside its functions, because the worker must not load
them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar

import structlog

from ingestq.core import events
from ingestq.core.documents import Document, Lane
from ingestq.core.errors import DocumentRejected, PoolBroken, PoolFailure
from worker.lanes import LanePermits
from worker.process_pool import Processes, become_pool_process, retry_once
from worker.text.parts import (
    PreparedDocument,
    Segment,
    SegmentStart,
    SparseVector,
    UnchangedContent,
)

if TYPE_CHECKING:
    from worker.text.bm25 import SparseEncoder
    from worker.text.chunker import Chunker

log = structlog.get_logger()

PREPARE_SECONDS: Final = 1800.0
"""A parser that takes longer hangs: its process is killed, and the document counts as failed."""
QUERY_SECONDS: Final = 60.0
DOCUMENTS_PER_PROCESS: Final = 10_000
"""A process is replaced after this many, which bounds the memory that parsers leak."""

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class ParseConfig:
    """How to chunk: into at most ``max_tokens`` tokens of the ``tokenizer`` (a file).

    Chunks get sparse vectors if the collection is ``hybrid``.
    """

    tokenizer: Path
    max_tokens: int
    hybrid: bool


class ParseProcesses:
    """``count`` processes that read, parse and chunk documents. The first document starts them."""

    def __init__(self, count: int, config: ParseConfig, max_document_bytes: int) -> None:
        self._max_document_bytes = max_document_bytes
        # One document per process and none queued: an upload waits for one bulk document, not many.
        self._free = LanePermits(count, bulk=count)
        self._processes = Processes(count, initialize, (config,), max_tasks=DOCUMENTS_PER_PROCESS)

    async def prepare(
        self, lane: Lane, document: Document, known_hash: str | None
    ) -> PreparedDocument | UnchangedContent:
        """Read, parse and chunk ``document``; see `worker.text.prepare.prepare`.

        Also raises DocumentRejected if a process died over it twice in a row, and PoolFailure if
        processes died twice in a row and it is unknown over which document.
        """
        limit = self._max_document_bytes
        return await self._run_twice(lane, partial(prepare_document, document, known_hash, limit))

    async def prepare_rest(self, lane: Lane, document: Document, rest: SegmentStart) -> Segment:
        """Read and chunk the next segment; see `worker.text.prepare.prepare_rest`.

        Also raises what `prepare` raises.
        """
        return await self._run_twice(lane, partial(prepare_segment, document, rest))

    async def _run_twice(self, lane: Lane, task: Callable[[], T]) -> T:
        """Run ``task``, and once more if its process died: another task may have killed it."""
        try:
            return await self._run(lane, PREPARE_SECONDS, task)
        except PoolFailure as first:
            log.warning(events.CHILD_FAILED, error=str(first))
            try:
                return await self._run(lane, PREPARE_SECONDS, task)
            except PoolBroken:
                raise
            except PoolFailure as second:
                if isinstance(first, PoolBroken):
                    raise
                raise DocumentRejected(f"twice, {second}") from second

    async def encode_query(self, text: str) -> SparseVector:
        """Return the sparse vector of a search query."""
        return await retry_once(
            partial(self._run, Lane.INTERACTIVE, QUERY_SECONDS, encode_query, text)
        )

    async def stop(self) -> None:
        """End the processes at once. Stopping twice, or before starting, is fine."""
        await self._processes.stop()

    async def _run(
        self,
        lane: Lane,
        seconds: float,
        function: Callable[P, T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        async with self._free.hold(lane):
            return await self._processes.run(seconds, function, *args, **kwargs)


# From here on: what runs in the processes.

_chunker: "Chunker"
_sparse: "SparseEncoder"
_hybrid: bool


def initialize(config: ParseConfig) -> None:
    """Load the tokenizer and the BM25 encoder; no model is needed."""
    global _chunker, _sparse, _hybrid
    become_pool_process()
    from worker.text.bm25 import SparseEncoder
    from worker.text.chunker import Chunker

    _hybrid = config.hybrid
    _sparse = SparseEncoder()
    _chunker = Chunker(config.tokenizer.read_text(encoding="utf-8"), config.max_tokens)


def prepare_document(
    document: Document, known_hash: str | None, max_bytes: int
) -> PreparedDocument | UnchangedContent:
    """See `worker.text.prepare.prepare`."""
    from worker.text.prepare import prepare

    encode = _sparse.document if _hybrid else None
    return prepare(document, known_hash, max_bytes, _chunker, encode)


def prepare_segment(document: Document, place: SegmentStart) -> Segment:
    """See `worker.text.prepare.prepare_rest`."""
    from worker.text.prepare import prepare_rest

    return prepare_rest(document, place, _chunker, _sparse.document if _hybrid else None)


def encode_query(text: str) -> SparseVector:
    """Return the sparse vector of a search query."""
    return _sparse.query(text)
