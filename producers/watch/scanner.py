"""Scans a watched folder: queues every file of it, then the deletion of what is gone."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from pathlib import Path

import structlog

from ingestq.broker.connection import retry_until_redis_answers
from ingestq.broker.queue.dead_letters import DeadLetterFilter, DeadLetters
from ingestq.client.client import IngestClient, new_submission
from ingestq.core import events
from ingestq.core.documents import Document
from ingestq.core.paths import text_to_path
from ingestq.core.results import FailedDocument
from producers.files.walk import ScanRecord
from producers.watch.classifier import FileClassifier
from producers.watch.folder import Presence, WatchedFolder
from producers.watch.settling import FileState

log = structlog.get_logger()


class Scanner:
    """Scans one folder.

    ``on_unsettled`` receives the files that are still being written. ``allow_mass_delete`` holds
    for the first complete scan only.
    """

    def __init__(
        self,
        folder: WatchedFolder,
        client: IngestClient,
        dead_letters: DeadLetters,
        presence: Presence,
        classifier: FileClassifier,
        on_unsettled: Callable[[Mapping[Path, FileState]], None],
        *,
        allow_mass_delete: bool,
    ) -> None:
        self._folder = folder
        self._client = client
        self._dead_letters = dead_letters
        self._presence = presence
        self._classifier = classifier
        self._on_unsettled = on_unsettled
        self._allow_mass_delete = allow_mass_delete

    async def scan(self) -> None:
        """Scan, and wait until workers have finished the scan's jobs, so that scans never pile up.

        Waits while Redis is away.
        """
        submission = await retry_until_redis_answers(self._queue_all)
        await retry_until_redis_answers(partial(self._client.wait, submission))
        await retry_until_redis_answers(partial(self._finish, submission))

    async def _queue_all(self) -> str:
        """Queue all files and the sweep; return their submission."""
        submission = new_submission()
        record = ScanRecord()
        identity = self._presence.identity
        receipt = await self._client.submit_many(
            self._found(record), submission=submission, on_failed=self._skip
        )
        is_there = await asyncio.to_thread(self._presence.check)
        if not is_there or self._presence.identity != identity:
            return submission  # no sweep: files not seen may be in the folder that went away
        sweeps = record.sweeps(
            allow_mass_delete=self._allow_mass_delete,
            tenant=self._folder.tenant,
            collection=self._folder.collection,
        )
        await self._client.sweep(sweeps, submission=submission)
        self._allow_mass_delete = False
        log.info(events.DROP_SCANNED, folder=str(self._folder.path), documents=receipt.accepted)
        return submission

    async def _found(self, record: ScanRecord) -> AsyncIterator[Document]:
        async for classified in self._classifier.scan(self._client.now, record):
            self._on_unsettled(classified.unsettled)
            for document in classified.documents.values():
                yield document

    async def _finish(self, submission: str) -> None:
        for failed in await self._client.failed_documents(submission):
            if failed.doc_id == self._classifier.root.folder:
                log.warning(
                    events.DROP_REFUSED, folder=str(self._folder.path), reason=failed.reason
                )
        await purge_missing(self._dead_letters, self._folder, self._presence)

    def _skip(self, failed: FailedDocument) -> None:
        self._classifier.skipped.add(failed.doc_id, failed.reason)


async def purge_missing(
    dead_letters: DeadLetters, folder: WatchedFolder, presence: Presence
) -> int:
    """Purge the dead letters of files that are gone from ``folder``; return how many.

    Raises BrokerUnavailable while Redis cannot be used.
    """
    purged = 0
    wanted = DeadLetterFilter(tenant=folder.tenant, collection=folder.collection)
    async for stored in dead_letters.find(wanted):
        document = stored.document
        if document is None or document.path is None or not document.scanned:
            continue
        path = text_to_path(document.path)
        is_inside = path.is_relative_to(folder.path)
        if is_inside and await asyncio.to_thread(_is_missing, path, presence):
            purged += await dead_letters.purge([stored])
    return purged


def _is_missing(path: Path, presence: Presence) -> bool:
    """Return whether the file at ``path`` is gone, while its folder is there. Blocks."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return presence.check()
    except OSError:
        return False
    return False
