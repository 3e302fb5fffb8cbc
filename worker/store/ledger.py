"""The ledger: which documents are indexed, at which version. One point per document, in Qdrant.

It is stored beside the chunks rather than in Redis, so losing Redis loses no knowledge of the
index. It also fences workers off from each other: an entry is replaced only by a worker that has
seen it, and found its own change to be newer (`worker.pipeline.order`). Qdrant compares and writes
in one step but does not tell whether it wrote, so a read follows every write. Writes and reads of
all documents in work share requests; see docs/adr/0009-group-commit.md.
"""

from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import aclosing
from functools import lru_cache, partial
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import Struct
from qdrant_client import AsyncQdrantClient, models

from ingestq.core.metrics import PipelineStage
from ingestq.core.results import StaleDocument, WarnedDocument
from ingestq.core.unicode_forms import composed
from ingestq.core.versions import FIRST_ISSUED, LAST_ISSUED, LedgerHead, is_issued
from worker.pipeline.order import is_superseded, marked
from worker.pipeline.points import (
    COMPOSED,
    BeginResult,
    DocumentKey,
    EntryState,
    Fence,
    LedgerEntry,
    Rejection,
    composed_field,
    ledger_id,
)
from worker.store.client import Qdrant, applied, ask_in_parts
from worker.store.fence import is_equal, is_exactly, is_one_of
from worker.store.requests import Fields, GroupCommit, GroupLimits, batch_update, in_pages, pages
from worker.store.spans import in_span

FIRST: Final = "first"
"""Field of an entry: the document had no entry before."""
REJECTION: Final = "rejection"
REJECTED_VERSION: Final = f"{REJECTION}.version"
REJECTED_QUEUED: Final = f"{REJECTION}.queued"
STALE: Final = "stale"
"""Field of an entry: a newer version was rejected, so it has a ``rejection``."""
WARNED: Final = "warned"
"""Field of an entry: the document has warnings. A list cannot be asked whether it is empty, unless
an index of all its texts is kept."""
READ_ENTRIES: Final = 256
WRITES: Final = GroupLimits(128)
"""Entries that are written in one request."""
LOOK_UPS: Final = GroupLimits(READ_ENTRIES, spacing_seconds=0.0)
"""Every job begins with one, and most of a rerun consists of nothing else."""
COPY_FIELDS: Final = ["tenant", "doc_id", "bytes_hash"]
COPY_PAGES: Final = 4
"""Pages of entries that are read to find copies. If one content has a thousand of them, they may
hide the copies of another, which is then embedded again."""
DELETED: Final = EntryState.DELETED
COPIES: Final = GroupLimits(128)
ID_BYTES: Final = 40
HASH_BYTES: Final = 256
"""The tenant and the hash of a content, in a request."""
ENTRY_BYTES: Final = 1024
"""The filters around an entry in a request, and the names of its fields."""
CACHED_FILTERS: Final = 256
"""Filters that are remembered: documents of a job often have the same fence."""
NO_ATTEMPT: Final = 0
"""Less than every fencing token."""


Write = models.UpsertOperation | models.SetPayloadOperation


