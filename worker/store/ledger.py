"""The ledger: which documents are indexed, at which version. One point per document, in Qdrant.

It is stored beside the chunks rather than in Redis, so losing Redis loses no knowledge of the
index. It also fences workers off from each other: an entry is replaced only by a newer version, or
by a later attempt at the same one. Qdrant compares and writes in one step but does not tell whether
it wrote, so a read follows every write.
"""

from collections.abc import AsyncIterator, Iterable, Sequence
from functools import partial
from typing import Final

import msgspec
from qdrant_client import AsyncQdrantClient, models

from worker.pipeline.points import (
    BeginResult,
    DocumentKey,
    EntryState,
    Fence,
    LedgerEntry,
    ledger_id,
)
from worker.store.client import Qdrant, applied, ask_in_parts, check_applied
from worker.store.fence import is_equal, is_exactly, is_older
from worker.store.requests import GroupCommit, pages

FIRST: Final = "first"
"""Field of an entry: the document had no entry before."""
READ_ENTRIES: Final = 256
GROUP_ENTRIES: Final = 32
"""The most entries that are written in one request."""
NO_ATTEMPT: Final = 0
"""Less than every fencing token."""


class QdrantLedger:
    """The ledger in the collection ``name``. Raises what `worker.store.client.Qdrant` raises."""

    def __init__(self, qdrant: Qdrant, name: str) -> None:
        self._qdrant = qdrant
        self._name = name
        self._begin = GroupCommit(self._begin_all, GROUP_ENTRIES)
        self._advance = GroupCommit(self._advance_all, GROUP_ENTRIES)

    async def look_up(self, keys: Iterable[DocumentKey]) -> dict[DocumentKey, LedgerEntry]:
        """Return the entries of those documents that have one."""
        entries = [entry for entry, _ in await self._read(list(dict.fromkeys(keys)))]
        return {entry.key: entry for entry in entries}

    async def begin(self, entry: LedgerEntry) -> BeginResult:
        """Record that a worker begins to write or delete the document; durable on return.

        The result is not ``ours`` if a newer version, or a later attempt, has begun or ended.
        """
        return await self._begin(entry)

    async def advance(self, entry: LedgerEntry) -> LedgerEntry:
        """Replace the entry of a document that this worker began; durable on return.

        Returns the entry that is stored now: another worker's, if one has begun meanwhile.
        """
        return await self._advance(entry)

    async def confirm(self, seen: LedgerEntry, now: LedgerEntry) -> bool:
        """Replace ``seen`` by ``now``, which has the same content; False if it had changed."""
        change = msgspec.structs.asdict(now)
        same = models.Filter(
            must=[_is_of(seen), is_exactly(seen.fence), is_equal("state", EntryState.INDEXED)]
        )
        await self._qdrant.ask(
            applied(lambda client: client.set_payload(self._name, change, points=same, wait=True))
        )
        [(entry, _)] = await self._read([now.key])
        return entry.fence == now.fence

    async def invalidate(self, seen: LedgerEntry) -> bool:
        """Record that the document is incomplete, so that the same content is written again.

        Any later attempt may then begin, and no earlier one can finish. Returns False, and changes
        nothing, if another worker has begun meanwhile.
        """
        unowned = {"state": EntryState.WRITING, "attempt": NO_ATTEMPT, "chunks_fence": None}
        same = models.Filter(
            must=[_is_of(seen), is_exactly(seen.fence), is_equal("state", seen.state)]
        )
        await self._qdrant.ask(
            applied(lambda client: client.set_payload(self._name, unowned, points=same, wait=True))
        )
        [(entry, _)] = await self._read([seen.key])
        return entry.fence == Fence(seen.version, NO_ATTEMPT)

    async def in_folder(self, tenant: str, folder: str) -> AsyncIterator[Sequence[LedgerEntry]]:
        """Yield the entries of scanned documents in ``folder`` and below it, page by page.

        Deleted documents are not among them.
        """
        only = models.Filter(must=[is_equal("tenant", tenant), is_equal("folders", folder)])
        async for page in self._pages(only):
            yield page

    async def entries(self) -> AsyncIterator[Sequence[LedgerEntry]]:
        """Yield all entries page by page, including those of deleted documents."""
        async for page in self._pages(None):
            yield page

    async def count(self) -> int:
        """Return the number of documents in the index, without deleted ones."""
        alive = models.Filter(must_not=[is_equal("state", EntryState.DELETED)])
        counted = await self._qdrant.ask(
            lambda client: client.count(self._name, count_filter=alive)
        )
        return counted.count

    async def size(self) -> int:
        """Return the number of entries, including those of deleted documents."""
        return (await self._qdrant.ask(lambda client: client.count(self._name))).count

    async def _pages(self, only: models.Filter | None) -> AsyncIterator[Sequence[LedgerEntry]]:
        async for page in pages(self._qdrant, self._name, only, True, READ_ENTRIES):
            yield [msgspec.convert(record.payload, LedgerEntry) for record in page]

    async def _begin_all(self, entries: Sequence[LedgerEntry]) -> Sequence[BeginResult]:
        operations = []
        for entry in entries:
            is_absent = models.Filter(must_not=[_is_of(entry)])
            operations += [
                _upsert(entry, is_absent, first=True),
                _upsert(entry, is_older(entry.fence), first=False),
            ]
        await self._write(operations)
        return [
            BeginResult(ours=(ours := entry.fence == current.fence), first=ours and first)
            for entry, (current, first) in zip(entries, await self._stored(entries), strict=True)
        ]

    async def _advance_all(self, entries: Sequence[LedgerEntry]) -> Sequence[LedgerEntry]:
        await self._write(
            [_upsert(entry, is_exactly(entry.fence), first=False) for entry in entries]
        )
        return [current for current, _ in await self._stored(entries)]

    async def _write(self, operations: Sequence[models.UpsertOperation]) -> None:
        async def ask(part: Sequence[models.UpsertOperation]) -> None:
            await self._qdrant.ask(partial(_batch_update, self._name, part))

        await ask_in_parts(operations, ask, _describe_operation)

    async def _stored(self, entries: Sequence[LedgerEntry]) -> list[tuple[LedgerEntry, bool]]:
        found = {entry.key: (entry, first) for entry, first in await self._read(_keys(entries))}
        return [found[entry.key] for entry in entries]

    async def _read(self, keys: Sequence[DocumentKey]) -> list[tuple[LedgerEntry, bool]]:
        found = []
        for start in range(0, len(keys), READ_ENTRIES):
            ids = [ledger_id(key) for key in keys[start : start + READ_ENTRIES]]
            for record in await self._qdrant.ask(partial(_retrieve, self._name, ids)):
                payload = record.payload or {}
                found.append((msgspec.convert(payload, LedgerEntry), payload[FIRST]))
        return found


