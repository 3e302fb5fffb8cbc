"""A process pool that replaces processes that die, and itself when it breaks.

It uses pebble and not the standard library's pool, because with pebble a killed process fails only
the task that it was running. Processes are spawned, not forked: a forked torch or gRPC deadlocks.

Three threads of pebble carry all tasks of a pool. So that no task can end them, only bytes go
through them: arguments and results are MessagePack, made and read outside. If one of the threads
ends nevertheless, or a process breaks the pipes that all share, the next task gets a new pool.
"""

import asyncio
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from multiprocessing import resource_tracker
from typing import Any, Final, NamedTuple, ParamSpec, TypeVar

import structlog
from pebble import ProcessExpired, ProcessPool

from ingestq.core import events, metrics
from ingestq.core.errors import (
    IngestqError,
    LimitExceeded,
    PoolBroken,
    PoolFailure,
    ProcessEnd,
)
from worker.process_pool.folder import ProcessFolder
from worker.process_pool.limits import (
    LimitsReport,
    ProcessLimits,
    explain_death,
    explain_failed_start,
)
from worker.process_pool.messages import (
    pack_arguments,
    unpack_error,
    unpack_result,
)
from worker.process_pool.process import TaskEnd, become_pool_process, execute, report_own_limits
from worker.process_pool.spawn import PoolContext

log = structlog.get_logger()

START_SECONDS: Final = 600.0
"""How long a process may take to start, which includes loading a model over a slow connection."""
LOST_SECONDS: Final = 30.0
"""If a task is so long over its time limit, its result will never arrive."""
CHECK_SECONDS: Final = 1.0
"""How often a task that takes long checks that the pool's threads are alive."""
TIMEOUT_SECONDS: Final = 2.0
"""How long a process that is over its time limit gets to end by itself, before it is killed."""
STOP_SECONDS: Final = 30.0
"""A process that the kernel does not kill within this time is left behind."""
TERMINAL_SIGNALS: Final = (signal.SIGINT, signal.SIGHUP)
"""What a terminal sends to all its processes: on Ctrl-C, and when it is closed."""

MAX_FAILED_STARTS: Final = 2
"""If all processes of so many pools in a row died while they started, the next ones will, too."""

P = ParamSpec("P")
T = TypeVar("T")


