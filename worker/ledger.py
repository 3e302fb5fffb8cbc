"""What is indexed, at which version: one point without a vector a document, in Qdrant itself.

The ledger stands beside the chunks rather than in Redis, so losing Redis loses no knowledge of
the index. It is also the fence between workers: an entry is only ever replaced by a newer version,
or by a later attempt at the same one. Qdrant compares and writes in one step, but does not tell
whether it did, so every write is followed by a look.
"""

from collections.abc import AsyncIterator, Iterable, Sequence
from functools import partial
from typing import Final, NamedTuple

import msgspec
from qdrant_client import AsyncQdrantClient, models

from worker.fence import is_equal, is_exactly, is_older
from worker.group_commit import GroupCommit
from worker.pages import pages
from worker.parts import in_parts
from worker.points import Begun, DocumentKey, Fence, LedgerEntry, State, ledger_id
from worker.qdrant import Qdrant, applied, check_applied

CHUNK_IDS: Final = "chunk_ids"
"""Field of an entry that is only read when somebody has to clean up: it may be long."""
WITHOUT_CHUNK_IDS: Final = models.PayloadSelectorExclude(exclude=[CHUNK_IDS])
FIRST: Final = "first"
"""Field of an entry: nobody wrote this document before."""
READ_ENTRIES: Final = 256
GROUP_ENTRIES: Final = 32
"""Entries that are written in one request."""
NO_ATTEMPT: Final = 0
"""Older than every fencing token."""


class Listed(NamedTuple):
    """An entry, and the ids of the chunks that the document has."""

    entry: LedgerEntry
    chunk_ids: frozenset[str]


class QdrantLedger:
    """The ledger in the collection ``name``. Raises what `worker.qdrant.Qdrant` raises."""

    def __init__(self, qdrant: Qdrant, name: str) -> None:
        self._qdrant = qdrant
        self._name = name
        self._begin = GroupCommit(self._begin_all, GROUP_ENTRIES)
        self._finish = GroupCommit(self._finish_all, GROUP_ENTRIES)

    async def look_up(self, keys: Iterable[DocumentKey]) -> dict[DocumentKey, LedgerEntry]:
        """The entries of those documents that ever reached the index."""
        entries = [entry for entry, _ in await self._read(list(dict.fromkeys(keys)))]
        return {entry.key: entry for entry in entries}

    async def chunk_ids(self, key: DocumentKey) -> frozenset[str]:
        """The ids of the chunks that the document has, or will have when it is written."""
        records = await self._qdrant.ask(
            lambda client: client.retrieve(self._name, [ledger_id(key)], with_payload=[CHUNK_IDS])
        )
        return frozenset((records[0].payload or {})[CHUNK_IDS]) if records else frozenset()

    async def begin(self, entry: LedgerEntry, chunk_ids: Sequence[str]) -> Begun:
        """Say that the document is being written or deleted; durable on return.

        Not ``ours`` if a newer version, or a later attempt, has begun or ended.
        """
        return await self._begin((entry, chunk_ids))

    async def finish(self, entry: LedgerEntry, chunk_ids: Sequence[str]) -> bool:
        """Say that the document is as ``entry`` says; durable on return.

        False if somebody else has begun meanwhile: then the entry is theirs.
        """
        return await self._finish((entry, chunk_ids))

    async def confirm(self, seen: LedgerEntry, now: LedgerEntry) -> bool:
        """Replace ``seen`` by ``now``, which has the same content; False if it had changed."""
        change = msgspec.structs.asdict(now)
        same = models.Filter(
            must=[_of(seen), is_exactly(seen.fence), is_equal("state", State.INDEXED)]
        )
        await self._qdrant.ask(
            applied(lambda client: client.set_payload(self._name, change, points=same, wait=True))
        )
        [(entry, _)] = await self._read([now.key])
        return entry.fence == now.fence

    async def listed(self, keys: Iterable[DocumentKey]) -> dict[DocumentKey, Listed]:
        """The entries of those documents that ever reached the index, with their chunks' ids."""
        ids = [ledger_id(key) for key in keys]
        found = []
        for start in range(0, len(ids), READ_ENTRIES):
            some = partial(_retrieve, self._name, ids[start : start + READ_ENTRIES], payload=True)
            found += [_listed(record) for record in await self._qdrant.ask(some)]
        return {one.entry.key: one for one in found}

    async def distrust(self, seen: LedgerEntry) -> bool:
        """Say that the document is not whole, so that the same content is written once more.

        Any attempt at it may begin then, and no earlier one may finish. False if somebody else has
        begun meanwhile: then nothing is changed.
        """
        nobodys = {"state": State.WRITING, "attempt": NO_ATTEMPT}
        same = models.Filter(
            must=[_of(seen), is_exactly(seen.fence), is_equal("state", seen.state)]
        )
        await self._qdrant.ask(
            applied(lambda client: client.set_payload(self._name, nobodys, points=same, wait=True))
        )
        [(entry, _)] = await self._read([seen.key])
        return entry.fence == Fence(seen.version, NO_ATTEMPT)

    async def in_folder(self, tenant: str, folder: str) -> AsyncIterator[Sequence[LedgerEntry]]:
        """The entries of scanned documents in ``folder`` and the folders in it, page by page.

        Deleted documents are in no folder.
        """
        only = models.Filter(must=[is_equal("tenant", tenant), is_equal("folders", folder)])
        async for page in self._pages(only):
            yield page

    async def entries(self) -> AsyncIterator[Sequence[LedgerEntry]]:
        """All entries, page by page, also those of deleted documents."""
        async for page in self._pages(None):
            yield page

    async def count(self) -> int:
        """How many documents the index holds."""
        alive = models.Filter(must_not=[is_equal("state", State.DELETED)])
        counted = await self._qdrant.ask(
            lambda client: client.count(self._name, count_filter=alive)
        )
        return counted.count

    async def size(self) -> int:
        """How many entries there are, with those of deleted documents."""
        return (await self._qdrant.ask(lambda client: client.count(self._name))).count

    async def _pages(self, only: models.Filter | None) -> AsyncIterator[Sequence[LedgerEntry]]:
        async for page in pages(self._qdrant, self._name, only, WITHOUT_CHUNK_IDS, READ_ENTRIES):
            yield [msgspec.convert(record.payload, LedgerEntry) for record in page]

    async def _begin_all(
        self, begun: Sequence[tuple[LedgerEntry, Sequence[str]]]
    ) -> Sequence[Begun]:
        operations = []
        for entry, chunk_ids in begun:
            nobody = models.Filter(must_not=[_of(entry)])
            operations += [
                _upsert(entry, chunk_ids, nobody, first=True),
                _upsert(entry, chunk_ids, is_older(entry.fence), first=False),
            ]
        await self._write(operations)
        now = await self._states([entry for entry, _ in begun])
        return [
            Begun(ours=(ours := entry.fence == current.fence), first=ours and first)
            for (entry, _), (current, first) in zip(begun, now, strict=True)
        ]

    async def _finish_all(
        self, finished: Sequence[tuple[LedgerEntry, Sequence[str]]]
    ) -> Sequence[bool]:
        await self._write(
            [
                _upsert(entry, chunk_ids, is_exactly(entry.fence), first=False)
                for entry, chunk_ids in finished
            ]
        )
        now = await self._states([entry for entry, _ in finished])
        return [
            entry.fence == current.fence
            for (entry, _), (current, _) in zip(finished, now, strict=True)
        ]

    async def _write(self, operations: Sequence[models.UpsertOperation]) -> None:
        async def ask(part: Sequence[models.UpsertOperation]) -> None:
            await self._qdrant.ask(partial(_batch_update, self._name, part))

        await in_parts(operations, ask, _name_of)

    async def _states(self, entries: Sequence[LedgerEntry]) -> list[tuple[LedgerEntry, bool]]:
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


