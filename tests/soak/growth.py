"""Memory, descriptors and disk during a soak, and whether they grow."""

import os
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from redis.asyncio import Redis
from redis.exceptions import RedisError

from benchmarks.embedding.resources import ENDED, MEBIBYTE, memory
from tests.soak.programs import Programs

HOUR: Final = 3600.0


@dataclass(frozen=True)
class Growth:
    """A figure at the start and at the end of a series, its peak, and its slope per hour."""

    name: str
    samples: int
    start: float
    end: float
    peak: float
    per_hour: float


@dataclass
class Series:
    """The values of one figure, each with its time in seconds."""

    times: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def add(self, at: float, value: float) -> None:
        self.times.append(at)
        self.values.append(value)

    def growth(self, name: str) -> Growth:
        slope = 0.0
        if len(self.values) > 1:
            slope = statistics.linear_regression(self.times, self.values).slope
        ends = (self.values[0], self.values[-1], max(self.values), slope * HOUR)
        return Growth(name, len(self.values), *(round(value, 1) for value in ends))


@dataclass
class Watch:
    """Samples every process and folder of a soak.

    A program that starts again is a new series, which begins when it is ready.
    """

    programs: Programs
    series: dict[str, Series] = field(default_factory=dict)

    async def sample(self, at: float, redis: Redis) -> None:
        """Add one value to each series that has one now."""
        for program, running in self.programs.running.items():
            if not running.is_running or not running.was_ready():
                continue
            name = f"{program} {running.starts}"
            try:
                used, descriptors = memory(running.pid), len(os.listdir(f"/proc/{running.pid}/fd"))
            except ENDED:
                continue
            self._add(f"{name} memory MiB", at, used.parent)
            self._add(f"{name} pool memory MiB", at, used.children)
            self._add(f"{name} descriptors", at, descriptors)
        self._add("redis disk MiB", at, disk(self.programs.redis.folder))
        self._add("qdrant disk MiB", at, disk(self.programs.qdrant_folder))
        if (pid := self.programs.qdrant_pid()) is not None:
            self._add("qdrant memory MiB", at, memory(pid).parent)
        try:
            info = await redis.info("memory")
        except (RedisError, OSError):
            return
        self._add("redis memory MiB", at, info["used_memory"] / MEBIBYTE)

    def growth(self) -> Sequence[Growth]:
        """Return the growth of each series that is long enough to have one."""
        return [
            series.growth(name) for name, series in self.series.items() if len(series.values) > 1
        ]

    def _add(self, name: str, at: float, value: float) -> None:
        self.series.setdefault(name, Series()).add(at, value)


def disk(folder: Path) -> float:
    """Return how many MiB the files in ``folder`` take."""
    return sum(_sizes(folder)) / MEBIBYTE


def _sizes(folder: Path) -> Iterator[int]:
    for above, _, files in os.walk(folder):
        for name in files:
            try:
                yield os.lstat(Path(above, name)).st_blocks * 512
            except FileNotFoundError:
                continue
