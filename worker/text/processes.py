"""Parse processes, as the worker sees them: a slow parser never holds up embedding."""

from collections.abc import Callable
from functools import partial
from typing import Final, ParamSpec, TypeVar

import structlog

from ingestq.core import events
from ingestq.core.documents import Document, Lane
from ingestq.core.errors import DocumentRejected, PoolBroken, PoolFailure
from worker.lanes import LanePermits
from worker.process_pool import Processes, retry_once
from worker.text import process as preparing
from worker.text.parts import (
    PreparedDocument,
    Segment,
    SegmentStart,
    SparseVector,
    UnchangedContent,
)
from worker.text.process import ParseConfig

log = structlog.get_logger()

PREPARE_SECONDS: Final = 1800.0
"""A parser that takes longer hangs; the child is killed and the document counted as failed."""
QUERY_SECONDS: Final = 60.0
DOCUMENTS_PER_PROCESS: Final = 10_000
"""Then it is replaced, so that memory a parser does not give back is bounded."""

P = ParamSpec("P")
T = TypeVar("T")


class ParseProcesses:
    """``count`` processes that read, parse and cut documents; the first one starts them."""

    def __init__(self, count: int, config: ParseConfig, max_document_bytes: int) -> None:
        self._max_document_bytes = max_document_bytes
        # No child has a queue of its own: an upload waits for one document of bulk work, not many.
        self._free = LanePermits(count, bulk=count)
        self._processes = Processes(
            count, preparing.initialize, (config,), max_tasks=DOCUMENTS_PER_PROCESS
        )

    async def prepare(
        self, lane: Lane, document: Document, known_hash: str | None
    ) -> PreparedDocument | UnchangedContent:
        """See `worker.text.prepare.prepare`.

        Raises DocumentRejected also if a child died over it twice in a row, and PoolFailure if
        twice in a row nobody knows what the children died of.
        """
        limit = self._max_document_bytes
        return await self._prepare(
            lane, partial(preparing.prepare_document, document, known_hash, limit)
        )

    async def prepare_rest(self, lane: Lane, document: Document, rest: SegmentStart) -> Segment:
        """See `worker.text.prepare.prepare_rest`; raises as `prepare` does."""
        return await self._prepare(lane, partial(preparing.prepare_rest, document, rest))

    async def _prepare(self, lane: Lane, task: Callable[[], T]) -> T:
        try:
            return await self._run(lane, PREPARE_SECONDS, task)
        except PoolFailure as first:  # anybody may have killed it
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
            partial(self._run, Lane.INTERACTIVE, QUERY_SECONDS, preparing.encode_query, text)
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
