"""Hot folders: queue each file, then move it to ``done`` or ``failed``."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import structlog

from ingestq.broker.connection import retry_until_redis_answers
from ingestq.broker.queue.dead_letters import DeadLetters
from ingestq.client.client import IngestClient, new_submission
from ingestq.core import events
from ingestq.core.documents import Lane
from ingestq.core.paths import text_to_path
from ingestq.core.results import FailedDocument
from producers.files.walk import ScanRecord
from producers.watch.classifier import ClassifiedFiles, FileClassifier
from producers.watch.filing import QueuedFile, is_unchanged, move, obstacle
from producers.watch.folder import WatchedFolder
from producers.watch.settling import FileState

log = structlog.get_logger()

MAX_GROUPS: Final = 16
"""Groups of files on the queue at once; a group is what was found together, up to 256 files."""
POLL_SECONDS: Final = 0.2
"""Time between two checks of the groups on the queue."""


@dataclass(frozen=True)
class _Group:
    """Files that were queued together, as one submission."""

    submission: str
    files: Sequence[QueuedFile]


@dataclass(frozen=True)
class _Unmoved:
    """Files that were not moved: paths that changed meanwhile, and the ids of rejected documents
    whose file is gone."""

    changed: list[Path] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)


class HotFolder:
    """Queues the files of one hot folder, and moves them once their outcome is known.

    ``on_unsettled`` receives the files that are still being written, ``on_changed`` each file that
    changed while it was on the queue.
    """

    def __init__(
        self,
        folder: WatchedFolder,
        client: IngestClient,
        dead_letters: DeadLetters,
        classifier: FileClassifier,
        on_unsettled: Callable[[Mapping[Path, FileState]], None],
        on_changed: Callable[[Path], None],
    ) -> None:
        self._folder = folder
        self._client = client
        self._dead_letters = dead_letters
        self._classifier = classifier
        self._on_unsettled = on_unsettled
        self._on_changed = on_changed
        self._in_work: set[Path] = set()
        self._groups: list[_Group] = []
        self._permits = asyncio.Semaphore(MAX_GROUPS)

    def obstacle(self) -> str | None:
        """Return why processed files cannot be moved; None if they can, or if the folder is gone.

        As long as there is an obstacle, nothing is queued. Blocks.
        """
        try:
            return obstacle(self._folder)
        except OSError:
            return None

    async def scan(self) -> None:
        """Queue every file of the folder that is not on the queue; delete nothing."""
        await retry_until_redis_answers(self._queue_all)

    async def queue(self, classified: ClassifiedFiles, lane: Lane) -> int:
        """Queue the classified files, and return how many: none if they could not be moved.

        Waits while there are `MAX_GROUPS`.
        Raises BrokerUnavailable: then they may be on the queue, and must be classified again.
        """
        found = [
            QueuedFile(path, classified.states[document.doc_id], document)
            for document in classified.documents.values()
            if document.path is not None
            and (path := text_to_path(document.path)) not in self._in_work
        ]
        paths = {file.path for file in found}
        self._in_work |= paths  # before the first await: scans and events may find the same file
        queued: Sequence[QueuedFile] = ()
        try:
            existing = await asyncio.to_thread(self._existing, found)
            queued = await self._submit(existing, lane) if existing else ()
        finally:
            self._in_work -= paths - {file.path for file in queued}
        return len(queued)

    async def run(self) -> None:
        """Move the files whose outcome is known, until cancelled."""
        while True:
            await asyncio.sleep(POLL_SECONDS)
            for group in list(self._groups):
                if await retry_until_redis_answers(partial(self._finish_if_complete, group)):
                    self._groups.remove(group)
                    self._permits.release()

    async def _queue_all(self) -> None:
        queued = 0
        async for classified in self._classifier.scan(self._client.issue_version, ScanRecord()):
            self._on_unsettled(classified.unsettled)
            queued += await self.queue(classified, Lane.BULK)
        log.info(events.WATCH_SCANNED, folder=str(self._folder.path), documents=queued)

    async def _submit(self, files: Sequence[QueuedFile], lane: Lane) -> Sequence[QueuedFile]:
        """Submit files as one group; return those that were accepted."""
        submission = new_submission()
        refused: set[str] = set()

        def skip(failed: FailedDocument) -> None:
            refused.add(failed.doc_id)
            self._classifier.skipped.add(failed.doc_id, failed.reason)

        await self._permits.acquire()
        try:
            await self._client.submit_many(
                [file.document for file in files],
                submission=submission,
                on_failed=skip,
                lane=lane,
            )
        except BaseException:
            self._permits.release()
            raise
        queued = [file for file in files if file.document.doc_id not in refused]
        self._groups.append(_Group(submission, queued))
        return queued

    async def _finish_if_complete(self, group: _Group) -> bool:
        """Move the files of a group if all of it is finished; return whether it is.

        If Redis lost the outcome, the files stay and the next scan queues them again.
        """
        status = await self._client.status(group.submission)
        if not status.complete:
            return False
        failed = await self._client.failed_documents(group.submission)
        is_known = (status.accepted, status.documents.rejected) == (len(group.files), len(failed))
        unmoved = _Unmoved()
        if is_known:
            reasons = {document.doc_id: document.reason for document in failed}
            warned = status.warned.documents
            unmoved = await asyncio.to_thread(self._move_all, group.files, reasons, warned)
        self._in_work.difference_update(file.path for file in group.files)
        for path in unmoved.changed:
            self._on_changed(path)
        await retry_until_redis_answers(partial(self._purge, unmoved.gone))
        return True

    async def _purge(self, doc_ids: Sequence[str]) -> None:
        """Purge the dead letters of documents whose file is gone: nobody can fix them."""
        for doc_id in doc_ids:
            stored = await self._dead_letters.find_for_document(
                self._folder.collection, self._folder.tenant, doc_id
            )
            if stored is not None:
                await self._dead_letters.purge([stored])

    def _move_all(
        self, files: Sequence[QueuedFile], reasons: Mapping[str, str], warned: int
    ) -> _Unmoved:
        """Move the files that are there and unchanged, and log how many. Blocks."""
        unmoved, moved = _Unmoved(), {True: 0, False: 0}
        for file in files:
            reason = reasons.get(file.document.doc_id)
            try:
                if not is_unchanged(file, self._folder):
                    unmoved.changed.append(file.path)
                    continue
                move(file, self._folder, reason)
            except FileNotFoundError:  # another program took it away
                if reason is not None:
                    unmoved.gone.append(file.document.doc_id)
                continue
            except OSError as error:
                why = f"cannot be moved: {error.strerror}"
                self._classifier.skipped.add(file.document.doc_id, why)
                continue
            moved[reason is None] += 1
        log.info(
            events.HOT_FOLDER_MOVED,
            folder=str(self._folder.path),
            done=moved[True],
            failed=moved[False],
            warned=warned,
        )
        return unmoved

    def _existing(self, files: Sequence[QueuedFile]) -> list[QueuedFile]:
        """Return the files that can be processed: some were moved since they were classified."""
        if self.obstacle() is not None:
            return []
        return [file for file in files if file.path.exists()]
