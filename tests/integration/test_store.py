"""What ingestq reads and writes in Qdrant, and what its errors and outages become."""

import asyncio
import math
import socket
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import msgspec
import pytest
import stamina
from qdrant_client import AsyncQdrantClient, models

from ingestq.core.errors import (
    CollectionMismatch,
    CollectionMissing,
    StoreRejected,
    StoreUnavailable,
    UsageError,
)
from ingestq.core.results import WarnedDocument
from ingestq.core.versions import FIRST_ISSUED, LAST_ISSUED, LedgerHead
from tests.qdrant_proxy import QdrantProxy, qdrant_proxy
from worker.embedding.config import Precision
from worker.pipeline.points import (
    BeginResult,
    ChunkPoint,
    DocumentKey,
    EntryState,
    Fence,
    LedgerEntry,
)
from worker.store import collection as collections
from worker.store.chunks import READ_POINTS, QdrantStore
from worker.store.client import PatientQdrant, Qdrant, QdrantConfig, connect_qdrant
from worker.store.collection import (
    LEDGER_INDEXES,
    PAYLOAD_INDEXES,
    CollectionNames,
    check_fingerprint,
    find_collection,
    open_collection,
)
from worker.store.ledger import QdrantLedger
from worker.store.schema import Fingerprint

RETRIES = 10
HALF = Fingerprint("test/half", "1", 4, 8, Precision.EXACT, "none", 1)
"""For vectors of 4 dimensions, half as many as WHOLE. No model is loaded."""
WHOLE = Fingerprint("test/whole", "1", 8, 8, Precision.EXACT, "none", 1)
KEY = DocumentKey("t", "d")
FENCE = Fence(version=1, attempt=1)
SEVENTH = {"chunk_index": 7}
ENTRY = LedgerEntry(
    tenant="t",
    doc_id="d",
    source="d.txt",
    version=1,
    attempt=1,
    content_hash="h",
    chunks=2,
    state=EntryState.WRITING,
    written_ms=1,
)
UNKNOWN = str(uuid.UUID(int=0))


def _tombstone(fence: Fence) -> LedgerEntry:
    """Return the entry of a document that was deleted under ``fence``."""
    return msgspec.structs.replace(ENTRY, state=EntryState.DELETED, chunks=0, **fence._asdict())


TOMBSTONE = _tombstone(FENCE)


@pytest.fixture
async def behind(proxied_qdrant: QdrantProxy) -> AsyncIterator[Qdrant]:
    """A client of the proxy."""
    async with connect_qdrant(QdrantConfig(proxied_qdrant.url, None)) as opened:
        yield opened


@pytest.fixture
async def store(qdrant: Qdrant, alias: str) -> QdrantStore:
    names = await open_collection(qdrant, alias, HALF)
    return QdrantStore(qdrant, names.chunks)


@pytest.fixture
async def faulty(behind: Qdrant, alias: str) -> QdrantStore:
    """A store behind the proxy, for tests that plan faults."""
    names = await open_collection(behind, alias, HALF)
    return QdrantStore(PatientQdrant(behind), names.chunks)


@pytest.fixture
def no_backoff() -> Iterator[None]:
    """Retry without waiting."""
    with stamina.set_testing(True, attempts=RETRIES):
        yield


async def test_two_workers_create_one_collection(qdrant: Qdrant, alias: str) -> None:
    one, other = await asyncio.gather(
        open_collection(qdrant, alias, HALF), open_collection(qdrant, alias, HALF)
    )

    assert one == other == await find_collection(qdrant, alias)
    assert await _collections(qdrant, alias) == {one.chunks, one.ledger}
    await check_fingerprint(qdrant, one, HALF)


async def test_no_collection_is_found_before_the_first_start(qdrant: Qdrant, alias: str) -> None:
    assert await find_collection(qdrant, alias) is None


