"""Scans a watched folder: queues every file of it, and then what is gone."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from pathlib import Path

import structlog

from broker import events
from broker.contract import Document, FailedDocument
from broker.dead_letters import DeadLetters
from producers import files
from producers.client import IngestClient, new_submission
from producers.drop.folder import DropFolder
from producers.drop.letters import forget_gone
from producers.drop.looking import Looker
from producers.drop.presence import Presence
from producers.drop.settling import FileState
from producers.outages import persistently
from producers.sightings import Sightings

log = structlog.get_logger()


class Scanner:
    """Scans one folder.

    ``keep_an_eye_on`` is told of files that are still being written. Only the first scan that comes
    to its end may remove most of the folder, and only if ``allow_mass_delete``.
    """

    def __init__(
        self,
        folder: DropFolder,
        client: IngestClient,
        letters: DeadLetters,
        presence: Presence,
        looker: Looker,
        keep_an_eye_on: Callable[[Mapping[Path, FileState]], None],
        *,
        allow_mass_delete: bool,
    ) -> None:
        self._folder = folder
        self._client = client
        self._letters = letters
        self._presence = presence
        self._looker = looker
        self._keep_an_eye_on = keep_an_eye_on
        self._allow_mass_delete = allow_mass_delete

    async def scan(self) -> None:
        """Scan, and wait until workers are done with it, so that scans never pile up."""
        submission = await persistently(self._queue_all)
        await persistently(partial(self._client.wait, submission))
        await persistently(partial(self._finish, submission))

    async def _queue_all(self) -> str:
        """The submission that all of it is queued as."""
        submission = new_submission()
        sightings = Sightings()
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

    async def _found(self, sightings: Sightings) -> AsyncIterator[Document]:
        clock, leave_out = self._client.now, self._looker.leave_out
        async for listing in files.scan(self._looker.root, clock, sightings, leave_out):
            looked = await asyncio.to_thread(self._looker.judge, listing)
            self._keep_an_eye_on(looked.changing)
            for document in looked.documents.values():
                yield document

    async def _finish(self, submission: str) -> None:
        for failed in await self._client.failed_documents(submission):
            if failed.doc_id == self._looker.root.folder:
                log.warning(
                    events.DROP_REFUSED, folder=str(self._folder.path), reason=failed.reason
                )
        await forget_gone(self._letters, self._folder, self._presence)

    def _left_out(self, failed: FailedDocument) -> None:
        self._looker.notices.left_out(failed.doc_id, failed.reason)
