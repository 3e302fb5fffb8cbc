"""Ports for a dry run: they read the index and write nothing.

The pipeline takes its usual decisions with them, so that a dry run says what a run would do.
"""

from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from ingestq.core.documents import Lane
from worker.pipeline.points import (
    BeginResult,
    ChunkPoint,
    DocumentKey,
    EntryState,
    Fence,
    LedgerEntry,
    Rejection,
)
from worker.pipeline.ports import ChunkStore, Ledger, Preparation
from worker.text.parts import (
    SizedText,
)


class DryRunModel(Preparation):
    """A `Model` that prepares documents as another one does, and embeds nothing."""

    async def embed(self, lane: Lane, texts: Sequence[SizedText]) -> npt.NDArray[np.float32]:
        """Return a row for each of ``texts``, of zeros and of no length."""
        return np.zeros((len(texts), 0), np.float32)


class DryRunIndex:
    """The `ChunkStore` and the `Ledger` of a dry run, in front of those of a collection.

    ``chunks`` and ``ledger`` are None if there is no collection yet. Every write seems to succeed.
    What the dry run itself would have written cannot be read; only the moves of files are seen.
    """

    def __init__(self, chunks: ChunkStore | None = None, ledger: Ledger | None = None) -> None:
        self._chunks = chunks
        self._ledger = ledger
        self._found: set[str] = set()  # chunks of documents in work that are in the index
        self._left: dict[DocumentKey, int] = {}  # chunks that would be stale
        self._arrived: Counter[tuple[str, str]] = Counter()  # documents by tenant and content

    async def vectors(self, ids: Iterable[str]) -> dict[str, list[float]]:
        """See `ChunkStore.vectors`."""
        found = {} if self._chunks is None else await self._chunks.vectors(ids)
        self._found.update(found)
        return found

    async def vectors_of(self, hashes: Mapping[str, str]) -> dict[str, list[float]]:
        """See `ChunkStore.vectors_of`."""
        return {} if self._chunks is None else await self._chunks.vectors_of(hashes)

    async def upsert(self, points: Sequence[ChunkPoint], fence: Fence) -> None:
        """Note which of ``points`` would replace one that is in the index."""
        for point in points:
            if point.id in self._found:
                self._found.remove(point.id)
                key = DocumentKey(point.payload["tenant"], point.payload["doc_id"])
                self._left[key] -= 1

    async def delete_stale(self, entry: LedgerEntry) -> int:
        """Return how many chunks of the document would be stale."""
        return max(self._left.pop(entry.key, 0), 0)

    async def look_up(self, keys: Iterable[DocumentKey]) -> dict[DocumentKey, LedgerEntry]:
        """See `Ledger.look_up`."""
        return {} if self._ledger is None else await self._ledger.look_up(keys)

    async def begin(self, entry: LedgerEntry, seen: LedgerEntry | None) -> BeginResult:
        """Let ``entry`` replace ``seen``, as if no other worker did anything."""
        self._left[entry.key] = 0 if seen is None else seen.chunks
        return BeginResult(entry, ours=True, first=seen is None)

    async def advance(self, entry: LedgerEntry) -> LedgerEntry:
        """Return ``entry``."""
        if entry.state is EntryState.INDEXED and entry.bytes_hash:
            self._left.pop(entry.key, None)
            self._arrived[entry.tenant, entry.bytes_hash] += 1
        return entry

    async def note_deletion(self, seen: LedgerEntry, deleted_at: int) -> bool:
        """Return True."""
        return True

    async def confirm(self, seen: LedgerEntry, now: LedgerEntry) -> bool:
        """Return True."""
        return True

    async def reject(self, rejections: Mapping[DocumentKey, Rejection]) -> frozenset[DocumentKey]:
        """Return nothing: none is superseded."""
        return frozenset()

    async def other_forms(self, key: DocumentKey) -> list[LedgerEntry]:
        """See `Ledger.other_forms`."""
        return [] if self._ledger is None else await self._ledger.other_forms(key)

    async def copy_of(self, key: DocumentKey, bytes_hash: str) -> str | None:
        """See `Ledger.copy_of`."""
        return None if self._ledger is None else await self._ledger.copy_of(key, bytes_hash)

    async def with_bytes(
        self, tenant: str, hashes: Iterable[str]
    ) -> AsyncIterator[Sequence[LedgerEntry]]:
        """Yield also entries for the documents that would have arrived, with what tells moves."""
        hashes = list(hashes)
        newest = 0
        if self._ledger is not None:
            async for entries in self._ledger.with_bytes(tenant, hashes):
                newest = max([newest, *(entry.issued for entry in entries)])
                yield entries
        yield [
            _arrival(tenant, of_bytes, newest + 1)
            for of_bytes in hashes
            for _ in range(self._arrived[tenant, of_bytes])
        ]

    async def in_folder(self, tenant: str, folder: str) -> AsyncIterator[Sequence[LedgerEntry]]:
        """See `Ledger.in_folder`."""
        if self._ledger is not None:
            async for entries in self._ledger.in_folder(tenant, folder):
                yield entries


def _arrival(tenant: str, bytes_hash: str, version: int) -> LedgerEntry:
    return LedgerEntry(
        tenant=tenant,
        doc_id="",
        source="",
        version=version,
        attempt=0,
        content_hash="",
        bytes_hash=bytes_hash,
        chunks=0,
        state=EntryState.INDEXED,
        written_ms=0,
    )
