"""Lets a file that moves be indexed in its new place before it is deleted in the old one.

No event says that two paths were one file. So the deletion of a file that is gone waits until
workers are done with the documents that were found up to then, in all watched folders.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from ingestq.client.client import IngestClient
from ingestq.core.documents import Deletion

MAX_ARRIVALS: Final = 1_000
"""Submissions that are remembered. A file is embedded again if more came while it moved."""
MAX_EVENT_DELETIONS: Final = 10
"""Missing files that are deleted without a scan. With more, a scan decides, whose sweep is under
the mass-deletion guard."""
MAX_POLLED_DELETIONS: Final = 1
"""The same for a folder that is polled, where files that were deleted look like files that are out
of sight."""


class Arrivals:
    """The submissions of what was found in the folders of one tenant and collection."""

    def __init__(self, client: IngestClient) -> None:
        self._client = client
        self._queueing: dict[str, asyncio.Event] = {}
        self._changes: deque[str] = deque(maxlen=MAX_ARRIVALS)
        self._scans: deque[str] = deque(maxlen=MAX_ARRIVALS)

    @asynccontextmanager
    async def queueing(self, submission: str, *, scan: bool = False) -> AsyncIterator[None]:
        """Record that documents are being queued as ``submission``, inside this context.

        It comes from a ``scan`` or else from changes that were noticed.
        """
        queued = self._queueing[submission] = asyncio.Event()
        group = self._scans if scan else self._changes
        group.append(submission)
        try:
            yield
        finally:
            del self._queueing[submission]
            queued.set()

    async def changes_finished(self) -> None:
        """Wait until workers are done with the changes so far.

        Raises BrokerUnavailable if Redis is away for a minute.
        """
        await self._finished(self._changes)

    async def others_finished(self, scan: str) -> None:
        """Wait until workers are done with the changes so far, and all scans but this one.

        Raises as `changes_finished` does.
        """
        await self._finished(self._changes)
        await self._finished(self._scans, besides=scan)

    async def _finished(self, submissions: deque[str], besides: str | None = None) -> None:
        for submission in list(submissions):
            if submission == besides:
                continue
            if (queued := self._queueing.get(submission)) is not None:
                await queued.wait()
            await self._client.wait(submission)
            if submission in submissions:
                submissions.remove(submission)


@dataclass(frozen=True)
class _Departure:
    deletion: Deletion
    at: float


class Departures:
    """Deletions of files that are gone, held back for ``seconds``. Times are monotonic seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._held: dict[str, _Departure] = {}

    def add(self, deletions: Iterable[Deletion], now: float, most: int) -> bool:
        """Hold ``deletions`` back.

        Return False, and forget all, if more than ``most`` are held back by then, together with
        those of earlier calls: ``rm`` may pause between two files. The caller has to scan.
        """
        for deletion in deletions:
            self._held[deletion.doc_id] = _Departure(deletion, now + self._seconds)
        if len(self._held) <= most:
            return True
        self._held.clear()
        return False

    def cancel(self, documents: Mapping[str, object]) -> None:
        """Forget the deletions of these documents, by id: their files are back."""
        for doc_id in documents:
            self._held.pop(doc_id, None)

    def due(self, now: float) -> list[str]:
        """Return the ids of the documents that have been gone long enough."""
        return [doc_id for doc_id, departure in self._held.items() if departure.at <= now]

    def take(self, doc_ids: Iterable[str]) -> list[Deletion]:
        """Remove and return the deletions of these documents that are still held back."""
        held = [self._held.pop(doc_id, None) for doc_id in doc_ids]
        return [departure.deletion for departure in held if departure is not None]
