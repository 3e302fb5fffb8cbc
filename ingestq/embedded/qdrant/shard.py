"""One open shard: a thread that writes, its log on the disk, and reads beside it.

A write is acknowledged when its log is on the disk. Writes that arrive meanwhile share the next
sync. The engine's own flush, which also writes the points and then empties the log, takes a hundred
times as long; it runs when nobody writes, or when the log has grown for a while.
See docs/adr/0008-bundled-engine.md.
"""

import asyncio
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar
from uuid import UUID

import qdrant_edge as edge
import structlog

from ingestq.core import events
from ingestq.embedded.qdrant.errors import Refused, engine_error
from ingestq.embedded.qdrant.files import LogFiles, check_space
from ingestq.embedded.qdrant.filters import PointId

log = structlog.get_logger()

T = TypeVar("T")
P = ParamSpec("P")

GROUP_SECONDS: Final = 0.02
"""How long applied writes may wait for others to share their sync."""
INDEX_SECONDS: Final = 0.1
"""Payload indexes of an empty shard are created when nobody has asked for another for so long: one
syncs files up to a hundred times, and would hold up the requests for the others."""
IDLE_FLUSH_SECONDS: Final = 2.0
"""The points are flushed when nobody has written for so long."""
BUSY_FLUSH_SECONDS: Final = 30.0
"""The longest time between flushes while writes go on: a start after a crash applies the log again,
about as fast as it was written."""


class Points:
    """The points of a shard, as writes see them.

    Notes the ids of the points that change, after they have, while `changed` is a set.
    """

    def __init__(self, opened: edge.EdgeShard) -> None:
        self.edge = opened
        self.changed: set[PointId | UUID] | None = None
        self.updates = 0
        """How many points were written since the shard was opened, each as often as that."""

    def update(self, operation: edge.UpdateOperation, ids: Sequence[PointId | UUID] = ()) -> None:
        """Apply ``operation``, which changes the points ``ids``."""
        try:
            self.edge.update(operation)
        finally:
            self.updates += len(ids)
            if self.changed is not None:
                self.changed.update(ids)

    def scroll(self, page: edge.ScrollRequest) -> tuple[list[edge.Record], Any]:
        """Return a page of points, and where the next one begins."""
        return self.edge.scroll(page)


Run = Callable[[Points], Iterator[None]]


@dataclass(eq=False)
class _Write:
    steps: Iterator[None]
    answer: asyncio.Future[None]
    is_durable: bool
    error: Refused | None = None