async def test_a_collection_that_another_worker_has_just_created_is_not_foreign(
    qdrant: Qdrant, alias: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = collections.find_collection

    async def find_too_early(qdrant: Qdrant, alias: str) -> CollectionNames | None:
        monkeypatch.setattr(collections, "find_collection", find)
        assert await find(qdrant, alias) is None
        await open_collection(qdrant, alias, HALF)  # as another worker does
        return None

    monkeypatch.setattr(collections, "find_collection", find_too_early)
    names = await open_collection(qdrant, alias, HALF)
    assert await find(qdrant, alias) == names


async def test_opening_again_keeps_the_points(
    qdrant: Qdrant, alias: str, store: QdrantStore
) -> None:
    await store.upsert([_point("d", 0)], FENCE)

    await open_collection(qdrant, alias, HALF)

    assert await store.count() == 1


async def test_opening_again_changes_nothing(
    proxied_qdrant: QdrantProxy, behind: Qdrant, alias: str, faulty: QdrantStore
) -> None:
    proxied_qdrant.requests.clear()

    await open_collection(behind, alias, HALF)

    assert {request.split()[0] for request in proxied_qdrant.requests} == {"GET"}


async def test_an_index_that_is_missing_or_different_is_created_again(
    qdrant: Qdrant, alias: str
) -> None:
    names = await open_collection(qdrant, alias, HALF)
    await qdrant.ask(lambda client: client.delete_payload_index(names.ledger, "state"))
    keyword = models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD)
    await qdrant.ask(
        lambda client: client.create_payload_index(names.chunks, "tenant", keyword, wait=True)
    )

    await open_collection(qdrant, alias, HALF)

    ledger = await qdrant.ask(partial(_get_collection, names.ledger))
    assert set(ledger.payload_schema) == set(LEDGER_INDEXES)
    chunks = await qdrant.ask(partial(_get_collection, names.chunks))
    assert chunks.payload_schema["tenant"].params == PAYLOAD_INDEXES["tenant"]


async def test_filtered_payload_fields_are_indexed(
    qdrant: Qdrant, alias: str, store: QdrantStore
) -> None:
    names = await open_collection(qdrant, alias, HALF)
    for collection, indexes in ((alias, PAYLOAD_INDEXES), (names.ledger, LEDGER_INDEXES)):
        info = await qdrant.ask(partial(_get_collection, collection))
        assert set(info.payload_schema) == set(indexes)


async def test_documents_with_warnings_are_counted_and_found(qdrant: Qdrant, alias: str) -> None:
    names = await open_collection(qdrant, alias, HALF)
    ledger = QdrantLedger(qdrant, names.ledger)
    warned = msgspec.structs.replace(ENTRY, doc_id="scan", warnings=("page 2 has no text",))
    for entry in (ENTRY, warned):
        await ledger.begin(entry, None)
    assert await ledger.count_warned() == 1
    [page] = [page async for page in ledger.warned()]
    assert page == [WarnedDocument(warned.tenant, "scan", ("page 2 has no text",))]

    await ledger.advance(msgspec.structs.replace(warned, warnings=()))
    assert await ledger.count_warned() == 0
    assert [page async for page in ledger.warned()] == [[]]


async def test_points_are_written_read_and_deleted(store: QdrantStore) -> None:
    kept = _point("d", 0, [3.0, 0.0, 4.0, 0.0])
    await store.upsert([kept, _point("d", 1)], FENCE)
    assert await store.count() == 2

    vectors = await store.vectors([kept.id, UNKNOWN])
    assert vectors == {kept.id: pytest.approx([0.6, 0.0, 0.8, 0.0])}

    assert await store.delete_stale(TOMBSTONE) == 2
    assert await store.delete_stale(TOMBSTONE) == 0
    assert await store.count() == 0


async def test_writing_a_point_again_replaces_it(store: QdrantStore) -> None:
    await store.upsert([_point("d", 0, source="old.txt")], FENCE)
    await store.upsert([_point("d", 0, source="new.txt")], FENCE)

    assert await store.count() == 1
    [hit] = await store.search([1.0, 1.0, 1.0, 1.0], 5)
    assert hit.source == "new.txt"


async def test_search_returns_the_nearest_points_first(store: QdrantStore) -> None:
    near, far = [1.0, 0.1, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]
    metadata = {"title": "Über", "pages": [1, 2], "author": None}
    await store.upsert(
        [_point("far", 0, far), _point("near", 0, near, metadata=metadata), _point("third", 0)],
        FENCE,
    )

    hits = await store.search([1.0, 0.0, 0.0, 0.0], 2)

    assert [hit.doc_id for hit in hits] == ["near", "third"]
    assert hits[0].score == pytest.approx(1 / math.hypot(1, 0.1))
    assert hits[0].metadata == metadata


async def test_deleting_a_document_takes_several_pages(store: QdrantStore) -> None:
    document = [_point("d", i) for i in range(READ_POINTS + 1)]
    strangers = [_point("other", 0), _point("d", 0, tenant="another")]
    await store.upsert([*document, *strangers], FENCE)

    assert await store.delete_stale(TOMBSTONE) == len(document)

    assert await store.count() == len(strangers)


