"""Keeps the index equal to a remote source: scans it again and again, until it is stopped.

Stores send no events that a process could wait for, so every change is found by the next scan.
"""

import asyncio
import socket
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from functools import partial
from typing import Final

import structlog

from ingestq.broker.connection import retry_until_redis_answers
from ingestq.broker.watched_folders import WatchedFolders
from ingestq.client.client import IngestClient, new_submission
from ingestq.core import events
from ingestq.core.documents import Document
from ingestq.core.errors import BrokerUnavailable, RemoteUnavailable, UsageError
from ingestq.core.results import FailedDocument, SubmissionStatus, WatchedFolderStatus
from ingestq.core.service import run_until_first
from producers.files.walk import ScanRecord
from producers.remote.source import RemoteSource
from producers.watch.classifier import SkippedFiles
from producers.watch.scan_log import ScanLog

log = structlog.get_logger()

REPORTED_OBJECTS: Final = 20
"""Skipped objects that are reported by name; there is room for no more on a page."""


class RemoteWatch:
    """Scans one source every ``rescan_seconds``, for documents of ``collection``.

    A scan waits until workers have finished its jobs, so that scans never pile up.
    ``allow_mass_delete`` holds for the first complete scan only. A source that does not answer, or
    is gone, deletes nothing: it is logged, and tried again at the next scan.
    """

    def __init__(
        self,
        source: RemoteSource,
        collection: str,
        rescan_seconds: float,
        client: IngestClient,
        reports: WatchedFolders,
        *,
        allow_mass_delete: bool = False,
    ) -> None:
        self._source = source
        self._collection = collection
        self._rescan_seconds = rescan_seconds
        self._client = client.for_collection(collection)
        self._reports = reports
        self._allow_mass_delete = allow_mass_delete
        self._skipped = SkippedFiles()
        self._log = ScanLog(source.url)
        self._unavailable = ""
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Let `run` return; the next scan finds what is not on the queue by then."""
        self._stopping.set()

    async def run(self) -> None:
        """Scan until `stop` is called. Raises UsageError if Redis refuses the credentials."""
        url = self._source.url
        log.info(
            events.WATCH_STARTED,
            folder=url,
            source=self._source.folder,
            collection=self._collection,
        )
        await run_until_first(
            self._stopping.wait(), self._scan_forever(), self._reports.keep_reporting(self._status)
        )
        with suppress(BrokerUnavailable):  # then the report expires
            await self._reports.forget(self._status())
        log.info(events.WATCH_STOPPED, folder=url)

    async def _scan_forever(self) -> None:
        while True:
            try:
                await self._scan()
            except _SourceAway as error:
                self._note_unavailable(str(error))
            await asyncio.sleep(self._rescan_seconds)

    async def _scan(self) -> None:
        submission, swept = await retry_until_redis_answers(self._queue_all)
        self._note_unavailable("")
        status = await retry_until_redis_answers(partial(self._finished, submission))
        self._log.warned(status.warned.documents)
        failed = await retry_until_redis_answers(partial(self._client.failed_documents, submission))
        self._log.held_back([one.reason for one in failed if one.doc_id in swept])

    async def _queue_all(self) -> tuple[str, Sequence[str]]:
        """Queue all objects and the sweep; return their submission, and the ids of the sweeps."""
        submission = new_submission()
        record = ScanRecord()
        self._skipped.begin_scan()
        async with aclosing(self._found(record)) as found:
            receipt = await self._client.submit_many(
                found, submission=submission, on_failed=self._skip
            )
        self._skipped.end_scan()
        sweeps = record.sweeps(
            allow_mass_delete=self._allow_mass_delete,
            tenant=self._source.tenant,
            collection=self._collection,
        )
        await self._client.sweep(sweeps, submission=submission)
        self._allow_mass_delete = False
        log.info(
            events.WATCH_SCANNED,
            folder=self._source.url,
            submission=submission,
            documents=receipt.accepted,
        )
        return submission, [sweep.doc_id for sweep in sweeps]

    async def _finished(self, submission: str) -> SubmissionStatus:
        """Wait for the end of ``submission``, and look meanwhile whether the source is there.

        Its documents wait for it, too.
        """
        while True:
            with suppress(TimeoutError):
                return await self._client.wait(submission, timeout=self._rescan_seconds)
            try:
                await self._source.check()
            except (UsageError, RemoteUnavailable) as error:
                self._note_unavailable(str(error))
            else:
                self._note_unavailable("")

    def _note_unavailable(self, reason: str) -> None:
        """Report why nothing of the source can be read; an empty ``reason`` means that it can."""
        if reason and not self._unavailable:
            log.warning(events.WATCH_UNAVAILABLE, folder=self._source.url, reason=reason)
        elif self._unavailable and not reason:
            log.info(events.WATCH_AVAILABLE, folder=self._source.url)
        self._unavailable = reason

    async def _found(self, record: ScanRecord) -> AsyncGenerator[Document | FailedDocument, None]:
        try:
            async for document in self._source.scan(self._client.issue_version, record):
                yield document
        except (UsageError, RemoteUnavailable) as error:
            raise _SourceAway(str(error)) from error

    def _skip(self, failed: FailedDocument) -> None:
        self._skipped.add(failed.doc_id, failed.reason)

    def _status(self) -> WatchedFolderStatus:
        return WatchedFolderStatus(
            folder=self._source.url,
            host=socket.gethostname(),
            collection=self._collection,
            tenant=self._source.tenant,
            unavailable=self._unavailable,
            skipped=len(self._skipped),
            skipped_files=self._skipped.first(REPORTED_OBJECTS),
        )


class _SourceAway(Exception):
    """The source cannot be listed; unlike a UsageError of Redis, that ends nothing."""
