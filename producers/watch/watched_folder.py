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
from producers.watch.decisions import ClassifiedFiles, FileClassifier
from producers.watch.folder import Presence, WatchedFolder, document_beside, is_visible
from producers.watch.hot_folder import HotFolder
from producers.watch.scanning import Scanner
from producers.watch.settling import FileState, Settling

log = structlog.get_logger()

TICK_SECONDS: Final = 0.2
"""How often it is looked, at least, whether something happened."""
RETRY_SECONDS: Final = 1.0
"""How soon to look again for a folder that is not there, or cannot be watched."""
FEW_DOCUMENTS: Final = 16
"""Somebody waits for files that come one by one; more at once are bulk work."""


@dataclass(frozen=True)
class WatchConfig:
    """How folders are watched; times in seconds.

    A file is taken when it has been still for ``settle_seconds``. Every ``rescan_seconds`` the
    whole folder is scanned. With ``poll_seconds`` it is looked through so often instead of having
    the system tell what changed. ``allow_mass_delete`` is for the first scan.
    """

    settle_seconds: float = 2.0
    rescan_seconds: float = 300.0
    poll_seconds: float | None = None
    allow_mass_delete: bool = False


class FolderWatch:
    """Keeps the index equal to one folder.

    Whatever is to be done waits while Redis is away or the queue is full. Of what happens meanwhile
    only paths are remembered, and if they are too many, that a scan is due.
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
        self._looker = FileClassifier(folder, self._presence, config.settle_seconds)
        self._watcher = Watcher(folder.path, config.poll_seconds, self._looker.snapshot)
        self._settling = Settling(config.settle_seconds)
        self._handing: HotFolder | None = None
        if folder.hot:
            self._handing = HotFolder(
                folder, client, dead_letters, self._looker, self._keep_an_eye_on, self._take_again
            )
        self._scanner = self._handing or Scanner(
            folder,
            client,
            dead_letters,
            self._presence,
            self._looker,
            self._keep_an_eye_on,
            allow_mass_delete=config.allow_mass_delete,
        )
        self._stopping = asyncio.Event()
        self._scan_at = math.inf

    def stop(self) -> None:
        """Let `run` return; what is not on the queue then is found by the next scan."""
        self._stopping.set()

    async def run(self) -> None:
        """Watch until `stop` is called. Raises UsageError if Redis refuses the credentials."""
        log.info(
            events.DROP_STARTED,
            folder=str(self._folder.path),
            source=self._looker.root.folder,
            collection=self._folder.collection,
        )
        loops = [self._watch(), self._take_what_is_still()]
        if self._handing is not None:
            loops.append(self._handing.run())
        await run_until_first(self._stopping.wait(), *loops)
        log.info(events.DROP_STOPPED, folder=str(self._folder.path))

    async def _watch(self) -> None:
        """Watch anew for each scan: a watch that went deaf is heard of by nobody."""
        while True:
            await self._until_there()
            await self._watch_for_one_scan()

    async def _watch_for_one_scan(self) -> None:
        """Returns when the next scan is due, or when there is nothing to be watched any more."""
        scanning: asyncio.Task[None] | None = None
        watched = self._presence.identity
        try:
            async with aclosing(self._watcher.changes()) as changes:
                async for paths in changes:
                    # Only now: what happens from here on is told.
                    scanning = scanning or asyncio.create_task(self._scan())
                    self._touch(paths)
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

    async def _until_there(self) -> None:
        if await asyncio.to_thread(self._presence.check):
            return
        log.warning(events.DROP_AWAY, folder=str(self._folder.path))
        while True:
            await asyncio.sleep(RETRY_SECONDS)
            if await asyncio.to_thread(self._presence.check):
                break
        log.info(events.DROP_BACK, folder=str(self._folder.path))

    def _touch(self, paths: Paths) -> None:
        now = time.monotonic()
        for path in map(document_beside, paths):
            if is_visible(path.relative_to(self._folder.path)):
                self._remembered(self._settling.touch(path, now))

    def _keep_an_eye_on(self, changing: Mapping[Path, FileState]) -> None:
        now = time.monotonic()
        for path, state in changing.items():
            self._remembered(self._settling.watch(path, state, now))

    def _take_again(self, path: Path) -> None:
        self._remembered(self._settling.touch(path, time.monotonic()))

    def _remembered(self, is_remembered: bool) -> None:
        if not is_remembered:
            self._ask_scan()

    def _ask_scan(self) -> None:
        self._scan_at = min(self._scan_at, time.monotonic() + self._config.settle_seconds)

    async def _take_what_is_still(self) -> None:
        while True:
            await asyncio.sleep(self._seconds_to_next())
            due = self._settling.due(time.monotonic())
            if due:
                await retry_until_redis_answers(partial(self._take, due))

    def _seconds_to_next(self) -> float:
        next_due = self._settling.next_due()
        if next_due is None:
            return TICK_SECONDS
        return min(max(next_due - time.monotonic(), 0.0), TICK_SECONDS)

    async def _take(self, due: Mapping[Path, FileState | None]) -> None:
        version = await self._client.now()
        looked = await asyncio.to_thread(self._looker.look, due, version)
        self._keep_an_eye_on(looked.changing)
        if looked.ask_scan:
            self._ask_scan()
        deletions = len(looked.deletions)
        few = len(looked.documents) + deletions <= FEW_DOCUMENTS
        take = self._queue if self._handing is None else self._handing.take
        documents = await take(looked, Lane.INTERACTIVE if few else Lane.BULK)
        if documents + deletions:
            log.info(
                events.DROP_QUEUED,
                folder=str(self._folder.path),
                documents=documents,
                deletions=deletions,
            )

    async def _queue(self, looked: ClassifiedFiles, lane: Lane) -> int:
        """Put what was looked at on the queue; how many documents that were."""
        submission = new_submission()
        await self._client.submit_many(
            looked.documents.values(),
            submission=submission,
            on_failed=self._left_out,
            lane=lane,
        )
        await self._client.delete_many(looked.deletions, submission=submission, lane=lane)
        return len(looked.documents)

    async def _scan(self) -> None:
        self._scan_at = math.inf
        await self._scanner.scan()
        self._scan_at = min(self._scan_at, time.monotonic() + self._config.rescan_seconds)

    def _left_out(self, failed: FailedDocument) -> None:
        self._looker.notices.left_out(failed.doc_id, failed.reason)