class QdrantLedger:
    """The ledger in the collection ``name``. Raises what `worker.store.client.Qdrant` raises."""

    def __init__(self, qdrant: Qdrant, name: str) -> None:
        self._qdrant = qdrant
        self._name = name
        self._look_up = GroupCommit(
            self._read,
            LOOK_UPS,
            name=_describe_key,
            size=lambda _: ID_BYTES,
            stage=PipelineStage.LEDGER,
        )
        self._write = GroupCommit(
            self._write_all,
            WRITES,
            name=_describe_change,
            size=_change_bytes,
            stage=PipelineStage.LEDGER,
        )
        self._copy_of = GroupCommit(
            self._copies_of,
            COPIES,
            name=_describe_copy,
            size=lambda _: HASH_BYTES,
            stage=PipelineStage.LEDGER,
        )

    @in_span("retrieve")
    async def look_up(self, keys: Iterable[DocumentKey]) -> dict[DocumentKey, LedgerEntry]:
        """Return the entries of those documents that have one."""
        wanted = list(dict.fromkeys(keys))
        found = zip(wanted, await self._look_up(wanted), strict=True)
        return {key: entry for key, entry in found if entry is not None}

    async def other_forms(self, key: DocumentKey) -> list[LedgerEntry]:
        """Return the entries of documents whose ids differ only in Unicode's normal form."""
        same = key._replace(doc_id=composed(key.doc_id))
        only = models.Filter(
            must=[is_equal("tenant", key.tenant), is_equal(f"doc_id{COMPOSED}", same.doc_id)]
        )
        found = list((await self.look_up([same])).values())
        async for page in self._pages(only):
            found += page
        return [entry for entry in found if entry.key != key]

    @in_span("scroll")
    async def copy_of(self, key: DocumentKey, bytes_hash: str) -> str | None:
        """Return the id of another indexed document of the tenant with these bytes, if any."""
        return await self._copy_of.of_one((key, bytes_hash))

    async def with_bytes(
        self, tenant: str, hashes: Iterable[str]
    ) -> AsyncIterator[Sequence[LedgerEntry]]:
        """Yield the entries of the tenant's documents with any of these hashes of their bytes."""
        async for page in self._pages(models.Filter(must=_has_bytes([tenant], hashes))):
            yield page

    @in_span("upsert")
    async def begin(self, entry: LedgerEntry, seen: LedgerEntry | None) -> BeginResult:
        """Record that a worker begins to write or delete the document; durable on return.

        ``seen`` is the entry that it replaces, None if there is none. The result is not ``ours`` if
        another worker has replaced that meanwhile, or a deletion was noted in it.
        """
        write = _insert(entry) if seen is None else _replace(seen, entry)
        now = await self._write.of_one(_Change(entry, write))
        return BeginResult(now.entry, now.is_ours, first=now.is_ours and now.head.first)

    @in_span("upsert")
    async def advance(self, entry: LedgerEntry) -> LedgerEntry:
        """Replace the entry of a document that this worker began; durable on return.

        Returns the entry that is stored now: another worker's, if one has begun meanwhile. A
        deletion that was noted in the entry meanwhile is kept.
        """
        while True:
            now = await self._write.of_one(_Change(entry, _replace(entry, entry)))
            if not now.is_ours:
                return now.entry
            if now.entry.deleted_at <= entry.deleted_at:
                if not entry.unfinished:
                    await self._clear_rejection(now)
                return now.entry
            entry = now.entry

    async def note_deletion(self, seen: LedgerEntry, deleted_at: int) -> bool:
        """Record in ``seen`` that everything which was queued before ``deleted_at`` is deleted.

        Returns False if another worker has replaced ``seen`` meanwhile.
        """
        is_earlier = models.FieldCondition(key="deleted_at", range=models.Range(lt=deleted_at))
        same = models.Filter(must=[_is_of(seen), is_exactly(seen.fence), is_earlier])
        note = {"deleted_at": deleted_at}
        await self._qdrant.ask(
            applied(lambda client: client.set_payload(self._name, note, points=same, wait=True))
        )
        return await self._fence_of(seen.key) == seen.fence

    @in_span("upsert")
    async def confirm(self, seen: LedgerEntry, now: LedgerEntry) -> bool:
        """Replace ``seen`` by ``now``, which has the same content; False if it had changed."""
        stored = await self._write.of_one(_Change(now, _replace_indexed(seen, now)))
        if stored.is_ours:
            await self._clear_rejection(stored)
        return stored.is_ours

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
        return await self._fence_of(seen.key) == seen.fence._replace(attempt=NO_ATTEMPT)

    async def reject(self, rejections: Mapping[DocumentKey, Rejection]) -> frozenset[DocumentKey]:
        """Record that versions were rejected, for those documents that have an older one.

        Returns those that have a newer one. A document keeps the rejection of its newest version
        until a version that is not older is indexed, found unchanged or deleted. It is safe to
        repeat, in any order.
        """
        left = dict(rejections)
        superseded: set[DocumentKey] = set()
        while left:
            operations, written = [], {}
            for key, entry in (await self.look_up(left)).items():
                if is_superseded(entry, left[key]):
                    superseded.add(key)
                mark = marked(entry, left[key])
                if mark is not None and mark != entry.rejection:
                    operations.append(_mark(entry, mark))
                    written[key] = left[key]
            if operations:
                await ask_in_parts(operations, self._apply, _describe_mark)
            left = written  # once more: another worker may have replaced the entry meanwhile
        return frozenset(superseded)

    async def copy_rejection(self, entry: LedgerEntry) -> None:
        """Record the rejection of ``entry``, which is of another ledger, in the document's own.

        A copy of an unfinished entry takes it whatever its version: none since has been indexed.
        """
        rejection = entry.rejection
        if rejection is None:
            return
        now = (await self.look_up([entry.key])).get(entry.key)
        at = (entry.version, entry.attempt)
        is_copy = now is not None and now.unfinished and (now.version, now.attempt) == at
        if now is not None and is_copy and entry.unfinished:
            await self._apply([_mark(now, rejection)])
        else:
            await self.reject({entry.key: rejection})

    async def in_folder(self, tenant: str, folder: str) -> AsyncIterator[Sequence[LedgerEntry]]:
        """Yield the entries of scanned documents in ``folder`` and below it, page by page.

        Deleted documents are not among them, but those that a worker has begun to delete.
        """
        only = models.Filter(must=[is_equal("tenant", tenant), is_equal("folders", folder)])
        async for page in self._pages(only):
            yield page

    async def entries(self) -> AsyncIterator[Sequence[LedgerEntry]]:
        """Yield all entries page by page, including those of deleted documents."""
        async for page in self._pages(None):
            yield page

    async def doc_ids(self, tenant: str) -> AsyncGenerator[Sequence[str]]:
        """Yield the ids of a tenant's documents page by page, without deleted ones."""
        only = models.Filter(
            must=[is_equal("tenant", tenant)], must_not=[is_equal("state", EntryState.DELETED)]
        )
        async for page in pages(self._qdrant, self._name, only, ["doc_id"], READ_ENTRIES):
            yield [str((record.payload or {})["doc_id"]) for record in page]

    async def count(self, tenant: str | None = None) -> int:
        """Return the number of documents in the index, without deleted ones.

        Here and below, only documents of ``tenant`` count, unless that is None.
        """
        return await self._count(
            models.Filter(must_not=[is_equal("state", EntryState.DELETED)]), tenant
        )

    async def count_warned(self, tenant: str | None = None) -> int:
        """Return the number of documents with warnings."""
        return await self._count(_warned(), tenant)

    async def _count(self, only: models.Filter, tenant: str | None) -> int:
        wanted = _of_tenant(only, tenant)
        counted = await self._qdrant.ask(
            lambda client: client.count(self._name, count_filter=wanted)
        )
        return counted.count

    async def warned(self, tenant: str | None = None) -> AsyncIterator[Sequence[WarnedDocument]]:
        """Yield the documents with warnings page by page."""
        fields = list(WarnedDocument.__struct_fields__)
        only = _of_tenant(_warned(), tenant)
        async for page in pages(self._qdrant, self._name, only, fields, READ_ENTRIES):
            yield [msgspec.convert(record.payload, WarnedDocument) for record in page]

    async def count_stale(self, tenant: str | None = None) -> int:
        """Return the number of documents of which a newer version was rejected."""
        return await self._count(_stale(), tenant)

    async def stale(self, tenant: str | None = None) -> AsyncIterator[Sequence[StaleDocument]]:
        """Yield the documents of which a newer version was rejected page by page."""
        fields = ["tenant", "doc_id", REJECTION]
        only = _of_tenant(_stale(), tenant)
        async for page in pages(self._qdrant, self._name, only, fields, READ_ENTRIES):
            payloads = [record.payload or {} for record in page]
            # A rejection may be cleared between the filter and the read.
            yield [
                msgspec.convert(payload | payload[REJECTION], StaleDocument)
                for payload in payloads
                if payload.get(REJECTION) is not None
            ]

    async def stale_among(self, keys: Iterable[DocumentKey]) -> frozenset[DocumentKey]:
        """Return which of these documents, a few hundred at most, are stale; in one request."""
        ids = {ledger_id(key): key for key in keys}
        if not ids:
            return frozenset()
        fields = [STALE, "state"]
        found = await self._qdrant.ask(
            lambda client: client.retrieve(self._name, list(ids), with_payload=fields)
        )
        return frozenset(
            ids[str(record.id)]
            for record in found
            if record.payload and record.payload[STALE] and record.payload["state"] != DELETED
        )

    async def head(self) -> LedgerHead:
        """Return the newest version that Redis may have issued, and the largest fencing token.

        The version may be that of a document, or the one under which it was queued.
        """
        return LedgerHead(
            max(
                await self._largest("version", _is_issued("version")),
                await self._largest("queued", _is_issued("queued")),
            ),
            await self._largest("attempt", None),
        )

    async def _largest(self, field: str, only: models.Filter | None) -> int:
        descending = models.OrderBy(key=field, direction=models.Direction.DESC)
        records, _ = await self._qdrant.ask(
            lambda client: client.scroll(
                self._name, scroll_filter=only, limit=1, order_by=descending, with_payload=[field]
            )
        )
        return max((int((record.payload or {})[field]) for record in records), default=0)

    async def size(self) -> int:
        """Return the number of entries, including those of deleted documents."""
        return (await self._qdrant.ask(lambda client: client.count(self._name))).count

    async def _pages(self, only: models.Filter | None) -> AsyncIterator[Sequence[LedgerEntry]]:
        async for page in pages(self._qdrant, self._name, only, True, READ_ENTRIES):
            yield [msgspec.convert(record.payload, LedgerEntry) for record in page]

    async def _copies_of(self, wanted: Sequence[tuple[DocumentKey, str]]) -> Sequence[str | None]:
        has_bytes = _has_bytes({key.tenant for key, _ in wanted}, {of for _, of in wanted})
        indexed = models.Filter(must=[*has_bytes, is_equal("state", EntryState.INDEXED)])
        copies: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
        pages_left = COPY_PAGES
        async with aclosing(
            pages(self._qdrant, self._name, indexed, COPY_FIELDS, READ_ENTRIES)
        ) as read:
            async for records in read:
                for payload in (record.payload or {} for record in records):
                    tenant, doc_id, of = (payload[field] for field in COPY_FIELDS)
                    copies[tenant, of].add(doc_id)
                pages_left -= 1
                if not pages_left:
                    break
        return [min(copies[key.tenant, of] - {key.doc_id}, default=None) for key, of in wanted]

    async def _write_all(self, changes: Sequence["_Change"]) -> Sequence["_Stored"]:
        await self._apply([change.write for change in changes])
        return await self._stored([change.entry for change in changes])

    async def _apply(self, writes: Sequence[Write]) -> None:
        await self._qdrant.ask(partial(batch_update, self._name, writes))

    async def _clear_rejection(self, done: "_Stored") -> None:
        """Clear the rejection of a version that is not newer than the entry, which is ``done``.

        If the entry was not stale when it was read, it has none: no version is marked as rejected
        in an entry that is done and not older.
        """
        if done.head.stale:
            await self._apply([_clear_rejection(done.entry)])

    async def _stored(self, entries: Sequence[LedgerEntry]) -> list["_Stored"]:
        """Return what is stored now of ``entries``, which were written a moment ago.

        An entry is read in full only if another worker has replaced it.
        """
        heads = await self._heads(_keys(entries))
        theirs = [entry.key for entry in entries if heads[entry.key].fence != entry.fence]
        replaced = dict(zip(theirs, await self._read(theirs), strict=True))
        stored = []
        for entry in entries:
            head = heads[entry.key]
            if head.fence == entry.fence:
                now = msgspec.structs.replace(entry, deleted_at=head.deleted_at)
                stored.append(_Stored(now, head, is_ours=True))
            else:
                other = replaced[entry.key]
                assert other is not None, "an entry is never deleted"
                stored.append(_Stored(other, head, is_ours=False))
        return stored

    async def _fence_of(self, key: DocumentKey) -> Fence:
        return (await self._heads([key]))[key].fence

    async def _heads(self, keys: Sequence[DocumentKey]) -> dict[DocumentKey, "_Head"]:
        heads = [
            msgspec.convert(payload, _Head)
            for payload in await self._payloads(keys, _Head.__struct_fields__)
        ]
        return {DocumentKey(head.tenant, head.doc_id): head for head in heads}

    async def _read(self, keys: Sequence[DocumentKey]) -> list[LedgerEntry | None]:
        """Return the entry of each document that has one."""
        entries = [
            msgspec.convert(payload, LedgerEntry) for payload in await self._payloads(keys, None)
        ]
        found = {entry.key: entry for entry in entries}
        return [found.get(key) for key in keys]

    async def _payloads(
        self, keys: Sequence[DocumentKey], fields: Sequence[str] | None
    ) -> list[models.Payload]:
        """Return the payloads of those entries that exist, or some of their ``fields``."""
        payloads: list[models.Payload] = []
        for some in in_pages(keys, READ_ENTRIES):
            ids = [ledger_id(key) for key in some]
            wanted = True if fields is None else list(fields)
            records = await self._qdrant.ask(partial(_retrieve, self._name, ids, wanted))
            payloads += [record.payload or {} for record in records]
        return payloads


