"""Scans a watched folder: queues every file of it, then the deletion of what is gone."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import structlog

from ingestq.broker.connection import retry_until_redis_answers
from ingestq.client.client import IngestClient, new_submission
from ingestq.core import events
from ingestq.core.documents import Document, Sweep
from ingestq.core.results import FailedDocument
from producers.files.walk import ScanRecord
from producers.watch.classifier import FileClassifier
from producers.watch.folder import Presence, WatchedFolder
from producers.watch.moves import Arrivals
from producers.watch.scan_log import ScanLog
from producers.watch.settling import FileState

log = structlog.get_logger()


class Scanner:
    """Scans one folder.

    ``on_unsettled`` receives the files that are still being written. ``allow_mass_delete`` holds
    for the first complete scan only. Nothing is deleted if the folder goes away within
    ``settle_seconds`` after a scan.
    """

    def __init__(
        self,
        folder: WatchedFolder,
        client: IngestClient,
        presence: Presence,
        classifier: FileClassifier,
        on_unsettled: Callable[[Mapping[Path, FileState]], None],
        arrivals: Arrivals,
        settle_seconds: float,
        *,
        allow_mass_delete: bool,
    ) -> None:
        self._folder = folder
        self._client = client
        self._presence = presence
        self._classifier = classifier
        self._on_unsettled = on_unsettled
        self._arrivals = arrivals
        self._settle_seconds = settle_seconds
        self._allow_mass_delete = allow_mass_delete
        self._log = ScanLog(str(folder.path))

    async def scan(self) -> None:
        """Scan, and wait until workers have finished the scan's jobs, so that scans never pile up.

        Waits while Redis is away.
        """
        submission, sweeps = await retry_until_redis_answers(self._queue_all)
        status = await retry_until_redis_answers(partial(self._client.wait, submission))
        self._log.warned(status.warned.documents)
        for swept in sweeps:
            await retry_until_redis_answers(partial(self._finish, submission, swept))

    async def _queue_all(self) -> tuple[str, Sequence[Sweep]]:
        """Queue all files and the sweep; return their submission, and the sweep if there is one."""
        submission = new_submission()
        record = ScanRecord()
        identity = self._presence.identity
        async with self._arrivals.queueing(submission, scan=True):
            receipt = await self._client.submit_many(
                self._found(record), submission=submission, on_failed=self._skip
            )
        # What is gone may be in another watched folder now. Workers wait for what is in this one.
        await self._arrivals.others_finished(submission)
        # A folder that is being removed with all its files looked as if only some were gone.
        await asyncio.sleep(self._settle_seconds)
        is_there = await asyncio.to_thread(self._presence.check)
        if not is_there or self._presence.identity != identity:
            return submission, ()  # no sweep: files not seen may be in the folder that went away
        sweeps = record.sweeps(
            allow_mass_delete=self._allow_mass_delete,
            tenant=self._folder.tenant,
            collection=self._folder.collection,
        )
        await self._client.sweep(sweeps, submission=submission)
        self._allow_mass_delete = False
        log.info(
            events.WATCH_SCANNED,
            folder=str(self._folder.path),
            submission=submission,
            documents=receipt.accepted,
        )
        return submission, sweeps

    async def _found(self, record: ScanRecord) -> AsyncIterator[Document]:
        async for classified in self._classifier.scan(self._client.issue_version, record):
            self._on_unsettled(classified.unsettled)
            for document in classified.documents.values():
                yield document

    async def _finish(self, submission: str, swept: Sweep) -> None:
        failed = await self._client.failed_documents(submission)
        self._log.held_back([f.reason for f in failed if f.doc_id == swept.doc_id])

    def _skip(self, failed: FailedDocument) -> None:
        self._classifier.skipped.add(failed.doc_id, failed.reason)
