"""Tells which paths of a folder something happened at: from the system's events, or by polling."""

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
SILENCE_MS: Final = 250
"""So often something is told, if only that nothing happened."""
GROUP_MS: Final = 400
"""Events that come one after the other are told together, but not later than this."""
STEP_MS: Final = 50
LIMITS: Final = ("OS file watch limit reached", "Too many open files", "No space left on device")
"""What errors of the watcher say when the system's limits for inotify are reached."""
ADVICE: Final = (
    "the system's limit for watching files is reached; raise it: sysctl "
    "fs.inotify.max_user_watches=524288 fs.inotify.max_user_instances=512"
)


class Watcher:
    """Watches one folder with all in it, by events unless ``poll_seconds`` is given.

    Falls back to polling when the system cannot watch as much; ``snapshot`` says how files are.
    """

    def __init__(self, folder: Path, poll_seconds: float | None, snapshot: Snapshot) -> None:
        self._folder = folder
        self._poll_seconds = poll_seconds
        self._snapshot = snapshot
        self._limited = False

    async def changes(self) -> AsyncGenerator[Paths]:
        """The paths at which something happened, and nothing now and then.

        The first comes when everything is watched. Ends if the folder cannot be watched any more.
        """
        stopping = threading.Event()
        told = self._watch(stopping)
        loop = asyncio.get_running_loop()
        thread = ThreadPoolExecutor(1, "watching")  # it is held all the time
        try:
            while (paths := await loop.run_in_executor(thread, next, told, None)) is not None:
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
        """False if the system cannot watch as much."""
        try:
            yield from self._events(stopping)
        except (OSError, RuntimeError) as error:
            if not any(limit in str(error) for limit in LIMITS):
                raise
            if not self._limited:
                log.warning(
                    events.DROP_POLLING,
                    folder=str(self._folder),
                    seconds=FALLBACK_POLL_SECONDS,
                    reason=ADVICE,
                )
            self._limited = True
            return False
        self._limited = False
        return True

    def _events(self, stopping: threading.Event) -> Iterator[Paths]:
        try:
            yield from self._told(stopping, ignore_permission_denied=False)
        except PermissionError:
            # A folder that may not be read is reported by the scan. This way, the library does not
            # say either that a limit was reached: then it is up to the scans to find what changed.
            yield from self._told(stopping, ignore_permission_denied=True)

    def _told(
        self, stopping: threading.Event, *, ignore_permission_denied: bool
    ) -> Iterator[Paths]:
        real = os.path.realpath(self._folder)  # some systems name what changed by it anyway
        for told in watch(
            real,
            watch_filter=None,
            debounce=GROUP_MS,
            step=STEP_MS,
            stop_event=stopping,
            rust_timeout=SILENCE_MS,
            yield_on_timeout=True,
            debug=False,
            force_polling=False,
            ignore_permission_denied=ignore_permission_denied,
        ):
            yield Paths(
                self._folder / Path(path).relative_to(real)
                for change, path in told
                # What is in a folder that is modified is told of by itself.
                if change is not Change.modified or not os.path.isdir(path)  # noqa: PTH112
            )

    def _poll(self, stopping: threading.Event) -> Iterator[Paths]:
        seconds = self._poll_seconds or FALLBACK_POLL_SECONDS
        before = self._snapshot()
        looked = time.monotonic()
        yield Paths()
        while not stopping.wait(SILENCE_MS / 1000):
            if time.monotonic() - looked < seconds:
                yield Paths()
                continue
            now = self._snapshot()
            looked = time.monotonic()
            yield Paths(path for path, _ in before.items() ^ now.items())
            before = now