class Processes:
    """A pool of ``count`` processes within ``limits``, which start with `begin` or the first task.

    Only as many load their libraries as there have been tasks at the same time. Each process calls
    ``initialize(*arguments)`` first. It is replaced after ``max_tasks`` tasks, which bounds the
    memory that libraries leak; 0 is no limit.
    """

    def __init__(
        self,
        count: int,
        limits: ProcessLimits,
        initialize: Callable[..., None] | None = None,
        arguments: tuple[Any, ...] = (),
        max_tasks: int = 0,
    ) -> None:
        self._count = count
        self._start = _Start(limits, initialize, arguments)
        self._max_tasks = max_tasks
        self._pool: _Pool | None = None
        self._failed_starts = 0
        self._stopping: set[asyncio.Task[None]] = set()

    def begin(self) -> None:
        """Start a process before there is a task; do nothing if there is one."""
        if self._pool is None:
            self._new_pool()

    @property
    def has_begun(self) -> bool:
        """True once processes were started, until they are stopped or given up."""
        return self._pool is not None

    @property
    def start_seconds(self) -> float | None:
        """The time that the first process took to be ready for a task; None if none is."""
        return None if self._pool is None else self._pool.start_seconds

    async def run(
        self, seconds: float, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run ``function`` in one of the processes; return its result, or raise its exception.

        ``function`` is annotated with types that msgspec can decode: they are what is sent. A
        NumPy array is one of 32-bit floats. Exceptions other than ingestq's own are raised as
        RemoteError.

        Raises PoolFailure if the process died or took more than ``seconds``, LimitExceeded if that
        will happen again, PoolBroken if it is unknown whether the task was started, and UsageError
        if processes cannot start.
        """
        [answer] = await self._execute(seconds, function, [pack_arguments(function, args, kwargs)])
        return _returned(function, *answer)

    async def run_each(
        self, seconds: float, function: Callable[..., T], calls: Sequence[tuple[Any, ...]]
    ) -> list[T | Exception]:
        """Run ``function`` with the arguments of each of ``calls``, one after another in a process.

        Returns what each call returned or raised. Each has the limits of a task by itself, and may
        take ``seconds``. If the process dies in one of them, all have failed: raises what `run`
        raises.
        """
        tasks = [pack_arguments(function, call, {}) for call in calls]
        outcomes: list[T | Exception] = []
        for kind, answer in await self._execute(seconds, function, tasks):
            try:
                outcomes.append(_returned(function, kind, answer))
            except Exception as error:
                outcomes.append(error)
        return outcomes

    async def _execute(
        self, seconds: float, function: Callable[..., Any], tasks: Sequence[bytes]
    ) -> list[tuple[int, bytes]]:
        """Run tasks in one of the processes; return how each has ended."""
        pool = self._pool or self._new_pool()
        try:
            await pool.started()
            future = pool.schedule(seconds, function, tasks)
            answers = await pool.result(future, seconds * len(tasks))
        except ProcessExpired as error:
            failure = await asyncio.to_thread(pool.explain, error)
            self._count_restart(failure.end or ProcessEnd.EXITED)
            raise failure from error
        except TimeoutError as error:
            self._count_restart(ProcessEnd.TIME)
            raise PoolFailure(f"was not done within {seconds:g} s", ProcessEnd.TIME) from error
        except (BrokenProcessPool, IngestqError) as error:
            outputs = await asyncio.to_thread(pool.outputs)
            raise self._replace(pool, error, outputs) from error
        kind, answer = answers[0]
        if kind == TaskEnd.NOT_STARTED:
            raise self._replace(pool, unpack_error(answer))
        return answers

    def _count_restart(self, end: ProcessEnd) -> None:
        metrics.count(metrics.PROCESS_RESTARTS, self._start.limits.kind.value, end.value)

    async def report_limits(self) -> LimitsReport:
        """Return the limits that are in force in one of the processes. Raises what `run` raises."""
        return await self.run(START_SECONDS, report_own_limits)

    async def stop(self) -> None:
        """Kill the processes. May be called twice, or before the first task."""
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.end()
        await asyncio.gather(*self._stopping)

    def _new_pool(self) -> "_Pool":
        self._pool = _Pool(self._count, self._start, self._max_tasks)
        return self._pool

    def _replace(
        self, broken: "_Pool", error: Exception, outputs: Sequence[bytes] = ()
    ) -> Exception:
        """Give up a pool, unless another task has done so; return what its tasks raise.

        That is ``error``, unless pebble raised it. ``outputs`` is what the processes printed.
        """
        if self._pool is broken:
            log.warning(events.POOL_REPLACED)
            self._count_restart(ProcessEnd.POOL_BROKEN)
            self._pool = None
            self._failed_starts = self._failed_starts + 1 if broken.died_at_start else 0
            ending = asyncio.create_task(broken.end())
            self._stopping.add(ending)
            ending.add_done_callback(self._stopping.discard)
        if not isinstance(error, BrokenProcessPool):
            return error
        if broken.died_at_start and self._failed_starts >= MAX_FAILED_STARTS:
            return explain_failed_start(outputs, self._start.limits)
        return PoolBroken("the processes of the pool were killed")


def _returned(function: Callable[..., T], kind: int, answer: bytes) -> T:
    """Return what a call of ``function`` returned, or raise what it raised."""
    if kind == TaskEnd.RESULT:
        return unpack_result(function, answer)
    raise unpack_error(answer)


async def retry_once(run: Callable[[], Awaitable[T]]) -> T:
    """Await ``run()``; if its process died, await it once more, as anything may have killed it."""
    try:
        return await run()
    except LimitExceeded:
        raise
    except PoolFailure:
        return await run()


class _Start(NamedTuple):
    """What a process does before its first task."""

    limits: ProcessLimits
    initialize: Callable[..., None] | None
    arguments: tuple[Any, ...]


class _Pool:
    """One pool of pebble, its folder, and the thread that starts and ends it.

    The kernel takes the thread that started a process for its parent, and kills the process when
    that thread ends. So it is a thread that lives as long as the pool.
    """

    def __init__(self, count: int, start: _Start, max_tasks: int) -> None:
        self._count = count
        self._start = start
        self._max_tasks = max_tasks
        self._context = PoolContext(count)
        self._unfinished: set[Future[list[tuple[int, bytes]]]] = set()
        self._any_started = False
        self._begun: Future[None] = Future()
        self._made_at = time.monotonic()
        self.start_seconds: float | None = None
        self._ending = threading.Event()
        self._ended: Future[None] = Future()
        self._folder: ProcessFolder
        self._pool: ProcessPool
        threading.Thread(target=self._live, name="process pool", daemon=True).start()

    def _live(self) -> None:
        _block_terminal_signals()
        with ExitStack() as stack:
            stack.callback(self._ended.set_result, None)
            try:
                self._folder = ProcessFolder.make()
                stack.callback(self._folder.delete)
                self._pool = self._new_pool()
                stack.callback(self._kill)
                self._pool.schedule(_nothing).add_done_callback(self._note_first)
            except Exception as error:
                self._begun.set_exception(error)
            else:
                self._begun.set_result(None)
            self._ending.wait()

    def _new_pool(self) -> ProcessPool:
        return ProcessPool(
            max_workers=self._count,
            max_tasks=self._max_tasks,
            initializer=become_pool_process,
            initargs=(self._folder.path, *self._start),
            context=self._context,
        )

    def _note_first(self, nothing: Future[None]) -> None:
        if not nothing.cancelled() and nothing.exception() is None:
            self.start_seconds = time.monotonic() - self._made_at

    def _kill(self) -> None:
        self._pool.stop()  # type: ignore[no-untyped-call]
        self._pool.join()

    @property
    def died_at_start(self) -> bool:
        """Return True if the processes were started, and none of them has begun a task."""
        begun = self._begun.done() and self._begun.exception() is None
        return begun and not self._any_started

    async def started(self) -> None:
        """Return when the processes are starting. Raises BrokenProcessPool and UsageError."""
        await asyncio.shield(asyncio.wrap_future(self._begun))

    def schedule(
        self, seconds: float, function: Callable[..., Any], tasks: Sequence[bytes]
    ) -> "Future[list[tuple[int, bytes]]]":
        """Give tasks to the next process that becomes free. Raises BrokenProcessPool."""
        timeout = seconds * len(tasks) + TIMEOUT_SECONDS
        try:
            future = self._pool.schedule(execute, args=(function, tasks, seconds), timeout=timeout)
        except RuntimeError as error:
            if self._pool.active:
                raise
            raise BrokenProcessPool from error
        self._unfinished.add(future)
        future.add_done_callback(self._unfinished.discard)
        self._context.run_for(len(self._unfinished))
        return future

    async def result(
        self, future: "Future[list[tuple[int, bytes]]]", seconds: float
    ) -> list[tuple[int, bytes]]:
        """Wait for tasks. Raises BrokenProcessPool if the pool can no longer finish it.

        A thread of pebble that has ended is noticed at once. One that waits for ever is noticed by
        the time: the rest of a message of a process that was killed while it sent it never arrives.
        """
        result = asyncio.wrap_future(future)
        deadline, running = time.monotonic() + START_SECONDS + seconds, False
        try:
            while True:
                done, _ = await asyncio.wait([result], timeout=CHECK_SECONDS)
                if done:
                    self._any_started |= not isinstance(result.exception(), BrokenProcessPool)
                    return result.result()
                if future.running() and not running:
                    running = self._any_started = True
                    deadline = time.monotonic() + seconds + LOST_SECONDS
                if not self._pool.active or time.monotonic() > deadline:
                    raise BrokenProcessPool
        finally:
            result.cancel()

    def explain(self, error: ProcessExpired) -> PoolFailure:
        """Return why a process died, and delete what it has left."""
        output = self._folder.output_of(error.pid)
        self._folder.delete_process(error.pid)
        peak = self._context.take_peak(error.pid)
        return explain_death(error.exitcode, output, self._start.limits, peak)

    def outputs(self) -> list[bytes]:
        """Return what the processes have printed."""
        return [] if self._begun.exception() else self._folder.outputs()

    async def end(self) -> None:
        """Kill the processes, and delete their folder."""
        self._ending.set()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await asyncio.shield(asyncio.wrap_future(self._ended))
        except TimeoutError:
            log.warning(events.POOL_ABANDONED)


def _block_terminal_signals() -> None:
    """Block `TERMINAL_SIGNALS` in this thread, and in all that it starts.

    Processes inherit that, so they take no notice from their first instruction on: the parent
    decides, and may still need them. One of them is Python's resource tracker. Starting it unblocks
    SIGINT, so it is started first.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, TERMINAL_SIGNALS)
    resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_BLOCK, TERMINAL_SIGNALS)


def _nothing() -> None:
    """Do nothing. As a task, it makes the processes start."""
