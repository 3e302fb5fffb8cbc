"""Starts what `ingestq run` needs as fast as it can, and tells how long each part took.

Redis, Qdrant and the model start at the same time, in processes of their own, while this process
imports what the worker needs.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, TypeVar

import structlog

from ingestq.app.composition import Broker, imported, open_broker, open_model, open_qdrant
from ingestq.app.migration import has_index
from ingestq.app.settings import Settings
from ingestq.core import events
from ingestq.core.service import opening

if TYPE_CHECKING:
    from worker.consumer.lease_worker import LeaseWorker
    from worker.embedding.pool import ModelPool

log = structlog.get_logger()

T = TypeVar("T")


class StartTimes:
    """The seconds that each part of a start took; several start at the same time."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    @contextmanager
    def of(self, part: str) -> Iterator[None]:
        """Note the time that the block takes as that of ``part``."""
        began = time.monotonic()
        yield
        self.note(part, time.monotonic() - began)

    @asynccontextmanager
    async def opened(self, part: str, manager: AbstractAsyncContextManager[T]) -> AsyncIterator[T]:
        """Open ``manager``, and note how long that takes as the time of ``part``."""
        began = time.monotonic()
        async with manager as value:
            self.note(part, time.monotonic() - began)
            yield value

    def note(self, part: str, seconds: float) -> None:
        """Note that ``part`` took so many seconds."""
        self._seconds[part] = seconds

    def report(self) -> None:
        """Log the parts that are ready."""
        parts = {part: round(seconds, 2) for part, seconds in self._seconds.items()}
        log.info(events.START_TIMED, parts=parts)


@asynccontextmanager
async def open_parts(
    settings: Settings, times: StartTimes
) -> "AsyncIterator[tuple[Broker, LeaseWorker]]":
    """Open the broker and a worker, all parts of it at the same time; log ``times`` on leaving.

    Raises what `open_broker`, `open_qdrant` and `open_worker` raise, before any job is claimed.
    """
    async with (
        opening(times.opened("qdrant", open_qdrant(settings)), name="qdrant") as qdrant,
        opening(_timed_model(settings, times), name="model") as model,
        times.opened("redis", open_broker(settings)) as broker,
    ):
        with times.of("imports"):
            await imported("ingestq.app.worker")
        from ingestq.app.worker import open_worker

        async with times.opened(
            "collections", open_worker(settings, broker, qdrant, model)
        ) as worker:
            yield broker, worker
    times.report()


@asynccontextmanager
async def _timed_model(settings: Settings, times: StartTimes) -> "AsyncIterator[ModelPool]":
    """Open the model, and start its processes if there is no index yet: all documents are new.

    Otherwise most are unchanged and need none, and the imports are done earlier without them.
    """
    async with times.opened("model", open_model(settings, settings.pool_size)) as model:
        if settings.qdrant_url is None and not await asyncio.to_thread(
            has_index, settings.data_dir
        ):
            model.begin()
        yield model
        for kind, seconds in model.start_seconds().items():
            times.note(f"{kind}_process", seconds)
