"""Processes that survive their deaths: one that is killed is replaced, and so is a broken pool.

pebble rather than the standard library's pool, because it fails only the task that a killed child
held. But if a child is killed while no task runs, pebble gives up the pool as a whole; then the
next task gets a new one. Children are spawned, not forked: a forked torch or gRPC deadlocks.
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
"""How long a child may need until it is ready for a task: to load a model, at worst over a slow
line."""

P = ParamSpec("P")
T = TypeVar("T")


class Processes:
    """``count`` processes, each started with ``initialize(*arguments)`` when the first task comes.

    Each ends after ``max_tasks`` tasks and another takes its place, so that what a library does not
    give back is bounded; 0 is no limit.
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
        """Run ``function`` in one of the processes, and raise what it raises.

        Raises PoolFailure if the process died over it or was not done within ``seconds``, and
        PoolBroken if nobody knows whether it was ever begun.
        """
        pool = self._pool
        if pool is not self._started:
            await asyncio.to_thread(pool.schedule, _nothing)  # to spawn processes takes a while
            self._started = pool
        try:
            future = pool.schedule(function, args=args, kwargs=kwargs, timeout=seconds)
            # pebble times a task from when it is begun; a child killed while it takes one never is.
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
        """End the processes at once. Stopping twice, or before starting, is fine."""
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
            return  # another task found it broken before
        log.warning(events.POOL_REPLACED)
        self._pool = self._new_pool()
        ending = asyncio.create_task(_end(broken))
        self._stopping.add(ending)
        ending.add_done_callback(self._stopping.discard)


async def retry_once(run: Callable[[], Awaitable[T]]) -> T:
    """Await ``run``, and once more if its process died: anybody may have killed it."""
    try:
        return await run()
    except PoolFailure:
        return await run()


def _nothing() -> None:
    """Do nothing: a task that only makes the processes start."""


async def _end(pool: ProcessPool) -> None:
    pool.stop()  # type: ignore[no-untyped-call]
    await asyncio.to_thread(pool.join)


def become_child() -> None:
    """Make this process a quiet child that ends with its parent. Every child calls it first."""
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ["TQDM_DISABLE"] = "1"
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    # A child that is stopped cannot give semaphores back, and joblib would make some.
    os.environ["JOBLIB_MULTIPROCESSING"] = "0"
    logging.disable(logging.WARNING)  # what goes wrong is raised; the libraries only chat


def _exit_with_parent() -> None:
    """End this process when its parent is gone, however it went: nobody else would."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "runs in a child only"
    parent.join()
    os._exit(1)
