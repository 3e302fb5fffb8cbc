"""What processes take of the machine, as the kernel counts it."""

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MEBIBYTE: Final = 1024 * 1024
TICKS_A_SECOND: Final = os.sysconf("SC_CLK_TCK")
ENDED: Final = (FileNotFoundError, ProcessLookupError)
"""How the kernel says that a process is gone."""


@dataclass(frozen=True)
class Memory:
    """Proportional set size in MiB: memory that processes share is counted once, in equal parts.

    ``children`` is that of all descendants together.
    """

    parent: float
    children: float


def memory(pid: int) -> Memory:
    """What the process and its descendants hold."""
    return Memory(_pss(pid), sum(map(_pss, descendants(pid))))


def cpu_seconds(*pids: int) -> float:
    """Processor time that these processes took so far, without their children."""
    return sum(map(_cpu_seconds, pids))


def children_cpu_seconds(pid: int) -> float:
    """Processor time that the descendants of a process took so far, those that have ended, too."""
    ended = _cpu_seconds(pid, ended=True) - _cpu_seconds(pid)
    return ended + sum(_cpu_seconds(child, ended=True) for child in descendants(pid))


def descendants(pid: int) -> list[int]:
    """Children, their children, and so on; nothing of a process that has ended meanwhile."""
    found = []
    with suppress(*ENDED):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                found += [child, *descendants(child)]
    return found


@dataclass(frozen=True)
class Usage:
    """Seconds so far: of all processors at work, of that for this process and its descendants, and
    on the clock."""

    busy: float
    own: float
    clock: float

    @classmethod
    def now(cls) -> "Usage":
        total = Path("/proc/stat").read_text().split(maxsplit=9)[1:9]
        user, nice, system, _, _, irq, softirq, steal = (int(t) / TICKS_A_SECOND for t in total)
        times = os.times()
        ended = times.children_user + times.children_system
        own = times.user + times.system + ended
        own += sum(_cpu_seconds(pid, ended=True) for pid in descendants(os.getpid()))
        return cls(user + nice + system + irq + softirq + steal, own, time.monotonic())

    def taken_by_others(self, before: "Usage", cores: int) -> float:
        """The share of the machine's processors that other processes had since ``before``."""
        others = (self.busy - before.busy) - (self.own - before.own)
        return max(0.0, others / cores / (self.clock - before.clock))


def _pss(pid: int) -> float:
    """Nothing for a process that has ended meanwhile."""
    with suppress(*ENDED):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024 / MEBIBYTE
    return 0.0


def _cpu_seconds(pid: int, *, ended: bool = False) -> float:
    """Of the process, and with ``ended`` of those of its children that have ended.

    Nothing for a process that has ended meanwhile.
    """
    with suppress(*ENDED):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11 : 15 if ended else 13])) / TICKS_A_SECOND
    return 0.0
