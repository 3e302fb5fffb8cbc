"""Keeps the index equal to one folder, until it is stopped."""

import asyncio
import math
import time
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import structlog

from ingestq.broker.connection import retry_until_redis_answers
from ingestq.broker.queue.dead_letters import DeadLetters
from ingestq.client.client import IngestClient, new_submission
from ingestq.core import events
from ingestq.core.documents import Lane
from ingestq.core.results import FailedDocument
from ingestq.core.service import cancel, run_until_first
from producers.watch.changes import Paths, Watcher
from producers.watch.classifier import ClassifiedFiles, FileClassifier
from producers.watch.folder import Presence, WatchedFolder, document_path, is_visible
from producers.watch.hot_folder import HotFolder
from producers.watch.scanner import Scanner
from producers.watch.settling import FileState, SettlingPaths

log = structlog.get_logger()

TICK_SECONDS: Final = 0.2
"""Longest time between two checks for settled paths."""
RETRY_SECONDS: Final = 1.0
"""Time until the next attempt when the folder is missing or cannot be watched."""
MAX_INTERACTIVE_DOCUMENTS: Final = 16
"""Up to so many documents found together are interactive, because somebody may be waiting for them;
more are bulk work."""


@dataclass(frozen=True)
class WatchConfig:
    """How folders are watched; times in seconds.

    A file is queued once it has not changed for ``settle_seconds``. The whole folder is scanned
    every ``rescan_seconds``. With ``poll_seconds`` the folder is polled at that interval instead of
    using events of the operating system. ``allow_mass_delete`` holds for the first scan only.
    """

    settle_seconds: float = 2.0
    rescan_seconds: float = 300.0
    poll_seconds: float | None = None
    allow_mass_delete: bool = False


class FolderWatch:
    """Keeps the index equal to one folder.

    Waits while Redis is away or the queue is full. Meanwhile only changed paths are remembered, and
    if there are too many, only that a scan is needed.
    """

    def __init__(
        self,
        folder: WatchedFolder,
        config: WatchConfig,
        client: IngestClient,
        dead_letters: DeadLetters,
    ) -> None:
        self._folder = folder
        self._config = config
        self._client = client
        self._presence = Presence(folder.path)
        self._classifier = FileClassifier(folder, self._presence, config.settle_seconds)
        self._watcher = Watcher(folder.path, config.poll_seconds, self._classifier.snapshot)
        self._settling = SettlingPaths(config.settle_seconds)
        self._hot_folder: HotFolder | None = None
        if folder.hot:
            self._hot_folder = HotFolder(
                folder, client, dead_letters, self._classifier, self._recheck, self._touch
            )
        self._scanner = self._hot_folder or Scanner(
            folder,
            client,
            dead_letters,
            self._presence,
            self._classifier,
            self._recheck,
            allow_mass_delete=config.allow_mass_delete,
        )
        self._stopping = asyncio.Event()
        self._scan_at = math.inf

    def stop(self) -> None:
        """Let `run` return; the next scan finds what is not on the queue by then."""
        self._stopping.set()

    async def run(self) -> None:
        """Watch until `stop` is called. Raises UsageError if Redis refuses the credentials."""
        log.info(
            events.DROP_STARTED,
            folder=str(self._folder.path),
            source=self._classifier.root.folder,
            collection=self._folder.collection,
        )
        loops = [self._watch(), self._queue_settled_paths()]
        if self._hot_folder is not None:
            loops.append(self._hot_folder.run())
        await run_until_first(self._stopping.wait(), *loops)
        log.info(events.DROP_STOPPED, folder=str(self._folder.path))

    async def _watch(self) -> None:
        """Open a new watch for each scan: a watch that stopped reporting gives no sign of it."""
        while True:
            await self._wait_for_folder()
            await self._watch_for_one_scan()

    async def _watch_for_one_scan(self) -> None:
        """Watch until the next scan is due, or until there is nothing to watch any more."""
        scanning: asyncio.Task[None] | None = None
        watched = self._presence.identity
        try:
            async with aclosing(self._watcher.changes()) as changes:
                async for paths in changes:
                    # Not before the first yield: from here on every change is reported.
                    scanning = scanning or asyncio.create_task(self._scan())
                    self._touch_all(paths)
                    if scanning.done():
                        scanning.result()
                        if time.monotonic() >= self._scan_at:
                            return
                    if not await asyncio.to_thread(self._presence.check):
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
        log.warning(events.DROP_AWAY, folder=str(self._folder.path))
        while True:
            await asyncio.sleep(RETRY_SECONDS)
            if await asyncio.to_thread(self._presence.check):
                break
        log.info(events.DROP_BACK, folder=str(self._folder.path))

    def _touch_all(self, paths: Paths) -> None:
        for path in map(document_path, paths):
            if is_visible(path.relative_to(self._folder.path)):
                self._touch(path)

    def _touch(self, path: Path) -> None:
        if not self._settling.touch(path, time.monotonic()):
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

    async def _queue_due(self, due: Mapping[Path, FileState | None]) -> None:
        version = await self._client.now()
        classified = await asyncio.to_thread(self._classifier.classify, due, version)
        self._recheck(classified.unsettled)
        if classified.needs_scan:
            self._request_scan()
        deletions = len(classified.deletions)
        few = len(classified.documents) + deletions <= MAX_INTERACTIVE_DOCUMENTS
        queue = self._queue if self._hot_folder is None else self._hot_folder.queue
        documents = await queue(classified, Lane.INTERACTIVE if few else Lane.BULK)
        if documents + deletions:
            log.info(
                events.DROP_QUEUED,
                folder=str(self._folder.path),
                documents=documents,
                deletions=deletions,
            )

    async def _queue(self, classified: ClassifiedFiles, lane: Lane) -> int:
        """Queue documents and deletions; return the number of documents."""
        submission = new_submission()
        await self._client.submit_many(
            classified.documents.values(),
            submission=submission,
            on_failed=self._skip,
            lane=lane,
        )
        await self._client.delete_many(classified.deletions, submission=submission, lane=lane)
        return len(classified.documents)

    async def _scan(self) -> None:
        self._scan_at = math.inf
        await self._scanner.scan()
        self._scan_at = min(self._scan_at, time.monotonic() + self._config.rescan_seconds)

    def _skip(self, failed: FailedDocument) -> None:
        self._classifier.skipped.add(failed.doc_id, failed.reason)