class _Head(Struct, frozen=True):
    """What is read of an entry after it was written: who wrote it, and what others noted in it.

    It is the document's ``first``, or it is ``stale`` because a version was rejected.
    """

    tenant: str
    doc_id: str
    version: int
    attempt: int
    epoch: int
    deleted_at: int
    first: bool
    stale: bool

    @property
    def fence(self) -> Fence:
        return Fence(self.version, self.attempt, self.epoch)


class _Change(NamedTuple):
    """A write that makes an entry equal to ``entry``, unless another worker has changed it."""

    entry: LedgerEntry
    write: Write


class _Stored(NamedTuple):
    """An entry as it is stored now. It ``is_ours`` if no other worker has replaced it."""

    entry: LedgerEntry
    head: _Head
    is_ours: bool


def _keys(entries: Iterable[LedgerEntry]) -> list[DocumentKey]:
    return list(dict.fromkeys(entry.key for entry in entries))


def _payload(entry: LedgerEntry) -> dict[str, Any]:
    """Return what a worker writes of ``entry``.

    The rejection is not among it: another worker may have rejected a newer version meanwhile.
    """
    payload = msgspec.structs.asdict(entry) | {WARNED: bool(entry.warnings)}
    del payload[REJECTION]
    return payload | composed_field("doc_id", entry.doc_id)


