"""Memory and CPU time of processes, as the kernel counts them."""

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MEBIBYTE: Final = 1024 * 1024
TICKS_A_SECOND: Final = os.sysconf("SC_CLK_TCK")
ENDED: Final = (FileNotFoundError, ProcessLookupError)
"""Raised when a process has ended."""


@dataclass(frozen=True)
class Memory:
    """Proportional set size in MiB: memory that processes share is counted once, in equal parts.

    ``children`` is that of all descendants together.
    """

    parent: float
    children: float


def memory(pid: int) -> Memory:
    """Return the memory of a process and of its descendants."""
    return Memory(_pss(pid), sum(map(_pss, descendants(pid))))


def cpu_seconds(*pids: int) -> float:
    """Return the CPU time of these processes so far, without their children."""
    return sum(map(_cpu_seconds, pids))


def children_cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process's descendants so far, including those that have ended."""
    ended = _cpu_seconds(pid, ended=True) - _cpu_seconds(pid)
    return ended + sum(_cpu_seconds(child, ended=True) for child in descendants(pid))


def descendants(pid: int) -> list[int]:
    """Return the ids of all descendants; none for a process that has ended meanwhile."""
    found = []
    with suppress(*ENDED):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (task / "children").read_text(encoding="utf-8").split()):
                found += [child, *descendants(child)]
    return found


@dataclass(frozen=True)
class Usage:
    """CPU seconds so far of all processes, and of this one with its descendants; and the time on
    the clock."""

    busy: float
    own: float
    clock: float

    @classmethod
    def now(cls) -> "Usage":
        """Return the usage so far."""
        total = Path("/proc/stat").read_text(encoding="utf-8").split(maxsplit=9)[1:9]
        user, nice, system, _, _, irq, softirq, steal = (int(t) / TICKS_A_SECOND for t in total)
        times = os.times()
        ended = times.children_user + times.children_system
        own = times.user + times.system + ended
        own += sum(_cpu_seconds(pid, ended=True) for pid in descendants(os.getpid()))
        return cls(user + nice + system + irq + softirq + steal, own, time.monotonic())

    def taken_by_others(self, before: "Usage", cores: int) -> float:
        """Return the share of the machine's CPU time that other processes had since ``before``."""
        others = (self.busy - before.busy) - (self.own - before.own)
        return max(0.0, others / cores / (self.clock - before.clock))


def _pss(pid: int) -> float:
    """Return the PSS in MiB; 0 for a process that has ended meanwhile."""
    with suppress(*ENDED):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024 / MEBIBYTE
    return 0.0


def _cpu_seconds(pid: int, *, ended: bool = False) -> float:
    """Return the CPU time of a process, and with ``ended`` of its ended children.

    0 for a process that has ended meanwhile.
    """
    with suppress(*ENDED):
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return sum(map(int, fields[11 : 15 if ended else 13])) / TICKS_A_SECOND
    return 0.0