@pytest.fixture
async def ledger(qdrant: Qdrant, alias: str) -> QdrantLedger:
    names = await open_collection(qdrant, alias, HALF)
    return QdrantLedger(qdrant, names.ledger)


async def test_the_ledger_records_begin_and_end(ledger: QdrantLedger) -> None:
    assert await ledger.look_up([KEY]) == {}
    assert await ledger.begin(ENTRY, None) == BeginResult(ENTRY, ours=True, first=True)
    assert await ledger.look_up([KEY]) == {KEY: ENTRY}
    done = msgspec.structs.replace(ENTRY, state=EntryState.INDEXED)
    assert await ledger.advance(done) == done
    assert await ledger.look_up([KEY, DocumentKey("t", "e"), KEY]) == {KEY: done}
    assert await ledger.count() == 1


@pytest.mark.parametrize(
    ("seen", "ours"),
    [
        pytest.param({}, True, id="as it is"),
        pytest.param({"state": EntryState.INDEXED}, True, id="in another state"),
        pytest.param({"version": 1}, False, id="another version"),
        pytest.param({"attempt": 2}, False, id="another attempt"),
        pytest.param({"epoch": 1}, False, id="another epoch"),
        pytest.param({"deleted_at": 1}, False, id="before a deletion was noted"),
        pytest.param(None, False, id="nothing"),
    ],
)
async def test_a_worker_begins_only_over_the_entry_that_it_has_seen(
    ledger: QdrantLedger, seen: dict[str, Any] | None, ours: bool
) -> None:
    there = msgspec.structs.replace(ENTRY, version=2, attempt=3, deleted_at=7)
    await ledger.begin(there, None)
    mine = msgspec.structs.replace(ENTRY, version=4, attempt=4, deleted_at=7)
    known = None if seen is None else msgspec.structs.replace(there, **seen)
    owner = mine if ours else there
    assert await ledger.begin(mine, known) == BeginResult(owner, ours=ours, first=False)
    assert await ledger.advance(mine) == owner
    assert await ledger.advance(there) == owner


async def test_a_deletion_that_is_noted_outlives_the_writer(ledger: QdrantLedger) -> None:
    await ledger.begin(ENTRY, None)
    assert await ledger.note_deletion(ENTRY, 9)
    assert await ledger.note_deletion(ENTRY, 8)  # an older one changes nothing
    noted = msgspec.structs.replace(ENTRY, state=EntryState.INDEXED, deleted_at=9)
    assert await ledger.advance(msgspec.structs.replace(noted, deleted_at=0)) == noted
    assert await ledger.look_up([KEY]) == {KEY: noted}
    assert not await ledger.note_deletion(msgspec.structs.replace(noted, version=2), 10)
    assert await ledger.look_up([KEY]) == {KEY: noted}


async def test_beginning_twice_is_idempotent(ledger: QdrantLedger) -> None:
    for _ in range(2):
        assert await ledger.begin(ENTRY, None) == BeginResult(ENTRY, ours=True, first=True)


async def test_many_documents_begin_and_end_together(ledger: QdrantLedger) -> None:
    entries = [msgspec.structs.replace(ENTRY, doc_id=str(i), version=1 + i % 2) for i in range(100)]
    begun = await asyncio.gather(*(ledger.begin(entry, None) for entry in entries))
    assert begun == [BeginResult(entry, ours=True, first=True) for entry in entries]
    stale = [msgspec.structs.replace(entry, version=1, attempt=0) for entry in entries]
    assert await asyncio.gather(*(ledger.advance(entry) for entry in stale)) == entries
    assert await asyncio.gather(*(ledger.advance(entry) for entry in entries)) == entries
    assert len(await ledger.look_up(entry.key for entry in entries)) == 100


async def test_an_entry_is_confirmed_unless_it_changed(ledger: QdrantLedger) -> None:
    done = msgspec.structs.replace(ENTRY, state=EntryState.INDEXED)
    await ledger.begin(ENTRY, None)
    later = msgspec.structs.replace(done, version=5, attempt=2, file="state")
    assert not await ledger.confirm(done, later)  # it is being written
    await ledger.advance(done)
    assert await ledger.confirm(done, later)
    assert await ledger.look_up([KEY]) == {KEY: later}
    assert not await ledger.confirm(done, msgspec.structs.replace(done, version=3))


