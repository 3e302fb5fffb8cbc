"""Starts processes as there is work for them, and keeps how much memory those that crashed had.

A pool has all its processes from the beginning. Those that it does not need yet wait before they
load anything: for a single document, the libraries of one are loaded.

A crash does not say that memory ran out: PDFium, for one, aborts without a word. The kernel tells
the peak of a process's memory to whoever waits for it with ``wait4``, which `multiprocessing` does
not use.
"""

import os
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext, SpawnProcess
from multiprocessing.popen_spawn_posix import Popen
from multiprocessing.reduction import ForkingPickler
from typing import Any, Final

RSS_UNIT: Final = 1 if sys.platform == "darwin" else 1024
"""Of the kernel's peak of a process's memory, in bytes."""
TURN: Final = b"."
"""What a waiting process reads when it is needed."""


class PoolContext(SpawnContext):
    """Starts the ``count`` processes of a pool; see `multiprocessing.get_context`.

    The first process runs at once, the others wait until `run_for` needs them. Processes that
    replace others do not wait.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self._count = count
        self._made = 0
        self._running = 1
        self._turns, self._give_turn = self.Pipe(duplex=False)
        self._peaks: dict[int, int] = {}

    def Process(self, *args: Any, **kwargs: Any) -> SpawnProcess:  # type: ignore[override]  # noqa: N802
        """Return a process that can be started."""
        process = _PoolProcess(*args, **kwargs)
        process.turns = self._turns if 1 <= self._made < self._count else None
        process.peaks = self._peaks
        self._made += 1
        return process

    def run_for(self, tasks: int) -> None:
        """Let so many processes run that each of ``tasks`` has one, as far as there are so many."""
        while self._running < min(tasks, self._count):
            os.write(self._give_turn.fileno(), TURN)
            self._running += 1

    def take_peak(self, pid: int) -> int:
        """Return the peak of the memory of a process that crashed; 0 if it is not known.

        It is returned once.
        """
        return self._peaks.pop(pid, 0)


class _PoolProcess(SpawnProcess):
    """A process that waits for its turn, if it has to, before it imports what it will run."""

    turns: Connection | None
    peaks: dict[int, int]
    _target: Callable[..., object]
    _args: tuple[Any, ...]
    _kwargs: dict[str, Any]

    def __getstate__(self) -> dict[str, Any]:
        task = bytes(ForkingPickler.dumps((self._target, self._args, self._kwargs)))
        return self.__dict__ | {"_target": None, "_args": (task,), "_kwargs": {}}

    def run(self) -> None:
        """Run what the pool wants, when it is this process's turn."""
        # Not `recv`: several processes read. Nothing comes if the pool has ended.
        if self.turns is not None and not os.read(self.turns.fileno(), len(TURN)):
            return
        [task] = self._args
        self._target, self._args, self._kwargs = ForkingPickler.loads(task)
        super().run()

    @staticmethod
    def _Popen(process: Any) -> "_MeasuredPopen":  # noqa: N802
        peaks, process.peaks = process.peaks, {}  # the new process does not need them
        return _MeasuredPopen(process, peaks)


class _MeasuredPopen(Popen):
    def __init__(self, process: Any, peaks: dict[int, int]) -> None:
        self._peaks = peaks
        super().__init__(process)

    def poll(self, flag: int = os.WNOHANG) -> int | None:
        """Return the exit code, negative for a signal; None if the process runs."""
        if self.returncode is None:
            try:
                pid, status, usage = os.wait4(self.pid, flag)
            except ChildProcessError:
                return None
            if pid == self.pid:
                self.returncode = os.waitstatus_to_exitcode(status)
                if self.returncode < 0:
                    self._peaks[pid] = usage.ru_maxrss * RSS_UNIT
        return self.returncode
