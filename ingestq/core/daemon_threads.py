"""Calls that may wait for ever, in threads that do not keep the process from ending.

At the end of a process, Python waits for the threads of `asyncio.to_thread` and of executors,
however long that takes. One that waits for a terminal or a silent server would have to be killed.
"""

import asyncio
import contextvars
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class DaemonThreads:
    """Runs up to ``most`` calls at a time, each in a thread of its own, called ``name``."""

    def __init__(self, name: str, most: int) -> None:
        self._name: Final = name
        self._free = asyncio.Semaphore(most)

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what ``function`` returns, or raise what it raises.

        If the caller is cancelled, the call goes on, keeps its place until it ends, and its result
        is lost. If the process ends, the call just stops.
        """
        await self._free.acquire()
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        call = partial(contextvars.copy_context().run, function, *args, **kwargs)

        def run() -> None:
            result, error = _ended(call)
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(end, result, error)

        def end(result: T, error: BaseException | None) -> None:
            self._free.release()
            if answer.done():  # it was cancelled
                return
            if error is None:
                answer.set_result(result)
            else:
                answer.set_exception(error)

        try:
            threading.Thread(target=run, name=self._name, daemon=True).start()
        except RuntimeError:  # there are too many threads
            self._free.release()
            raise
        return await answer


def _ended(call: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    """Return the result of ``call``, or else its exception: the caller decides."""
    try:
        return call(), None
    except BaseException as error:
        return None, error
