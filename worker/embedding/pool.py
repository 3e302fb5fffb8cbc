"""The models, in processes: parsing, chunking and embedding never happen on the event loop."""

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final, ParamSpec, Self, TypeVar

import numpy as np
import numpy.typing as npt
import structlog

from broker import events
from broker.contract import Document, Lane
from broker.errors import DocumentRejected, ModelUnavailable, PoolBroken, PoolFailure
from worker.embedding import child
from worker.embedding.models import DEFAULT_MODEL, ModelInfo
from worker.embedding.processes import START_SECONDS, Processes
from worker.lanes import LanePermits
from worker.points import QueryVectors
from worker.prepare import Prepared, Unprepared

log = structlog.get_logger()

TASK_CHUNKS: Final = 32
"""Chunks handed to a child at once: a second or two of work, little to lose with a child."""
PREPARE_SECONDS: Final = 1800.0
"""A parser that takes longer hangs; the child is killed and the document counted as failed."""
EMBED_SECONDS: Final = 300.0

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class EmbeddingConfig:
    """Which model to run in how many processes. ``max_document_bytes`` bounds what is read.

    Documents are prepared for a ``hybrid`` collection, or for one without sparse vectors. Chunks
    have up to ``chunk_tokens``; without it, as many as the model reads well.
    """

    model: str = DEFAULT_MODEL
    pool_size: int = 1
    max_document_bytes: int = 64 * 1024 * 1024
    hybrid: bool = True
    chunk_tokens: int | None = None


class ModelPool:
    """A pool of processes that hold the model.

    Use it as an asynchronous context manager. Tasks raise what the child raised. A child that dies
    or takes too long is replaced; its task is run once more, other tasks do not notice.
    """

    info: ModelInfo
    """What the children loaded; set on entering."""

    def __init__(self, config: EmbeddingConfig) -> None:
        self.config = config
        threads = max(1, (os.cpu_count() or 1) // config.pool_size)
        # No child has a queue of its own: an upload waits for one task of bulk work, not for many.
        self._children = LanePermits(config.pool_size, bulk=config.pool_size)
        self._processes = Processes(
            config.pool_size,
            child.initialize,
            (config.model, threads, config.hybrid, config.chunk_tokens),
        )

    async def __aenter__(self) -> Self:
        """Start the children and wait until the first has loaded the model.

        Raises ModelUnavailable if there is no such model, or if it reads no chunks as long as that.
        """
        try:
            self.info = await self._run(Lane.INTERACTIVE, START_SECONDS, child.describe)
        except BaseException as error:
            await self.stop()
            if isinstance(error, ModelUnavailable):
                raise ModelUnavailable(
                    f"the model {self.config.model!r} cannot be loaded ({error}); set "
                    "INGESTQ_MODEL to a sentence-transformers name or to a folder that holds one"
                ) from error
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    def in_lane(self, lane: Lane) -> "LaneModel":
        """The pool as the documents of one lane use it."""
        return LaneModel(self, lane)

    async def embed_query(self, text: str) -> QueryVectors:
        """Embed what somebody searches for."""
        return await self._run(Lane.INTERACTIVE, EMBED_SECONDS, child.embed_query, text)

    async def stop(self) -> None:
        """End the children at once. Stopping twice, or before starting, is fine."""
        await self._processes.stop()

    async def run_again_once(
        self,
        lane: Lane,
        seconds: float,
        function: Callable[P, T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run a task, and once more if its child died or hung: anybody may have killed it.

        Raises DocumentRejected if a child died over it twice in a row: then it is what the child
        was given. Raises PoolBroken if twice in a row nobody knows what the children died of.
        """
        try:
            return await self._run(lane, seconds, function, *args, **kwargs)
        except PoolFailure as first:
            log.warning(events.CHILD_FAILED, error=str(first))
            try:
                return await self._run(lane, seconds, function, *args, **kwargs)
            except PoolBroken:
                raise
            except PoolFailure as second:
                if isinstance(first, PoolBroken):
                    raise
                raise DocumentRejected(f"twice, {second}") from second

    async def _run(
        self,
        lane: Lane,
        seconds: float,
        function: Callable[P, T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        async with self._children.hold(lane):
            return await self._processes.run(seconds, function, *args, **kwargs)


@dataclass(frozen=True)
class LaneModel:
    """What the pipeline asks of the pool, for documents of ``lane``."""

    pool: ModelPool
    lane: Lane

    async def prepare(self, document: Document, known_hash: str | None) -> Prepared | Unprepared:
        """Read, extract and chunk ``document``, unless its content is ``known_hash``.

        Raises DocumentRejected if it can never be prepared, or killed its child twice.
        """
        return await self.pool.run_again_once(
            self.lane,
            PREPARE_SECONDS,
            child.prepare_document,
            document,
            known_hash,
            self.pool.config.max_document_bytes,
        )

    async def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Embed chunks of documents, spread over the children; shape (texts, dimension)."""
        slices = [texts[i : i + TASK_CHUNKS] for i in range(0, len(texts), TASK_CHUNKS)]
        tasks = (
            self.pool.run_again_once(self.lane, EMBED_SECONDS, child.embed_documents, part)
            for part in slices
        )
        return np.concatenate(await asyncio.gather(*tasks))
