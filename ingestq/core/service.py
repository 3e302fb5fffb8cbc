"""Background work: one way to start a loop, stop it, and wait until it has ended.

asyncio can lose a cancellation: up to Python 3.11, ``asyncio.wait_for``, in which redis-py sends
every command, swallows a cancellation that arrives at the same moment as the result. A loop that is
cancelled once and then awaited may therefore run for ever. A `Service` is told to stop by an event
and then cancelled repeatedly until it has ended. `run_together` and `run_until_first` do the same
for coroutines that run concurrently, `cancelled_with` ties a block to a service that it cannot do
without, and `opening` opens something while the block that needs it already runs.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import Any, Final, Self, TypeVar

T = TypeVar("T")

CANCEL_SECONDS: Final = 0.1
"""Seconds that a cancelled task may take to end before it is cancelled again."""
CLOSE_SECONDS: Final = 30.0
"""Seconds that what was opened in the background may take to close before that is cancelled."""


async def happens_within(event: asyncio.Event, seconds: float) -> bool:
    """Wait up to ``seconds`` for ``event``; return whether it is set."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    return event.is_set()


async def cancel(*tasks: asyncio.Task[Any]) -> None:
    """Cancel ``tasks`` repeatedly until all have ended. Does not raise their exceptions.

    If the caller is cancelled meanwhile, CancelledError is raised once they have ended.
    """
    cancelled = False
    while running := [task for task in tasks if not task.done()]:
        for task in running:
            task.cancel()
        try:
            await asyncio.wait(running, timeout=CANCEL_SECONDS)
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        raise asyncio.CancelledError


async def uninterrupted(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run ``coroutine`` to its end, even if the caller is cancelled. It must be bounded in time.

    If the caller was cancelled meanwhile, CancelledError is raised at the end.
    """
    task = asyncio.create_task(coroutine)
    cancelled = False
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            cancelled = True
    task.result()
    if cancelled:
        raise asyncio.CancelledError


async def run_together(*coroutines: Coroutine[Any, Any, Any]) -> None:
    """Run ``coroutines`` concurrently until all have ended.

    If one fails, or the caller is cancelled, the others are cancelled until they have ended. Raises
    the exception of the one that failed; if several did, that of the first of them in the order of
    the arguments. (`asyncio.TaskGroup` cancels only once, and may then wait for ever.)

    A coroutine that is cancelled before it began runs nothing, so none of ``coroutines`` may have
    other coroutines as arguments: they would never be awaited, and Python warns of that.
    """
    await _run(coroutines, asyncio.FIRST_EXCEPTION)


async def run_until_first(*coroutines: Coroutine[Any, Any, Any]) -> None:
    """Run ``coroutines`` concurrently until one has ended; then cancel the others until they have.

    Raises as `run_together` does.
    """
    await _run(coroutines, asyncio.FIRST_COMPLETED)


async def _run(coroutines: Iterable[Coroutine[Any, Any, Any]], return_when: str) -> None:
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        await asyncio.wait(tasks, return_when=return_when)
    finally:
        await cancel(*tasks)
    for task in tasks:
        if not task.cancelled():
            task.result()


class Service:
    """A background task that runs ``run(stopping)`` until it is stopped.

    ``run`` should return soon after the event ``stopping`` is set; if it has not returned after
    ``grace_seconds``, it is cancelled until it ends. As an asynchronous context manager, a service
    runs while inside, and leaving raises its exception. Until then a failure goes unnoticed, unless
    ``on_end`` is given: it is called as soon as the service has ended, for whatever reason.

    A service may be started again after it has been stopped.
    """

    def __init__(
        self,
        run: Callable[[asyncio.Event], Coroutine[Any, Any, None]],
        *,
        name: str,
        grace_seconds: float = 0.0,
        on_end: Callable[[], None] | None = None,
    ) -> None:
        self._run = run
        self._name = name
        self._grace_seconds = grace_seconds
        self._on_end = on_end
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def is_running(self) -> bool:
        """True from `start` until ``run`` has ended."""
        return self._task is not None and not self._task.done()

    def start(self) -> None:
        """Start the service; does nothing if it is already running."""
        if not self.is_running:
            self._stopping = asyncio.Event()
            self._task = asyncio.create_task(self._run(self._stopping), name=self._name)
            if self._on_end is not None:
                on_end = self._on_end
                self._task.add_done_callback(lambda _: on_end())

    async def wait(self) -> None:
        """Wait until the service has ended, and raise its exception if it failed."""
        if self._task is not None:
            await asyncio.wait([self._task])
            if not self._task.cancelled():
                self._task.result()

    async def stop(self) -> None:
        """Stop the service, wait until it has ended, and raise its exception if it failed.

        If the caller is cancelled meanwhile, the service is cancelled at once, and CancelledError
        is raised when it has ended.
        """
        if self._task is None:
            return
        self._stopping.set()
        try:
            await asyncio.wait([self._task], timeout=self._grace_seconds)
        finally:
            await cancel(self._task)
        await self.wait()

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            await self.stop()
            return
        with contextlib.suppress(Exception):  # the error that ended the block matters more
            await self.stop()


@asynccontextmanager
async def cancelled_with(
    run: Callable[[asyncio.Event], Coroutine[Any, Any, None]],
    *,
    name: str,
    grace_seconds: float = 0.0,
    block: asyncio.Task[Any] | None = None,
) -> AsyncIterator[None]:
    """Run a `Service` while inside. If it fails, cancel the block and raise the service's error.

    ``block`` is the task that runs the block and leaves it, if that is not the one that enters it.
    """
    block = block or asyncio.current_task()
    assert block is not None
    is_inside, is_cancelled = True, False

    def cancel_block() -> None:
        nonlocal is_cancelled
        if is_inside:
            is_cancelled = True
            block.cancel()

    service = Service(run, name=name, grace_seconds=grace_seconds, on_end=cancel_block)
    service.start()
    try:
        yield
    except asyncio.CancelledError:
        if not is_cancelled or block.uncancel() > 0:  # somebody else has cancelled it as well
            raise
    finally:
        is_inside = False
        await service.stop()


@asynccontextmanager
async def opening(
    manager: AbstractAsyncContextManager[T],
    *,
    name: str,
    block: asyncio.Task[Any] | None = None,
) -> AsyncIterator[asyncio.Future[T]]:
    """Open ``manager`` in the background; yields what it opens, to be awaited.

    Awaiting that raises the error if it could not be opened. On leaving, it is closed; if it is
    still being opened, that is cancelled. If it ends before, as one does that is made with
    `cancelled_with`, the block is cancelled and its error raised. See `cancelled_with` for
    ``block``.
    """
    opened: asyncio.Future[T] = asyncio.get_running_loop().create_future()
    holder: asyncio.Task[Any] | None = None

    async def hold(stopping: asyncio.Event) -> None:
        nonlocal holder
        holder = asyncio.current_task()
        if opened.cancelled():
            return
        try:
            async with manager as value:
                if not opened.cancelled():
                    opened.set_result(value)
                    await stopping.wait()
        except Exception as error:
            if opened.cancelled():  # nobody waits for it any more
                return
            if opened.done():
                raise
            opened.set_exception(error)
            opened.exception()  # marks it as seen: whoever does not wait does not need to know
            await stopping.wait()

    async with cancelled_with(hold, name=name, grace_seconds=CLOSE_SECONDS, block=block):
        try:
            yield opened
        finally:
            if opened.cancel() and holder is not None:
                holder.cancel()