def _of_tenant(only: models.Filter, tenant: str | None) -> models.Filter:
    """Return ``only``, also restricted to the documents of ``tenant`` unless that is None."""
    if tenant is None:
        return only
    return models.Filter(must=[only, is_equal("tenant", tenant)])


def _has_bytes(tenants: Iterable[str], hashes: Iterable[str]) -> list[models.Condition]:
    # The hash comes first: it excludes nearly all.
    return [is_one_of("bytes_hash", hashes), is_one_of("tenant", tenants)]


def _warned() -> models.Filter:
    return models.Filter(must=[is_equal(WARNED, True)])


def _is_issued(field: str) -> models.Filter:
    issued = models.Range(gte=FIRST_ISSUED, lte=LAST_ISSUED)
    return models.Filter(must=[models.FieldCondition(key=field, range=issued)])


def _is_seen(entry: LedgerEntry) -> models.Filter:
    """Match ``entry``, in any state, if no other worker replaced it or noted a deletion in it."""
    return _is_under(entry.fence, entry.deleted_at)


@lru_cache(CACHED_FILTERS)
def _is_under(fence: Fence, deleted_at: int) -> models.Filter:
    return models.Filter(must=[is_exactly(fence), is_equal("deleted_at", deleted_at)])


def _stale() -> models.Filter:
    return models.Filter(must=[is_equal(STALE, True)], must_not=[is_equal("state", DELETED)])


