"""Scans a watched folder: queues every file of it, then the removal of what is gone."""

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
from producers.watch.decisions import FileClassifier
from producers.watch.folder import Presence, WatchedFolder
from producers.watch.settling import FileState


async def forget_gone(dead_letters: DeadLetters, folder: WatchedFolder, presence: Presence) -> int:
    """Purge the dead letters about files of ``folder`` that are gone; how many that were.

    Raises BrokerUnavailable while Redis cannot be used.
    """
    purged = 0
    wanted = DeadLetterFilter(tenant=folder.tenant, collection=folder.collection)
    async for stored in dead_letters.find(wanted):
        document = stored.document
        if document is None or document.path is None or not document.scanned:
            continue
        path = text_to_path(document.path)
        if path.is_relative_to(folder.path) and await asyncio.to_thread(_is_gone, path, presence):
            purged += await dead_letters.purge([stored])
    return purged


def _is_gone(path: Path, presence: Presence) -> bool:
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return presence.check()
    except OSError:
        return False
    return False


log = structlog.get_logger()


class Scanner:
    """Scans one folder.

    ``keep_an_eye_on`` is told of files that are still being written. Only the first scan that comes
    to its end may remove most of the folder, and only if ``allow_mass_delete``.
    """

    def __init__(
        self,
        folder: WatchedFolder,
        client: IngestClient,
        dead_letters: DeadLetters,
        presence: Presence,
        looker: FileClassifier,
        keep_an_eye_on: Callable[[Mapping[Path, FileState]], None],
        *,
        allow_mass_delete: bool,
    ) -> None:
        self._folder = folder
        self._client = client
        self._dead_letters = dead_letters
        self._presence = presence
        self._looker = looker
        self._keep_an_eye_on = keep_an_eye_on
        self._allow_mass_delete = allow_mass_delete

    async def scan(self) -> None:
        """Scan, and wait until workers are done with it, so that scans never pile up."""
        submission = await retry_until_redis_answers(self._queue_all)
        await retry_until_redis_answers(partial(self._client.wait, submission))
        await retry_until_redis_answers(partial(self._finish, submission))

    async def _queue_all(self) -> str:
        """The submission that all of it is queued as."""
        submission = new_submission()
        sightings = ScanRecord()
        seen = self._presence.identity
        receipt = await self._client.submit_many(
            self._found(sightings), submission=submission, on_failed=self._left_out
        )
        if not await asyncio.to_thread(self._presence.check) or self._presence.identity != seen:
            return submission  # what was not seen may be in the folder that went away
        sweeps = sightings.sweeps(
            allow_mass_delete=self._allow_mass_delete,
            tenant=self._folder.tenant,
            collection=self._folder.collection,
        )
        await self._client.sweep(sweeps, submission=submission)
        self._allow_mass_delete = False
        log.info(events.DROP_SCANNED, folder=str(self._folder.path), documents=receipt.accepted)
        return submission

    async def _found(self, sightings: ScanRecord) -> AsyncIterator[Document]:
        async for looked in self._looker.scan(self._client.now, sightings):
            self._keep_an_eye_on(looked.changing)
            for document in looked.documents.values():
                yield document

    async def _finish(self, submission: str) -> None:
        for failed in await self._client.failed_documents(submission):
            if failed.doc_id == self._looker.root.folder:
                log.warning(
                    events.DROP_REFUSED, folder=str(self._folder.path), reason=failed.reason
                )
        await forget_gone(self._dead_letters, self._folder, self._presence)

    def _left_out(self, failed: FailedDocument) -> None:
        self._looker.notices.left_out(failed.doc_id, failed.reason)
