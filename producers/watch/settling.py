"""Which files something happened to, and which of them are still since then.

Times are seconds of a clock that never goes back. Only paths are kept, and a bounded number.
"""

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MOST_CHANGES: Final = 10_000
"""Paths that are remembered; when there are more, a scan finds them in one go."""
NANOSECONDS: Final = 1_000_000_000


@dataclass(frozen=True)
class FileState:
    """What changes when a file is written to."""

    size: int
    modified_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> "FileState":
        return cls(status.st_size, status.st_mtime_ns)


@dataclass(frozen=True)
class _Stillness:
    since: float
    state: FileState | None


class Settling:
    """Paths to be looked at when they have been still for ``seconds``."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._since: dict[Path, _Stillness] = {}

    def touch(self, path: Path, now: float) -> bool:
        """Something happened at ``path``. False if too much did: all of it is forgotten."""
        if path not in self._since and len(self._since) == MOST_CHANGES:
            self._since.clear()
            return False
        self._since[path] = _Stillness(now, None)
        return True

    def due(self, now: float) -> dict[Path, FileState | None]:
        """The paths at which nothing happened for long enough, and their last known state.

        They are forgotten: who finds one of them changing, calls `watch`.
        """
        due = {
            path: still.state
            for path, still in self._since.items()
            if still.since + self.seconds <= now
        }
        for path in due:
            del self._since[path]
        return due

    def next_due(self) -> float | None:
        """When `due` is going to answer with something, if nothing happens until then."""
        if not self._since:
            return None
        return min(still.since for still in self._since.values()) + self.seconds

    def watch(self, path: Path, state: FileState, now: float) -> bool:
        """The file at ``path`` is to be ``state`` for some time yet. False as `touch`."""
        if path in self._since:  # something happened meanwhile, which counts for more
            return True
        if not self.touch(path, now):
            return False
        self._since[path] = _Stillness(now, state)
        return True

    def __len__(self) -> int:
        return len(self._since)


def is_still(status: os.stat_result, known: FileState | None, seconds: float, wall_ns: int) -> bool:
    """Whether a file has not been written to for ``seconds``.

    Either its time of modification says so, or it is as it was ``known`` to be so long ago: that
    time is not to be trusted where the file came from a machine with another clock.
    """
    if not stat.S_ISREG(status.st_mode) or FileState.of(status) == known:
        return True
    return wall_ns - status.st_mtime_ns >= seconds * NANOSECONDS
