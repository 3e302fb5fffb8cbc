"""Watches a folder for changed paths: by events of the operating system, or by polling."""

import asyncio
import os
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import structlog
from watchfiles import Change, watch

from ingestq.core import events
from ingestq.core.errors import describe
from producers.watch.settling import FileState

log = structlog.get_logger()

Paths = frozenset[Path]
Snapshot = Callable[[], Mapping[Path, FileState]]

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
LIMIT_HINT: Final = (
    "the system's limit for watching files is reached; raise it: sysctl "
    "fs.inotify.max_user_watches=524288 fs.inotify.max_user_instances=512"
)


class Watcher:
    """Watches one folder and everything in it, by events unless ``poll_seconds`` is given.

    Falls back to polling when the system's limits do not allow enough watches. ``snapshot`` returns
    the state of all files, for polling.
    """

    def __init__(self, folder: Path, poll_seconds: float | None, snapshot: Snapshot) -> None:
        self._folder = folder
        self._poll_seconds = poll_seconds
        self._snapshot = snapshot
        self._limit_logged = False

    async def changes(self) -> AsyncGenerator[Paths]:
        """Yield the paths at which something happened, and an empty set at every quiet tick.

        The first set comes once everything is watched. Ends if the folder cannot be watched any
        more.
        """
        stopping = threading.Event()
        changes = self._watch(stopping)
        loop = asyncio.get_running_loop()
        thread = ThreadPoolExecutor(1, "watching")  # of its own: it is blocked all the time
        try:
            while (paths := await loop.run_in_executor(thread, next, changes, None)) is not None:
                yield paths
        finally:
            stopping.set()
            thread.shutdown(wait=False)

    def _watch(self, stopping: threading.Event) -> Iterator[Paths]:
        try:
            if self._poll_seconds is None and (yield from self._watch_by_events(stopping)):
                return
            yield from self._poll(stopping)
        except (OSError, RuntimeError) as error:  # the library's own error is a RuntimeError
            log.warning(events.DROP_WATCH_ENDED, folder=str(self._folder), error=describe(error))

    def _watch_by_events(self, stopping: threading.Event) -> Generator[Paths, None, bool]:
        """Watch by events; return False if the system's limits do not allow it."""
        try:
            yield from self._watch_readable(stopping)
        except (OSError, RuntimeError) as error:
            if not any(limit in str(error) for limit in LIMIT_ERRORS):
                raise
            if not self._limit_logged:
                log.warning(
                    events.DROP_POLLING,
                    folder=str(self._folder),
                    seconds=FALLBACK_POLL_SECONDS,
                    reason=LIMIT_HINT,
                )
            self._limit_logged = True
            return False
        self._limit_logged = False
        return True

    def _watch_readable(self, stopping: threading.Event) -> Iterator[Paths]:
        try:
            yield from self._events(stopping, ignore_permission_denied=False)
        except PermissionError:
            # Scans report a folder without read permission. With the option, the library does not
            # report that a limit was reached either: then only scans find what changed.
            yield from self._events(stopping, ignore_permission_denied=True)

    def _events(
        self, stopping: threading.Event, *, ignore_permission_denied: bool
    ) -> Iterator[Paths]:
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
            yield Paths(
                self._folder / Path(path).relative_to(real)
                for change, path in changes
                # A modified folder is no change: what changed in it has events of its own.
                if change is not Change.modified or not os.path.isdir(path)  # noqa: PTH112
            )

    def _poll(self, stopping: threading.Event) -> Iterator[Paths]:
        seconds = FALLBACK_POLL_SECONDS if self._poll_seconds is None else self._poll_seconds
        before = self._snapshot()
        polled = time.monotonic()
        yield Paths()
        while not stopping.wait(TICK_MS / 1000):
            if time.monotonic() - polled < seconds:
                yield Paths()
                continue
            now = self._snapshot()
            polled = time.monotonic()
            yield Paths(path for path, _ in before.items() ^ now.items())
            before = now