def _clear_rejection(entry: LedgerEntry) -> models.SetPayloadOperation:
    """Clear the rejection of a version that is not newer than that of ``entry``, which is done.

    On another scale, that is one which was issued or queued before; see `worker.pipeline.order`.
    """
    if is_issued(entry.version):
        same_scale = models.Range(gte=FIRST_ISSUED, lte=entry.version)
        queued = models.FieldCondition(key=REJECTED_QUEUED, range=models.Range(lte=entry.version))
        other_scale = models.Filter(must=[_is_rejected(models.Range(lt=FIRST_ISSUED)), queued])
    else:
        same_scale = models.Range(lte=entry.version)
        issued = models.Range(gte=FIRST_ISSUED, lte=entry.queued)
        other_scale = models.Filter(must=[_is_rejected(issued)])
    outdated = models.Filter(should=[_is_rejected(same_scale), other_scale])
    only = models.Filter(must=[_is_of(entry), is_exactly(entry.fence), outdated])
    return _set({REJECTION: None, STALE: False}, only)


def _mark(entry: LedgerEntry, rejection: Rejection) -> models.SetPayloadOperation:
    """Return the operation that records ``rejection``, unless ``entry`` or its own has changed."""
    known = entry.rejection
    same: models.Condition = (
        models.IsEmptyCondition(is_empty=models.PayloadField(key=REJECTION))
        if known is None
        else is_equal(REJECTED_VERSION, known.version)
    )
    seen: list[models.Condition] = [
        _is_of(entry),
        _is_seen(entry),
        is_equal("state", entry.state),
        same,
    ]
    only = models.Filter(must=seen)
    return _set({REJECTION: msgspec.structs.asdict(rejection), STALE: True}, only)