class Shard:
    """The open shard in ``folder``, until `close`."""

    def __init__(self, folder: Path, opened: edge.EdgeShard) -> None:
        self._folder = folder
        self._points = Points(opened)
        self._reading: set[asyncio.Future[Any]] = set()
        self._loop = asyncio.get_running_loop()
        self._arrived: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        info = opened.info()
        self.is_empty = info.points_count == 0
        """Whether no points have been written."""
        self.indexes = set(info.payload_schema)
        """The fields that have a payload index, or will have before the next write."""
        self._postponed: dict[str, edge.UpdateOperation] = {}
        self._soon: asyncio.TimerHandle | None = None
        self._creating: set[asyncio.Task[None]] = set()
        self._dirty_since: float | None = None
        self._written_at = 0.0
        self._is_kept = True
        self._log_files = LogFiles(folder)
        self._thread = threading.Thread(
            target=self._work_or_exit, name=f"writer of {folder.name}", daemon=True
        )
        self._thread.start()

    async def write(self, run: Run, *, is_durable: bool = True) -> None:
        """Apply a write; with ``is_durable``, return when it is on the disk.

        Raises Refused; the steps before the one that was refused stay applied.
        """
        self.is_empty = False
        self._create_postponed()
        await self._applied(self._send(run, is_durable=is_durable))

    def _send(self, run: Run, *, is_durable: bool) -> _Write:
        write = _Write(run(self._points), self._loop.create_future(), is_durable)
        self._arrived.put(write)
        return write

    async def _applied(self, write: _Write) -> None:
        await write.answer
        if write.error is not None:
            raise write.error

    async def create_index(self, field: str, operation: edge.UpdateOperation) -> None:
        """Create a payload index before any later write. Raises Refused.

        It is not durable by itself: what is missing is created when the shard is opened.
        """
        await self._indexed(field, self._send(self._once(operation), is_durable=False))

    def create_index_soon(self, field: str, operation: edge.UpdateOperation) -> None:
        """Create a payload index before the next write, or when no others are asked for.

        Until then the disk, which it keeps busy, is free for those who ask.
        """
        self.indexes.add(field)
        self._postponed[field] = operation
        if self._soon is not None:
            self._soon.cancel()
        self._soon = self._loop.call_later(INDEX_SECONDS, self._create_postponed)

    @property
    def is_indexing(self) -> bool:
        """Whether payload indexes are postponed, or being created: then reads take long."""
        return bool(self._postponed or self._creating)

    async def indexed(self) -> None:
        """Create the postponed payload indexes now, and return when all are there."""
        self._create_postponed()
        while self._creating:
            await asyncio.wait(self._creating)

    def _create_postponed(self) -> None:
        for field, operation in self._postponed.items():
            write = self._send(self._once(operation), is_durable=False)
            creating = asyncio.create_task(self._indexed(field, write))
            self._creating.add(creating)
            creating.add_done_callback(self._note_created)
        self._postponed.clear()

    async def _indexed(self, field: str, write: _Write) -> None:
        self.indexes.add(field)
        try:
            await self._applied(write)
        except Refused:
            self.indexes.discard(field)
            raise

    def _once(self, operation: edge.UpdateOperation) -> Run:
        """Return the write of ``operation``, which is skipped when the shard is being deleted."""

        def run(points: Points) -> Iterator[None]:
            if self._is_kept:
                points.update(operation)
            yield

        return run

    def _note_created(self, creating: asyncio.Task[None]) -> None:
        self._creating.discard(creating)
        if not creating.cancelled() and (error := creating.exception()) is not None:
            log.error(events.ENGINE_INDEX_FAILED, error=str(error))

    async def delete_index(self, field: str) -> None:
        """Delete a payload index. Raises Refused."""
        self._create_postponed()
        operation = edge.UpdateOperation.delete_field_index(field)
        await self._applied(self._send(self._once(operation), is_durable=True))
        self.indexes.discard(field)

    async def read(self, reader: ThreadPoolExecutor, read: Callable[[edge.EdgeShard], T]) -> T:
        """Return what ``read`` returns, run in a thread of ``reader``. Raises Refused."""
        reading = self._loop.run_in_executor(reader, guarded, read, self._points.edge)
        self._reading.add(reading)
        reading.add_done_callback(self._reading.discard)
        return await reading

    @property
    def points(self) -> Points:
        """The points, for a copy of them."""
        return self._points

    async def replace(
        self, folder: Path, opened: edge.EdgeShard, ready: Callable[[], None]
    ) -> None:
        """Between two writes, call ``ready``, then put the copy ``opened`` in the shard's place.

        The old shard is closed when it is no longer read. Raises Refused.
        """
        old = self._points.edge

        def swap(points: Points) -> Iterator[None]:
            ready()
            points.edge = opened
            points.changed = None
            points.updates = 0
            self._folder = folder
            self._log_files = LogFiles(folder)
            yield

        await self._applied(self._send(swap, is_durable=True))
        if self._reading:
            await asyncio.wait(set(self._reading))
        await asyncio.to_thread(old.close)

    async def close(self, *, is_kept: bool = True) -> None:
        """Finish the writes that have arrived, and close; flush if the shard is kept."""
        if self._soon is not None:
            self._soon.cancel()
        self._postponed.clear()
        self._is_kept = is_kept
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._arrived.put(None)
        self._thread.join()
        self._points.edge.close()

    def _work_or_exit(self) -> None:
        """Apply writes until `close`. End the process if that fails: no write would be answered.

        Whoever uses it starts it again.
        """
        try:
            self._work()
        except BaseException:
            if self._loop.is_closed():  # nobody waits for an answer
                return
            log.exception(events.ENGINE_WRITE_FAILED)
            os._exit(1)

    def _work(self) -> None:
        """Apply writes, one step of each in turn, until `close`."""
        active: deque[_Write] = deque()
        applied: list[_Write] = []
        group_ends = 0.0
        is_closing = False
        while active or applied or not is_closing:
            wait = 0.0 if active or applied or is_closing else self._seconds_to_flush()
            is_closing |= self._take(active, wait)
            if active and not (applied and time.monotonic() > group_ends):
                write = active.popleft()
                if self._step(write):
                    active.append(write)
                else:
                    if not applied:
                        group_ends = time.monotonic() + GROUP_SECONDS
                    applied.append(write)
            elif applied:
                self._acknowledge(applied)
                applied = []
            if self._seconds_to_flush() == 0.0:
                self._flush()
        if self._is_kept:
            self._flush()

    def _take(self, active: deque[_Write], seconds: float | None) -> bool:
        """Move the writes that have arrived to ``active``; wait ``seconds`` for the first.

        Return True if the shard is closing.
        """
        is_closing = False
        try:
            write = (
                self._arrived.get(timeout=seconds) if seconds != 0.0 else self._arrived.get_nowait()
            )
            while True:
                if write is None:
                    is_closing = True
                else:
                    active.append(write)
                write = self._arrived.get_nowait()
        except queue.Empty:
            return is_closing

    def _step(self, write: _Write) -> bool:
        """Run a step of a write; return False if that was the last one, or it was refused."""
        try:
            check_space(self._folder)
            now = time.monotonic()
            if self._dirty_since is None:
                self._dirty_since = now
            self._written_at = now
            next(write.steps)
        except StopIteration:
            return False
        except Refused as error:
            write.error = error
            return False
        except BaseException as error:  # the engine's panics are no Exception
            write.error = engine_error(error)
            if write.error.status >= 500:
                log.exception(events.ENGINE_WRITE_FAILED)
            return False
        return True

    def _acknowledge(self, writes: Sequence[_Write]) -> None:
        """Answer the writes, after their log is on the disk."""
        try:
            if any(write.is_durable for write in writes):
                self._log_files.sync(self._points.edge)
        except BaseException as error:  # the engine's panics are no Exception
            log.exception(events.ENGINE_WRITE_FAILED)
            for write in writes:
                write.error = write.error or engine_error(error)
        self._loop.call_soon_threadsafe(_answer, [write.answer for write in writes])

    def _seconds_to_flush(self) -> float | None:
        """Return in how many seconds to flush; None if there is nothing to flush."""
        if self._dirty_since is None:
            return None
        due = min(self._written_at + IDLE_FLUSH_SECONDS, self._dirty_since + BUSY_FLUSH_SECONDS)
        return max(due - time.monotonic(), 0.0)

    def _flush(self) -> None:
        """Write the points to the disk, which empties the log."""
        if self._dirty_since is None:
            return
        self._dirty_since = None
        try:
            self._points.edge.flush()
        except BaseException:  # the engine's panics are no Exception; the log has what was written
            log.exception(events.ENGINE_FLUSH_FAILED)


def guarded(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return what ``call`` returns. Raises Refused for what the engine raises."""
    try:
        return call(*args, **kwargs)
    except (Refused, OSError):
        raise
    except BaseException as error:  # the engine's panics are no Exception
        raise engine_error(error) from error


def _answer(answers: Sequence[asyncio.Future[None]]) -> None:
    for answer in answers:
        if not answer.done():  # the request was cancelled
            answer.set_result(None)
