"""Keeps the index equal to one folder, until it is stopped."""

import asyncio
import math
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import structlog

from ingestq.broker.connection import retry_until_redis_answers
from ingestq.broker.queue.dead_letters import DeadLetters
from ingestq.broker.watched_folders import WatchedFolders
from ingestq.client.client import IngestClient, new_submission
from ingestq.core import events
from ingestq.core.documents import Deletion, Lane
from ingestq.core.errors import BrokerUnavailable
from ingestq.core.paths import path_to_text
from ingestq.core.results import FailedDocument, WatchedFolderStatus
from ingestq.core.service import cancel, run_until_first
from producers.files.off_limits import KERNEL_ONLY, OffLimits
from producers.watch.changes import Changes, Watcher
from producers.watch.classifier import ClassifiedFiles, FileClassifier
from producers.watch.folder import Presence, WatchedFolder, document_path, is_visible
from producers.watch.hot_folder import HotFolder
from producers.watch.moves import MAX_EVENT_DELETIONS, MAX_POLLED_DELETIONS, Arrivals, Departures
from producers.watch.scanner import Scanner
from producers.watch.settling import FileState, SettledChange, SettlingPaths

log = structlog.get_logger()

TICK_SECONDS: Final = 0.2
"""Longest time between two checks for settled paths."""
RETRY_SECONDS: Final = 1.0
"""Time until the next attempt when the folder is missing or cannot be watched."""
REPORTED_FILES: Final = 20
"""Skipped files that are reported by name; there is room for no more on a page."""
MOVE_SECONDS: Final = 0.5
"""How much longer than it takes to settle a file may take to arrive where it was moved to."""
MAX_INTERACTIVE_DOCUMENTS: Final = 16
"""Up to so many documents found together are interactive, because somebody may be waiting for them;
more are bulk work."""


@dataclass(frozen=True)
class WatchConfig:
    """How folders are watched; times in seconds.

    A file is queued once it has not changed for ``settle_seconds``. The whole folder is scanned
    every ``rescan_seconds``. With ``poll_seconds`` the folder is polled at that interval instead of
    using events of the operating system. ``allow_mass_delete`` holds for the first scan only. What
    is ``off_limits`` is neither scanned nor are changes in it noticed.
    """

    settle_seconds: float = 2.0
    rescan_seconds: float = 300.0
    poll_seconds: float | None = None
    allow_mass_delete: bool = False
    off_limits: OffLimits = KERNEL_ONLY