def _is_rejected(versions: models.Range) -> models.FieldCondition:
    return models.FieldCondition(key=REJECTED_VERSION, range=versions)


def _replace(seen: LedgerEntry, entry: LedgerEntry) -> models.SetPayloadOperation:
    """Return the operation that replaces ``seen`` by ``entry``, but keeps its rejection."""
    only = models.Filter(must=[_is_of(entry), _is_seen(seen)])
    return _set(_payload(entry) | {FIRST: False}, only)


def _replace_indexed(seen: LedgerEntry, entry: LedgerEntry) -> models.SetPayloadOperation:
    """Return the operation that replaces ``seen`` by ``entry`` if it is still indexed."""
    indexed = is_equal("state", EntryState.INDEXED)
    return _set(_payload(entry), models.Filter(must=[_is_of(entry), _is_seen(seen), indexed]))


def _insert(entry: LedgerEntry) -> models.UpsertOperation:
    """Return the operation that adds ``entry`` if the document has none."""
    payload = _payload(entry) | {FIRST: True, REJECTION: None, STALE: False}
    point = models.PointStruct(id=ledger_id(entry.key), vector={}, payload=payload)
    is_absent = models.Filter(must_not=[_is_of(entry)])
    return models.UpsertOperation(upsert=models.PointsList(points=[point], update_filter=is_absent))


def _set(payload: dict[str, Any], only: models.Filter) -> models.SetPayloadOperation:
    return models.SetPayloadOperation(set_payload=models.SetPayload(payload=payload, filter=only))


def _is_of(entry: LedgerEntry) -> models.HasIdCondition:
    return models.HasIdCondition(has_id=[ledger_id(entry.key)])


def _describe_mark(operation: models.SetPayloadOperation) -> str:
    return f"the rejection {operation.set_payload.payload[REJECTION]!r} in the ledger"


def _describe_copy(wanted: tuple[DocumentKey, str]) -> str:
    return f"the copies of {wanted[0].doc_id!r}"


def _describe_change(change: _Change) -> str:
    return _describe_key(change.entry.key)


def _describe_key(key: DocumentKey) -> str:
    return f"the entry of {key.doc_id!r} in the ledger"


def _change_bytes(change: _Change) -> int:
    return ENTRY_BYTES + len(msgspec.json.encode(change.entry))


async def _retrieve(
    name: str, ids: Sequence[str], fields: Fields, client: AsyncQdrantClient
) -> list[models.Record]:
    return await client.retrieve(name, list(ids), with_payload=fields)
