"""Lets small texts of many documents share a task of a parse process.

A task costs the event loop, the threads of the pool and the process about as much as it takes to
chunk a page. So the small texts that wait when a process becomes free are read one after another in
one task. Whoever is alone is served at once.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Generic, TypeVar

import structlog

from ingestq.core import events
from ingestq.core.documents import Document, Lane
from ingestq.core.errors import DocumentRejected, LimitExceeded, PoolBroken, PoolFailure
from ingestq.core.paths import size_in_state
from ingestq.core.service import Service
from worker.bisection import bisect_on_failure

log = structlog.get_logger()

R = TypeVar("R")

SMALL_BYTES: Final = 16 * 1024
SHARED_DOCUMENTS: Final = 32
SHARED_BYTES: Final = 64 * 1024
"""A task with so many bytes of small texts takes as long as one with a document of usual size: an
upload that waits for its end waits no longer."""


def small_size(document: Document) -> int | None:
    """Return the size of ``document`` in bytes if it is a small text, else None.

    Other formats are no small work, however few bytes they have: a scanned page takes seconds.
    """
    if document.text is not None:
        size: int | None = len(document.text.encode())
    else:
        size = None if document.file is None else size_in_state(document.file)
    if document.media_type is None:
        is_text = document.text is not None
    else:
        is_text = document.media_type.startswith("text/")
    return size if is_text and size is not None and size <= SMALL_BYTES else None


@dataclass(eq=False)
class SmallText(Generic[R]):
    """A small document of ``size`` bytes, and the other arguments with which it is read.

    ``done`` gets the result or the error.
    """

    document: Document
    known_hash: str | None
    ocr_pages: int | None
    size: int
    done: "asyncio.Future[R]" = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )

    def set_outcome(self, outcome: R | Exception) -> None:
        """Set the result or the error, unless the caller has stopped waiting."""
        if self.done.done():
            return
        if isinstance(outcome, Exception):
            self.done.set_exception(outcome)
        else:
            self.done.set_result(outcome)


class SmallTexts(Generic[R]):
    """Reads small texts together, up to ``places`` groups of a lane at a time.

    ``read_each`` reads several in one task, and returns the result or the error of each. If it
    raises PoolFailure, because a process died or took too long, the group is bisected. A text that
    exceeds a limit alone is rejected. One that fails alone otherwise goes to ``read_alone`` after
    the others, as is a text that shares no task: under the limits of any document.
    """

    def __init__(
        self,
        places: int,
        read_each: Callable[[Lane, Sequence[SmallText[R]]], Awaitable[Sequence[R | Exception]]],
        read_alone: Callable[[Lane, SmallText[R]], Awaitable[R]],
    ) -> None:
        self._read_each = read_each
        self._read_alone = read_alone
        self._waiting: dict[Lane, deque[SmallText[R]]] = {lane: deque() for lane in Lane}
        self._alone: dict[Lane, deque[SmallText[R]]] = {lane: deque() for lane in Lane}
        self._services = {
            lane: [
                Service(partial(self._read_waiting, lane), name=f"small texts, {lane}, {place}")
                for place in range(places)
            ]
            for lane in Lane
        }

    async def read(self, lane: Lane, text: SmallText[R]) -> R:
        """Read ``text``; return the result or raise the error."""
        self._waiting[lane].append(text)
        idle = next((each for each in self._services[lane] if not each.is_running), None)
        if idle is not None:
            idle.start()
        try:
            return await text.done
        finally:
            text.done.cancel()

    async def stop(self) -> None:
        """Read no more; texts that are being read fail."""
        for lane, services in self._services.items():
            for service in services:
                await service.stop()
            for texts in (self._waiting[lane], self._alone[lane]):
                _fail(texts)
                texts.clear()

    async def _read_waiting(self, lane: Lane, _: asyncio.Event) -> None:
        """Read texts of ``lane`` until none waits. The next one starts this again."""
        while group := self._next_group(lane):
            shares = len(group) > 1
            attempt = partial(self._read_together if shares else self._read_by_itself, lane)
            try:
                async for text, outcome in bisect_on_failure(group, attempt, _may_be_one_text):
                    if isinstance(outcome, LimitExceeded):  # it would exceed it again
                        text.set_outcome(DocumentRejected(str(outcome)))
                    elif shares and _may_be_one_text(outcome):
                        self._alone[lane].append(text)
                    else:
                        text.set_outcome(outcome)
            except asyncio.CancelledError:
                _fail(group)
                raise

    def _next_group(self, lane: Lane) -> list[SmallText[R]]:
        waiting, alone = self._waiting[lane], self._alone[lane]
        if alone:
            return [alone.popleft()]
        group: list[SmallText[R]] = []
        size = 0
        while waiting and len(group) < SHARED_DOCUMENTS:
            if waiting[0].done.done():  # its caller was cancelled
                waiting.popleft()
                continue
            size += waiting[0].size
            if group and size > SHARED_BYTES:
                break
            group.append(waiting.popleft())
        return group

    async def _read_together(
        self, lane: Lane, texts: Sequence[SmallText[R]]
    ) -> Sequence[R | Exception]:
        try:
            return await self._read_each(lane, texts)
        except PoolBroken:  # it is unknown over which task
            return await self._read_each(lane, texts)
        except PoolFailure as error:
            log.warning(events.PROCESS_CRASHED, error=str(error))
            raise

    async def _read_by_itself(
        self, lane: Lane, texts: Sequence[SmallText[R]]
    ) -> Sequence[R | Exception]:
        [text] = texts
        return [await self._read_alone(lane, text)]


def _may_be_one_text(error: object) -> bool:
    return isinstance(error, PoolFailure) and not isinstance(error, PoolBroken)


def _fail(texts: Sequence[SmallText[R]] | deque[SmallText[R]]) -> None:
    for text in texts:
        text.set_outcome(PoolBroken("the processes were stopped"))