async def test_the_newest_version_may_be_one_that_a_document_was_queued_under(
    ledger: QdrantLedger,
) -> None:
    for doc_id, version, queued in (
        ("issued", FIRST_ISSUED + 1, 0),
        ("own", 7, FIRST_ISSUED + 2),
        ("too late", LAST_ISSUED + 1, 0),
    ):
        entry = msgspec.structs.replace(ENTRY, doc_id=doc_id, version=version, queued=queued)
        await ledger.begin(entry, None)
    assert await ledger.head() == LedgerHead(FIRST_ISSUED + 2, ENTRY.attempt)


async def test_the_ids_of_a_tenant_are_listed_without_deleted_ones(ledger: QdrantLedger) -> None:
    gone = msgspec.structs.replace(ENTRY, doc_id="gone", state=EntryState.DELETED)
    for entry in (ENTRY, gone, msgspec.structs.replace(ENTRY, tenant="other")):
        await ledger.begin(entry, None)
    assert [page async for page in ledger.doc_ids("t")] == [["d"]]


async def test_a_tombstone_does_not_count_as_a_document(ledger: QdrantLedger) -> None:
    tombstone = msgspec.structs.replace(ENTRY, state=EntryState.DELETED, chunks=0)
    await ledger.begin(tombstone, None)
    assert await ledger.count() == 0


async def test_an_older_write_changes_no_newer_chunk(store: QdrantStore) -> None:
    newer = Fence(version=2, attempt=5, epoch=1)
    points = [_point("d", i, source="new", fence=newer) for i in range(2)]
    await store.upsert(points, newer)
    for late in (Fence(1, 9, 1), Fence(2, 4, 1), Fence(9, 9)):
        await store.upsert([_point("d", i, source="old", fence=late) for i in range(3)], late)
        hits = await store.search([1.0] * 4, 9)
        assert sorted(hit.source for hit in hits) == ["new", "new", "old"]
        assert await store.delete_stale(_tombstone(late)) == 1
    owner = msgspec.structs.replace(_tombstone(newer), chunks_fence=newer)
    assert await store.delete_stale(owner) == 0
    assert await store.delete_stale(_tombstone(newer)) == 2
    assert await store.count() == 0


async def test_a_collection_of_another_model_is_not_opened(qdrant: Qdrant, alias: str) -> None:
    names = await open_collection(qdrant, alias, HALF)

    with pytest.raises(CollectionMismatch) as raised:
        await open_collection(qdrant, alias, WHOLE)

    assert repr(alias) in str(raised.value)
    assert "model test/half, now test/whole; dimension 4, now 8" in str(raised.value)
    assert await find_collection(qdrant, alias) == names
    assert await _collections(qdrant, alias) == {names.chunks, names.ledger}


async def test_a_foreign_collection_is_not_opened(qdrant: Qdrant, alias: str) -> None:
    await _create(qdrant, alias)

    with pytest.raises(CollectionMismatch, match=rf"'{alias}' \(3 dimensions\).*did not create"):
        await open_collection(qdrant, alias, HALF)

    assert await _collections(qdrant, alias) == {alias}


async def test_a_foreign_alias_is_not_moved(qdrant: Qdrant, alias: str) -> None:
    theirs = f"{alias}-theirs"
    await _create(qdrant, theirs)
    await _point_alias(qdrant, alias, theirs)

    with pytest.raises(CollectionMismatch, match=f"an alias of '{theirs}'.*did not create"):
        await open_collection(qdrant, alias, HALF)

    assert await find_collection(qdrant, alias) == CollectionNames.at(alias, theirs)


@pytest.mark.parametrize(
    "point",
    [
        pytest.param(ChunkPoint(str(uuid.uuid4()), [1.0, 2.0], SEVENTH), id="wrong dimension"),
        pytest.param(
            ChunkPoint(str(uuid.uuid4()), [1.0, 2.0, 3.0, math.nan], SEVENTH), id="no number"
        ),
        pytest.param(ChunkPoint("chunk-1", [1.0] * 4, SEVENTH), id="no id"),
    ],
)
async def test_an_invalid_point_is_rejected(store: QdrantStore, point: ChunkPoint) -> None:
    with pytest.raises(StoreRejected, match=rf"^chunk 7 \(point {point.id}\): "):
        await store.upsert([_point("d", 0), point], FENCE)

    with suppress(StoreRejected):  # such an id cannot even be asked for
        assert point.id not in await store.vectors([point.id])