def _keys(entries: Iterable[LedgerEntry]) -> list[DocumentKey]:
    return list(dict.fromkeys(entry.key for entry in entries))


def _upsert(entry: LedgerEntry, only: models.Filter, *, first: bool) -> models.UpsertOperation:
    payload = msgspec.structs.asdict(entry) | {FIRST: first}
    point = models.PointStruct(id=ledger_id(entry.key), vector={}, payload=payload)
    return models.UpsertOperation(upsert=models.PointsList(points=[point], update_filter=only))


def _is_of(entry: LedgerEntry) -> models.HasIdCondition:
    return models.HasIdCondition(has_id=[ledger_id(entry.key)])


def _describe_operation(operation: models.UpsertOperation) -> str:
    assert isinstance(operation.upsert, models.PointsList), "`_upsert` makes nothing else"
    payload = operation.upsert.points[0].payload or {}
    return f"the entry of {payload['doc_id']!r} in the ledger"


async def _batch_update(
    name: str, operations: Sequence[models.UpsertOperation], client: AsyncQdrantClient
) -> None:
    for result in await client.batch_update_points(name, list(operations), wait=True):
        check_applied(result)


async def _retrieve(
    name: str, ids: Sequence[str], client: AsyncQdrantClient
) -> list[models.Record]:
    return await client.retrieve(name, list(ids), with_payload=True)
