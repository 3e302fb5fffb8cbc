"""Paths at which something changed, held back until they have been quiet for a while.

Times are seconds on a monotonic clock. Only paths are kept, and a bounded number of them.
"""

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MAX_CHANGES: Final = 10_000
"""Paths kept at once; beyond that, one scan of the whole folder is cheaper."""
NANOSECONDS: Final = 1_000_000_000


@dataclass(frozen=True)
class FileState:
    """Size and modification time: what changes when a file is written to."""

    size: int
    modified_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> "FileState":
        """Return the state that ``status`` shows."""
        return cls(status.st_size, status.st_mtime_ns)


@dataclass(frozen=True)
class _LastChange:
    """When a path last changed, and its state then if that is known."""

    at: float
    state: FileState | None


class SettlingPaths:
    """Paths that become due once nothing has happened to them for ``seconds``."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._changes: dict[Path, _LastChange] = {}

    def touch(self, path: Path, now: float) -> bool:
        """Record a change at ``path``.

        Return False, and forget all paths, if there are too many: the caller has to scan.
        """
        if path not in self._changes and len(self._changes) == MAX_CHANGES:
            self._changes.clear()
            return False
        self._changes[path] = _LastChange(now, None)
        return True

    def due(self, now: float) -> dict[Path, FileState | None]:
        """Remove and return the paths that have been quiet long enough, with their last known
        state.

        The caller gives a file that turns out to be still changing back with `recheck`.
        """
        due = {
            path: change.state
            for path, change in self._changes.items()
            if change.at + self.seconds <= now
        }
        for path in due:
            del self._changes[path]
        return due

    def next_due(self) -> float | None:
        """Return when the next path becomes due if nothing else happens; None without paths."""
        if not self._changes:
            return None
        return min(change.at for change in self._changes.values()) + self.seconds

    def recheck(self, path: Path, state: FileState, now: float) -> bool:
        """Make ``path`` due again later, to see whether it is still in ``state`` then.

        A change recorded meanwhile takes precedence. Return False in the same case as `touch`.
        """
        if path in self._changes:
            return True
        if not self.touch(path, now):
            return False
        self._changes[path] = _LastChange(now, state)
        return True

    def __len__(self) -> int:
        return len(self._changes)


def is_settled(
    status: os.stat_result, known: FileState | None, seconds: float, wall_ns: int
) -> bool:
    """Return whether a file has not been written to for ``seconds``.

    Either its modification time says so, or its state is the one ``known`` from ``seconds`` ago: a
    file that came from a machine with another clock may have any modification time.
    """
    if not stat.S_ISREG(status.st_mode) or FileState.of(status) == known:
        return True
    return wall_ns - status.st_mtime_ns >= seconds * NANOSECONDS
