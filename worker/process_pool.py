"""A process pool that replaces processes that die, and itself when it breaks.

It uses pebble and not the standard library's pool, because with pebble a killed process fails only
the task that it was running. If a process is killed while it is idle, pebble gives up the whole
pool; then the next task gets a new pool. Processes are spawned, not forked: a forked torch or gRPC
deadlocks.
"""

import asyncio
import logging
import multiprocessing
import os
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Final, ParamSpec, TypeVar

import structlog
from pebble import ProcessExpired, ProcessPool

from ingestq.core import events
from ingestq.core.errors import PoolBroken, PoolFailure

log = structlog.get_logger()

START_SECONDS: Final = 600.0
"""How long a process may take to start, which includes loading a model over a slow connection."""

P = ParamSpec("P")
T = TypeVar("T")


class Processes:
    """A pool of ``count`` processes, which start with the first task.

    Each process calls ``initialize(*arguments)`` first. It is replaced after ``max_tasks`` tasks,
    which bounds the memory that libraries leak; 0 is no limit.
    """

    def __init__(
        self,
        count: int,
        initialize: Callable[..., None],
        arguments: tuple[Any, ...] = (),
        max_tasks: int = 0,
    ) -> None:
        self._count = count
        self._initialize = initialize
        self._arguments = arguments
        self._max_tasks = max_tasks
        self._pool = self._new_pool()
        self._started: ProcessPool | None = None
        self._stopping: set[asyncio.Task[None]] = set()

    async def run(
        self, seconds: float, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run ``function`` in one of the processes; return its result, or raise its exception.

        Raises PoolFailure if the process died or took more than ``seconds``, and PoolBroken if it
        is unknown whether the task was started.
        """
        pool = self._pool
        if pool is not self._started:
            await asyncio.to_thread(pool.schedule, _nothing)  # spawning processes takes a while
            self._started = pool
        try:
            future = pool.schedule(function, args=args, kwargs=kwargs, timeout=seconds)
            # pebble measures the time of a task from its start. It never starts if the process is
            # killed while it takes the task.
            async with asyncio.timeout(START_SECONDS + seconds) as lost:
                return await asyncio.wrap_future(future)
        except ProcessExpired as error:
            raise PoolFailure(
                f"the process that worked on it died (exit code {error.exitcode})"
            ) from error
        except TimeoutError as error:
            if lost.expired():
                self._replace(pool)
                raise PoolBroken("no process of the pool took the task") from error
            raise PoolFailure(f"it was not done within {seconds:g} s") from error
        except BrokenProcessPool as error:
            self._replace(pool)
            raise PoolBroken("the processes of the pool were killed") from error
        except RuntimeError as error:
            if pool.active:
                raise
            self._replace(pool)
            raise PoolBroken("the processes of the pool were killed") from error

    async def stop(self) -> None:
        """Kill the processes. May be called twice, or before the first task."""
        await asyncio.gather(_end(self._pool), *self._stopping)

    def _new_pool(self) -> ProcessPool:
        return ProcessPool(
            max_workers=self._count,
            max_tasks=self._max_tasks,
            initializer=self._initialize,
            initargs=self._arguments,
            context=multiprocessing.get_context("spawn"),
        )

    def _replace(self, broken: ProcessPool) -> None:
        if self._pool is not broken:
            return  # another task has replaced it
        log.warning(events.POOL_REPLACED)
        self._pool = self._new_pool()
        ending = asyncio.create_task(_end(broken))
        self._stopping.add(ending)
        ending.add_done_callback(self._stopping.discard)


async def retry_once(run: Callable[[], Awaitable[T]]) -> T:
    """Await ``run()``; if its process died, await it once more, as anything may have killed it."""
    try:
        return await run()
    except PoolFailure:
        return await run()


def _nothing() -> None:
    """Do nothing. As a task, it makes the processes start."""


async def _end(pool: ProcessPool) -> None:
    pool.stop()  # type: ignore[no-untyped-call]
    await asyncio.to_thread(pool.join)


def become_pool_process() -> None:
    """Make this process end with its parent, and quiet its libraries. Each one calls it first."""
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ["TQDM_DISABLE"] = "1"
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    # joblib would create semaphores, which a killed process cannot release.
    os.environ["JOBLIB_MULTIPROCESSING"] = "0"
    logging.disable(logging.WARNING)  # errors are raised; what libraries log is noise


def _exit_with_parent() -> None:
    """End this process when its parent ends, even by SIGKILL: nothing else would end it."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "runs in a pool process only"
    parent.join()
    os._exit(1)