async def test_points_over_the_upsert_limit_are_split(
    qdrant: Qdrant, alias: str, store: QdrantStore
) -> None:
    names = await find_collection(qdrant, alias)
    assert names is not None
    few = models.StrictModeConfig(enabled=True, upsert_max_batchsize=3)
    assert await qdrant.ask(
        lambda client: client.update_collection(names.chunks, strict_mode_config=few)
    )

    await store.upsert([_point("d", i) for i in range(10)], FENCE)

    assert await store.count() == 10


async def test_a_vector_of_another_name_is_rejected(
    qdrant: Qdrant, alias: str, store: QdrantStore
) -> None:
    point = models.PointStruct(id=1, vector={"dense": [1.0] * 4})

    with pytest.raises(StoreRejected, match="vector name"):
        await qdrant.ask(lambda client: client.upsert(alias, [point], wait=True))


async def test_a_missing_collection_is_reported(qdrant: Qdrant, alias: str) -> None:
    store, ledger = QdrantStore(qdrant, alias), QdrantLedger(qdrant, alias)
    point = _point("d", 0)
    for request in (
        store.upsert([point], FENCE),
        store.delete_stale(TOMBSTONE),
        store.vectors([point.id]),
        store.count(),
        store.search([1.0] * 4, 1),
        ledger.begin(ENTRY, None),
        ledger.advance(ENTRY),
        ledger.look_up([KEY]),
    ):
        with pytest.raises(CollectionMissing, match=f"404 Not found: Collection `{alias}`"):
            await request


async def test_a_request_over_32_mebibytes_is_rejected(
    qdrant: Qdrant, alias: str, store: QdrantStore
) -> None:
    large = models.PointStruct(id=1, vector=[1.0] * 4, payload={"text": "x" * 33 * 1024 * 1024})

    with pytest.raises(StoreRejected, match="accepts 33,554,432 at most"):
        await qdrant.ask(lambda client: client.upsert(alias, [large], wait=True))


@pytest.mark.usefixtures("no_backoff")
async def test_a_short_outage_is_retried(proxied_qdrant: QdrantProxy, faulty: QdrantStore) -> None:
    proxied_qdrant.faults.answer_next(2, 503, path_contains="wait=true")

    await faulty.upsert([_point("d", 0)], FENCE)

    assert await faulty.count() == 1


@pytest.mark.usefixtures("no_backoff")
async def test_a_rate_limit_is_retried(proxied_qdrant: QdrantProxy, faulty: QdrantStore) -> None:
    proxied_qdrant.faults.answer_next(
        2, 429, headers={"Retry-After": "1"}, path_contains="wait=true"
    )

    await faulty.upsert([_point("d", 0)], FENCE)

    assert await faulty.count() == 1


@pytest.mark.usefixtures("no_backoff")
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_a_write_whose_answer_is_lost_leaves_one_copy(
    proxied_qdrant: QdrantProxy, faulty: QdrantStore, after: bool
) -> None:
    proxied_qdrant.faults.drop_next(1, after, path_contains="wait=true")
    points = [_point("d", 0), _point("d", 1)]

    await faulty.upsert(points, FENCE)

    assert _writes(proxied_qdrant) == 2
    assert (await faulty.vectors(point.id for point in points)).keys() == {p.id for p in points}
    assert await faulty.count() == len(points)


@pytest.mark.usefixtures("no_backoff")
async def test_a_write_is_repeated_until_it_is_applied(
    proxied_qdrant: QdrantProxy, faulty: QdrantStore
) -> None:
    proxied_qdrant.faults.wait_timeout_next(2)

    await faulty.upsert([_point("d", 0)], FENCE)

    assert await faulty.count() == 1


@pytest.mark.usefixtures("no_backoff")
async def test_a_ledger_write_is_repeated_until_it_is_applied(
    proxied_qdrant: QdrantProxy, behind: Qdrant, alias: str
) -> None:
    names = await open_collection(behind, alias, HALF)
    proxied_qdrant.faults.wait_timeout_next(2)

    ledger = QdrantLedger(PatientQdrant(behind), names.ledger)

    assert await ledger.begin(ENTRY, None) == BeginResult(ENTRY, ours=True, first=True)


async def test_a_rejected_write_is_not_repeated(
    proxied_qdrant: QdrantProxy, faulty: QdrantStore
) -> None:
    with pytest.raises(StoreRejected, match="expected dim: 4, got 2"):
        await faulty.upsert([_point("d", 0, [1.0, 2.0])], FENCE)

    assert _writes(proxied_qdrant) == 1


