"""The process pool: parsing, chunking and embedding happen here, never on the event loop.

pebble rather than the standard library's pool, because it survives a child that is killed: the
task that the child held fails, the others do not notice. Children are spawned, not forked: a
forked torch or gRPC deadlocks.
"""

import asyncio
import multiprocessing
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final, ParamSpec, Self, TypeVar

import numpy as np
import numpy.typing as npt
import structlog
from pebble import ProcessExpired, ProcessPool

from broker import events
from broker.contract import Document
from broker.errors import DocumentRejected, ModelUnavailable, PoolFailure
from worker.embedding import child
from worker.embedding.models import DEFAULT_MODEL, ModelInfo
from worker.prepare import Prepared, Unprepared

log = structlog.get_logger()

TASK_CHUNKS: Final = 32
"""Chunks handed to a child at once: a second or two of work, little to lose with a child."""
LOAD_SECONDS: Final = 600.0
"""A child that has not loaded its model by then hangs, or the model is downloaded very slowly."""
PREPARE_SECONDS: Final = 1800.0
"""A parser that takes longer hangs; the child is killed and the document counted as failed."""
EMBED_SECONDS: Final = 300.0

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class EmbeddingConfig:
    """Which model to run in how many processes. ``max_document_bytes`` bounds what is read."""

    model: str = DEFAULT_MODEL
    pool_size: int = 1
    max_document_bytes: int = 64 * 1024 * 1024


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
        self._pool = ProcessPool(
            max_workers=config.pool_size,
            initializer=child.initialize,
            initargs=(config.model, threads),
            context=multiprocessing.get_context("spawn"),
        )

    async def __aenter__(self) -> Self:
        """Start the children and wait until the first has loaded the model.

        Raises ModelUnavailable if there is no such model.
        """
        try:
            self.info = await self._run(LOAD_SECONDS, child.describe)
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

    async def prepare(self, document: Document, known_hash: str | None) -> Prepared | Unprepared:
        """Read, extract and chunk ``document``, unless its content is ``known_hash``.

        Raises DocumentRejected if it can never be prepared, or killed its child twice.
        """
        return await self._run_again_once(
            PREPARE_SECONDS,
            child.prepare_document,
            document,
            known_hash,
            self.config.max_document_bytes,
        )

    async def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Embed chunks of documents, spread over the children; shape (texts, dimension)."""
        slices = [texts[i : i + TASK_CHUNKS] for i in range(0, len(texts), TASK_CHUNKS)]
        parts = await asyncio.gather(
            *(self._run_again_once(EMBED_SECONDS, child.embed_documents, part) for part in slices)
        )
        return np.concatenate(parts)

    async def embed_query(self, text: str) -> list[float]:
        """Embed what somebody searches for."""
        vector = await self._run(EMBED_SECONDS, child.embed_query, text)
        return [float(x) for x in vector]

    async def stop(self) -> None:
        """End the children at once. Stopping twice, or before starting, is fine."""
        self._pool.stop()  # type: ignore[no-untyped-call]
        await asyncio.to_thread(self._pool.join)

    async def _run_again_once(
        self, seconds: float, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a task, and once more if its child died or hung: anybody may have killed it.

        Raises DocumentRejected at the second time: then it is what the child was given.
        """
        try:
            return await self._run(seconds, function, *args, **kwargs)
        except PoolFailure as first:
            log.warning(events.CHILD_FAILED, error=str(first))
            try:
                return await self._run(seconds, function, *args, **kwargs)
            except PoolFailure as second:
                raise DocumentRejected(f"twice, {second}") from second

    async def _run(
        self, seconds: float, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        future = self._pool.schedule(function, args=args, kwargs=kwargs, timeout=seconds)
        try:
            return await asyncio.wrap_future(future)
        except ProcessExpired as error:
            raise PoolFailure(
                f"the process that worked on it died (exit code {error.exitcode})"
            ) from error
        except TimeoutError as error:
            raise PoolFailure(f"it was not done within {seconds:g} s") from error
