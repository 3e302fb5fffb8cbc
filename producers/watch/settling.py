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


@dataclass(frozen=True, slots=True)
class FileState:
    """Size, mtime and ctime: what changes when a file is written to or another takes its name."""

    size: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> "FileState":
        """Return the state that ``status`` shows."""
        return cls(status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@dataclass(frozen=True)
class SettledChange:
    """What is known of a path that was quiet long enough.

    ``state`` is that in which its file was last seen unsettled, if it was. ``removed`` is true if
    what was there before was removed.
    """

    state: FileState | None = None
    removed: bool = False


@dataclass(frozen=True)
class _LastChange:
    """When a path last changed, and what is known of it."""

    at: float
    known: SettledChange


class SettlingPaths:
    """Paths that become due once nothing has happened to them for ``seconds``."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._changes: dict[Path, _LastChange] = {}

    def touch(self, path: Path, now: float, *, removed: bool = False) -> bool:
        """Record a change at ``path``, from where something was ``removed``.

        Return False, and forget all paths, if there are too many: the caller has to scan.
        """
        before = self._changes.get(path)
        if before is None and len(self._changes) == MAX_CHANGES:
            self._changes.clear()
            return False
        removed = removed or (before is not None and before.known.removed)
        self._changes[path] = _LastChange(now, SettledChange(removed=removed))
        return True

    def due(self, now: float) -> dict[Path, SettledChange]:
        """Remove and return the paths that have been quiet long enough.

        The caller gives a file that turns out to be still changing back with `recheck`.
        """
        due = {
            path: change.known
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
        self._changes[path] = _LastChange(now, SettledChange(state))
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