async def test_a_large_document_is_written_in_several_requests(
    proxied_qdrant: QdrantProxy, faulty: QdrantStore
) -> None:

    await faulty.upsert([_point("d", i, text="x" * 3 * 1024 * 1024) for i in range(3)], FENCE)

    assert _writes(proxied_qdrant) == 3
    assert await faulty.count() == 3


@pytest.mark.usefixtures("no_backoff")
async def test_a_long_outage_is_an_error(proxied_qdrant: QdrantProxy, faulty: QdrantStore) -> None:
    proxied_qdrant.faults.answer_next(RETRIES, 503, path_contains="wait=true")

    with pytest.raises(StoreUnavailable, match="cannot serve requests now: 503 planned by a test"):
        await faulty.upsert([_point("d", 0)], FENCE)


@pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")
@pytest.mark.parametrize("sent", [None, "wrong"])
async def test_a_refused_key_is_a_usage_error(
    qdrant_place: str, alias: str, sent: str | None
) -> None:
    async with (
        qdrant_proxy(qdrant_place, api_key="right") as guarded,
        connect_qdrant(QdrantConfig(guarded.url, sent)) as qdrant,
    ):
        with pytest.raises(UsageError, match=r"does not accept INGESTQ_QDRANT_API_KEY: 401"):
            await open_collection(qdrant, alias, HALF)

        assert guarded.requests == ["GET /", "GET /aliases"]  # the first needs no key


@pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")
async def test_the_right_key_is_accepted(qdrant_place: str, alias: str) -> None:
    async with (
        qdrant_proxy(qdrant_place, api_key="right") as guarded,
        connect_qdrant(QdrantConfig(guarded.url, "right")) as qdrant,
    ):
        await open_collection(qdrant, alias, HALF)


async def test_a_read_only_key_is_a_usage_error(
    proxied_qdrant: QdrantProxy, behind: Qdrant, alias: str
) -> None:
    proxied_qdrant.faults.answer_next(1, 403, path_contains="/aliases")

    with pytest.raises(UsageError, match="does not accept INGESTQ_QDRANT_API_KEY: 403"):
        await open_collection(behind, alias, HALF)


async def test_an_unreachable_url_is_an_error() -> None:
    with socket.socket() as bound_but_deaf:
        bound_but_deaf.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound_but_deaf.getsockname()[1]}"
        async with connect_qdrant(QdrantConfig(url, None)) as qdrant:
            with pytest.raises(StoreUnavailable, match=url):
                await qdrant.ask(lambda client: client.get_collections())


def _point(
    doc_id: str,
    index: int,
    vector: list[float] | None = None,
    *,
    tenant: str = "t",
    source: str = "d.txt",
    text: str = "text",
    metadata: dict[str, Any] | None = None,
    fence: Fence = FENCE,
) -> ChunkPoint:
    payload = {
        **fence._asdict(),
        "tenant": tenant,
        "doc_id": doc_id,
        "source": source,
        "chunk_index": index,
        "page_content": text,
        "metadata": metadata or {},
    }
    id_ = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{tenant}/{doc_id}/{index}"))
    return ChunkPoint(id_, vector or [1.0] * 4, payload)


async def _get_collection(name: str, client: AsyncQdrantClient) -> models.CollectionInfo:
    return await client.get_collection(name)


def _writes(proxy: QdrantProxy) -> int:
    """Return how many requests to write points there were."""
    paths = ("/points?wait=true", "/points/batch?wait=true")
    return sum(request.endswith(paths) for request in proxy.requests)


async def _collections(qdrant: Qdrant, prefix: str) -> set[str]:
    found = await qdrant.ask(lambda client: client.get_collections())
    return {c.name for c in found.collections if c.name.startswith(prefix)}


async def _create(qdrant: Qdrant, name: str) -> None:
    vectors = models.VectorParams(size=3, distance=models.Distance.DOT)
    await qdrant.ask(lambda client: client.create_collection(name, vectors))


async def _point_alias(qdrant: Qdrant, alias: str, target: str) -> None:
    action = models.CreateAliasOperation(
        create_alias=models.CreateAlias(collection_name=target, alias_name=alias)
    )
    await qdrant.ask(lambda client: client.update_collection_aliases([action]))


async def _delete(name: str, client: AsyncQdrantClient) -> bool:
    return await client.delete_collection(name)
