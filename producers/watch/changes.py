"""Watches a folder for changed paths: by events of the operating system, or by polling."""

import asyncio
import os
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog
from watchfiles import Change, watch

from ingestq.core import events
from ingestq.core.errors import describe
from producers.files.links import place_in
from producers.files.off_limits import OffLimits
from producers.watch.folder import is_visible
from producers.watch.settling import FileState

log = structlog.get_logger()

Snapshot = Callable[[], Mapping[str, FileState] | None]

FALLBACK_POLL_SECONDS: Final = 5.0
TICK_MS: Final = 250
"""How often a watcher yields, with no paths if nothing happened."""
DEBOUNCE_MS: Final = 400
"""Longest time for which events that follow each other are collected into one group."""
STEP_MS: Final = 50
LIMIT_ERRORS: Final = (
    "OS file watch limit reached",
    "Too many open files",
    "No space left on device",
)
"""Texts of the watcher's errors when the system's limits for inotify are reached."""
TOO_MANY: Final = (
    "there are too many files to compare; changes are found by scans, every "
    "INGESTQ_DROP_RESCAN_SECONDS"
)
NAME_ERROR: Final = "Unable to decode path"
"""Text of the watcher's error about a folder whose name is not valid UTF-8."""
NAME_HINT: Final = (
    "the name of a folder in it is not valid UTF-8, and its changes cannot be watched; rename it"
)
LIMIT_HINT: Final = (
    "the system's limit for watching files is reached; raise it: sysctl "
    "fs.inotify.max_user_watches=524288 fs.inotify.max_user_instances=512"
)


@dataclass(frozen=True)
class Changes:
    """Paths at which something happened. What was at one of ``removed`` was removed or moved away;
    something else may be there now."""

    paths: frozenset[Path] = frozenset()
    removed: frozenset[Path] = frozenset()


NO_CHANGES: Final = Changes()


class Watcher:
    """Watches one folder and everything in it, by events unless ``poll_seconds`` is given.

    Falls back to polling when the system's limits do not allow enough watches, or when a folder has
    a name that the library cannot read. ``snapshot`` returns the state of all files, for polling;
    None if there are too many: then only scans find changes.
    Changes of own files, which are ``off_limits``, are not reported: there is no end of them.
    """

    def __init__(
        self, folder: Path, poll_seconds: float | None, snapshot: Snapshot, off_limits: OffLimits
    ) -> None:
        self._folder = folder
        self._poll_seconds = poll_seconds
        self._snapshot = snapshot
        self._off_limits = off_limits
        self.is_polling = poll_seconds is not None
        """Whether the changes are found by polling."""
        self._logged_reason: str | None = None
        self._too_many_logged = False

    async def changes(self) -> AsyncGenerator[Changes]:
        """Yield what changed, and no changes at every quiet tick.

        The first are yielded once everything is watched. Ends if the folder cannot be watched any
        more.
        """
        stopping = threading.Event()
        changes = self._watch(stopping)
        loop = asyncio.get_running_loop()
        thread = ThreadPoolExecutor(1, "watching")  # of its own: it is blocked all the time
        try:
            while (found := await loop.run_in_executor(thread, next, changes, None)) is not None:
                yield found
        finally:
            stopping.set()
            thread.shutdown(wait=False)

    def _watch(self, stopping: threading.Event) -> Iterator[Changes]:
        try:
            if self._poll_seconds is None:
                self.is_polling = False
                if (yield from self._watch_by_events(stopping)):
                    return
            yield from self._poll(stopping)
        except (OSError, RuntimeError) as error:  # the library's own error is a RuntimeError
            log.warning(events.WATCH_FAILED, folder=str(self._folder), error=describe(error))

    def _watch_by_events(self, stopping: threading.Event) -> Generator[Changes, None, bool]:
        """Watch by events; return False if limits of the system or a folder's name prevent it."""
        try:
            yield from self._watch_readable(stopping)
        except (OSError, RuntimeError) as error:
            reason = _reason_to_poll(str(error))
            if reason is None:
                raise
            if self._logged_reason != reason:
                log.warning(
                    events.WATCH_POLLING,
                    folder=str(self._folder),
                    seconds=FALLBACK_POLL_SECONDS,
                    reason=reason,
                )
            self._logged_reason = reason
            self.is_polling = True
            return False
        self._logged_reason = None
        return True

    def _watch_readable(self, stopping: threading.Event) -> Iterator[Changes]:
        try:
            yield from self._events(stopping, ignore_permission_denied=False)
        except PermissionError:
            # Scans report a folder without read permission. With the option, the library does not
            # report that a limit was reached either: then only scans find what changed.
            yield from self._events(stopping, ignore_permission_denied=True)

    def _events(
        self, stopping: threading.Event, *, ignore_permission_denied: bool
    ) -> Iterator[Changes]:
        real = os.path.realpath(self._folder)  # some systems report paths by it anyway
        for changes in watch(
            real,
            watch_filter=None,
            debounce=DEBOUNCE_MS,
            step=STEP_MS,
            stop_event=stopping,
            rust_timeout=TICK_MS,
            yield_on_timeout=True,
            debug=False,
            force_polling=False,
            ignore_permission_denied=ignore_permission_denied,
        ):
            found = [
                (change, self._place_of(self._folder / Path(path).relative_to(real)))
                for change, path in changes
                # A modified folder is no change: what changed in it has events of its own.
                if change is not Change.modified or not os.path.isdir(path)  # noqa: PTH112
                if not self._off_limits.holds(Path(path))
            ]
            yield Changes(
                frozenset(path for _, path in found),
                frozenset(path for change, path in found if change is Change.deleted),
            )

    def _place_of(self, path: Path) -> Path:
        """Return the path to report: the system names a folder by any of the links to it."""
        place = place_in(self._folder, path)
        if place is None or not is_visible(place.relative_to(self._folder)):
            return path
        return place

    def _poll(self, stopping: threading.Event) -> Iterator[Changes]:
        seconds = FALLBACK_POLL_SECONDS if self._poll_seconds is None else self._poll_seconds
        before = self._snapshot()
        polled = time.monotonic()
        yield NO_CHANGES
        while not stopping.wait(TICK_MS / 1000):
            if time.monotonic() - polled < seconds:
                yield NO_CHANGES
                continue
            now = self._snapshot()
            polled = time.monotonic()
            if before is None or now is None:
                self._log_too_many(seconds)
                yield NO_CHANGES
            else:
                changed = frozenset(Path(path) for path, _ in before.items() ^ now.items())
                yield Changes(changed, frozenset(map(Path, before.keys() - now.keys())))
            before = now

    def _log_too_many(self, seconds: float) -> None:
        if not self._too_many_logged:
            folder = str(self._folder)
            log.warning(events.WATCH_POLLING, folder=folder, seconds=seconds, reason=TOO_MANY)
        self._too_many_logged = True


def _reason_to_poll(error: str) -> str | None:
    if any(limit in error for limit in LIMIT_ERRORS):
        return LIMIT_HINT
    return NAME_HINT if NAME_ERROR in error else None