def _upsert(
    entry: LedgerEntry, chunk_ids: Sequence[str], only: models.Filter, *, first: bool
) -> models.UpsertOperation:
    payload = msgspec.structs.asdict(entry) | {CHUNK_IDS: list(chunk_ids), FIRST: first}
    point = models.PointStruct(id=ledger_id(entry.key), vector={}, payload=payload)
    return models.UpsertOperation(upsert=models.PointsList(points=[point], update_filter=only))


def _of(entry: LedgerEntry) -> models.HasIdCondition:
    return models.HasIdCondition(has_id=[ledger_id(entry.key)])


def _name_of(operation: models.UpsertOperation) -> str:
    assert isinstance(operation.upsert, models.PointsList), "`_upsert` makes nothing else"
    payload = operation.upsert.points[0].payload or {}
    return f"the entry of {payload['doc_id']!r} with {len(payload[CHUNK_IDS])} chunks in the ledger"


async def _batch_update(
    name: str, operations: Sequence[models.UpsertOperation], client: AsyncQdrantClient
) -> None:
    for result in await client.batch_update_points(name, list(operations), wait=True):
        check_applied(result)


async def _retrieve(
    name: str,
    ids: Sequence[str],
    client: AsyncQdrantClient,
    payload: bool | models.PayloadSelectorExclude = WITHOUT_CHUNK_IDS,
) -> list[models.Record]:
    return await client.retrieve(name, list(ids), with_payload=payload)


def _listed(record: models.Record) -> Listed:
    payload = record.payload or {}
    return Listed(msgspec.convert(payload, LedgerEntry), frozenset(payload[CHUNK_IDS]))