class FolderWatch:
    """Keeps the index equal to one folder.

    ``arrivals`` is shared by the watches whose folders a file may move between.

    Waits while Redis is away or the queue is full. Meanwhile only changed paths are remembered, and
    if there are too many, only that a scan is needed.
    """

    def __init__(
        self,
        folder: WatchedFolder,
        config: WatchConfig,
        client: IngestClient,
        dead_letters: DeadLetters,
        reports: WatchedFolders,
        arrivals: Arrivals,
    ) -> None:
        self._folder = folder
        self._config = config
        self._client = client
        self._reports = reports
        self._arrivals = arrivals
        self._departures = Departures(config.settle_seconds + MOVE_SECONDS)
        self._presence = Presence(folder.path)
        self._classifier = FileClassifier(
            folder, self._presence, config.settle_seconds, config.off_limits
        )
        self._watcher = Watcher(
            folder.path, config.poll_seconds, self._classifier.snapshot, config.off_limits
        )
        self._settling = SettlingPaths(config.settle_seconds)
        self._hot_folder: HotFolder | None = None
        if folder.hot:
            self._hot_folder = HotFolder(
                folder, client, dead_letters, self._classifier, self._recheck, self._touch
            )
        self._scanner = self._hot_folder or Scanner(
            folder,
            client,
            self._presence,
            self._classifier,
            self._recheck,
            arrivals,
            config.settle_seconds,
            allow_mass_delete=config.allow_mass_delete,
        )
        self._unavailable = ""
        self._stopping = asyncio.Event()
        self._scan_at = math.inf

    def stop(self) -> None:
        """Let `run` return; the next scan finds what is not on the queue by then."""
        self._stopping.set()

    async def run(self) -> None:
        """Watch until `stop` is called. Raises UsageError if Redis refuses the credentials."""
        log.info(
            events.WATCH_STARTED,
            folder=str(self._folder.path),
            source=self._classifier.root.folder,
            collection=self._folder.collection,
        )
        loops = [
            self._watch(),
            self._queue_settled_paths(),
            self._queue_deletions(),
            self._reports.keep_reporting(self._status),
        ]
        if self._hot_folder is not None:
            loops.append(self._hot_folder.run())
        await run_until_first(self._stopping.wait(), *loops)
        with suppress(BrokerUnavailable):  # then the report expires
            await self._reports.forget(self._status())
        log.info(events.WATCH_STOPPED, folder=str(self._folder.path))

    def _status(self) -> WatchedFolderStatus:
        return WatchedFolderStatus(
            folder=path_to_text(self._folder.path),
            host=socket.gethostname(),
            collection=self._folder.collection,
            tenant=self._folder.tenant,
            unavailable=self._unavailable,
            skipped=len(self._classifier.skipped),
            skipped_files=self._classifier.skipped.first(REPORTED_FILES),
        )

    async def _watch(self) -> None:
        """Open a new watch for each scan: a watch that stopped reporting gives no sign of it."""
        while True:
            await self._wait_for_folder()
            if self._hot_folder is not None:
                await self._wait_until_clear(self._hot_folder)
            await self._watch_for_one_scan()

    async def _watch_for_one_scan(self) -> None:
        """Watch until the next scan is due, or until there is nothing to watch any more."""
        scanning: asyncio.Task[None] | None = None
        watched = self._presence.identity
        try:
            async with aclosing(self._watcher.changes()) as changes:
                async for found in changes:
                    # Not before the first yield: from here on every change is reported.
                    scanning = scanning or asyncio.create_task(self._scan())
                    self._touch_all(found)
                    if scanning.done():
                        scanning.result()
                        if time.monotonic() >= self._scan_at:
                            return
                    if not await asyncio.to_thread(self._is_usable):
                        return
                    if self._presence.identity != watched:
                        return
            await asyncio.sleep(RETRY_SECONDS)
        finally:
            if scanning is not None:
                await cancel(scanning)

    async def _wait_for_folder(self) -> None:
        if await asyncio.to_thread(self._presence.check):
            return
        reason = self._presence.reason
        log.warning(events.WATCH_UNAVAILABLE, folder=str(self._folder.path), reason=reason)
        while reason:
            self._unavailable = reason
            await asyncio.sleep(RETRY_SECONDS)
            await asyncio.to_thread(self._presence.check)
            reason = self._presence.reason
        self._unavailable = ""
        log.info(events.WATCH_AVAILABLE, folder=str(self._folder.path))

    async def _wait_until_clear(self, hot_folder: HotFolder) -> None:
        """Wait while processed files cannot be moved. Other folders and the worker go on."""
        reason = await asyncio.to_thread(hot_folder.obstacle)
        if reason is None:
            return
        log.error(events.HOT_FOLDER_BLOCKED, folder=str(self._folder.path), reason=reason)
        while reason is not None:
            self._unavailable = reason
            await asyncio.sleep(RETRY_SECONDS)
            reason = await asyncio.to_thread(hot_folder.obstacle)
        self._unavailable = ""
        log.info(events.WATCH_AVAILABLE, folder=str(self._folder.path))

    def _is_usable(self) -> bool:
        """Return whether the folder is there and its files can be moved if it is hot. Blocks."""
        return self._presence.check() and (
            self._hot_folder is None or self._hot_folder.obstacle() is None
        )

    def _touch_all(self, changes: Changes) -> None:
        for changed in changes.paths:
            path = document_path(changed)
            if is_visible(path.relative_to(self._folder.path)):
                # That a sidecar was removed says nothing of its document.
                self._touch(path, removed=path == changed and path in changes.removed)

    def _touch(self, path: Path, *, removed: bool = False) -> None:
        if not self._settling.touch(path, time.monotonic(), removed=removed):
            self._request_scan()

    def _recheck(self, unsettled: Mapping[Path, FileState]) -> None:
        now = time.monotonic()
        for path, state in unsettled.items():
            if not self._settling.recheck(path, state, now):
                self._request_scan()

    def _request_scan(self) -> None:
        self._scan_at = min(self._scan_at, time.monotonic() + self._config.settle_seconds)

    async def _queue_settled_paths(self) -> None:
        while True:
            await asyncio.sleep(self._seconds_to_next())
            due = self._settling.due(time.monotonic())
            if due:
                await retry_until_redis_answers(partial(self._queue_due, due))

    def _seconds_to_next(self) -> float:
        next_due = self._settling.next_due()
        if next_due is None:
            return TICK_SECONDS
        return min(max(next_due - time.monotonic(), 0.0), TICK_SECONDS)

    async def _queue_due(self, due: Mapping[Path, SettledChange]) -> None:
        version = await self._client.issue_version()
        classified = await asyncio.to_thread(self._classifier.classify, due, version)
        self._recheck(classified.unsettled)
        if classified.needs_scan:
            self._request_scan()
        self._departures.cancel(classified.documents)
        most = MAX_POLLED_DELETIONS if self._watcher.is_polling else MAX_EVENT_DELETIONS
        if not self._departures.add(classified.deletions, time.monotonic(), most):
            self._request_scan()
        few = len(classified.documents) <= MAX_INTERACTIVE_DOCUMENTS
        queue = self._queue if self._hot_folder is None else self._hot_folder.queue
        documents = await queue(classified, Lane.INTERACTIVE if few else Lane.BULK)
        if documents:
            self._log_queued(documents=documents)

    async def _queue(self, classified: ClassifiedFiles, lane: Lane) -> int:
        """Queue documents; return their number."""
        if not classified.documents:
            return 0
        submission = new_submission()
        async with self._arrivals.queueing(submission):
            await self._client.submit_many(
                classified.documents.values(),
                submission=submission,
                on_failed=self._skip,
                lane=lane,
            )
        return len(classified.documents)

    async def _queue_deletions(self) -> None:
        """Queue the deletion of what is gone, once workers are done with what arrived meanwhile."""
        while True:
            await asyncio.sleep(TICK_SECONDS)
            due = self._departures.due(time.monotonic())
            if not due:
                continue
            await retry_until_redis_answers(self._arrivals.changes_finished)
            deletions = self._departures.take(due)
            # If the folder itself is gone by now, the scan decides once it is back.
            is_there = await asyncio.to_thread(self._presence.check)
            if deletions and is_there:
                await retry_until_redis_answers(partial(self._delete, deletions))
                self._log_queued(deletions=len(deletions))

    async def _delete(self, deletions: Sequence[Deletion]) -> None:
        submission = new_submission()
        await self._client.delete_many(deletions, submission=submission, lane=Lane.INTERACTIVE)

    def _log_queued(self, *, documents: int = 0, deletions: int = 0) -> None:
        log.info(
            events.WATCH_QUEUED,
            folder=str(self._folder.path),
            documents=documents,
            deletions=deletions,
        )

    async def _scan(self) -> None:
        self._scan_at = math.inf
        await self._scanner.scan()
        self._scan_at = min(self._scan_at, time.monotonic() + self._config.rescan_seconds)

    def _skip(self, failed: FailedDocument) -> None:
        self._classifier.skipped.add(failed.doc_id, failed.reason)
