"""What ingestq needs of Qdrant, with the network client, the local mode and a real server.

`tests.qdrant_standin` answers the network client here. It is no Qdrant; name a real one in
``INGESTQ_TEST_QDRANT_URL``, and the same tests ask that, too.
"""

import asyncio
import math
import os
import signal
import socket
import sqlite3
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import stamina
from qdrant_client import AsyncQdrantClient, models

from ingestq.core.errors import (
    CollectionMismatch,
    CollectionMissing,
    StoreFull,
    StoreRejected,
    StoreUnavailable,
    UsageError,
)
from tests.qdrant_standin import Standin, qdrant_standin
from worker.embedding.config import Precision
from worker.pipeline.points import (
    BeginResult,
    ChunkPoint,
    DocumentKey,
    EntryState,
    Fence,
    LedgerEntry,
)
from worker.store.chunks import READ_POINTS, QdrantStore
from worker.store.client import PatientQdrant, Qdrant, QdrantConfig, connect_qdrant
from worker.store.collection import (
    PAYLOAD_INDEXES,
    CollectionNames,
    check_fingerprint,
    find_collection,
    open_collection,
)
from worker.store.ledger import QdrantLedger
from worker.store.schema import Fingerprint

SERVERS = ["standin", *(["server"] if "INGESTQ_TEST_QDRANT_URL" in os.environ else [])]
PLACES = [*SERVERS, "local"]
ON_SERVERS = pytest.mark.parametrize("qdrant", SERVERS, indirect=True)
NO_DATA = Path("/nonexistent")
"""A server needs no folder for local data."""
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
async def standin() -> AsyncIterator[Standin]:
    """A new, empty stand-in. At the end of the test, all planned faults must have happened."""
    async with qdrant_standin() as running:
        yield running
        assert running.faults.left == 0


@pytest.fixture(params=PLACES)
async def qdrant(
    request: pytest.FixtureRequest, standin: Standin, tmp_path: Path
) -> AsyncIterator[Qdrant]:
    """Each available Qdrant in turn."""
    urls = {"standin": standin.url, "server": os.environ.get("INGESTQ_TEST_QDRANT_URL")}
    config = QdrantConfig(urls.get(request.param), None, tmp_path)
    async with connect_qdrant(config) as opened:
        yield opened


@pytest.fixture
async def network(standin: Standin) -> AsyncIterator[Qdrant]:
    """The stand-in, through the network client."""
    async with connect_qdrant(QdrantConfig(standin.url, None, NO_DATA)) as opened:
        yield opened


@pytest.fixture
async def alias(qdrant: Qdrant) -> AsyncIterator[str]:
    """An unused alias; collections whose names begin with it are deleted at the end."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    yield name
    for collection in await _collections(qdrant, name):
        await qdrant.ask(partial(_delete, collection))


@pytest.fixture
async def store(qdrant: Qdrant, alias: str) -> QdrantStore:
    names = await open_collection(qdrant, alias, HALF)
    return QdrantStore(qdrant, names.chunks)


@pytest.fixture
async def faulty(network: Qdrant) -> QdrantStore:
    """A store on the stand-in, for tests that plan faults."""
    names = await open_collection(network, "documents", HALF)
    return QdrantStore(PatientQdrant(network), names.chunks)


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


async def test_opening_again_keeps_the_points(
    qdrant: Qdrant, alias: str, store: QdrantStore
) -> None:
    await store.upsert([_point("d", 0)], FENCE)

    await open_collection(qdrant, alias, HALF)

    assert await store.count() == 1


@ON_SERVERS
async def test_filtered_payload_fields_are_indexed(
    qdrant: Qdrant, alias: str, store: QdrantStore
) -> None:
    info = await qdrant.ask(lambda client: client.get_collection(alias))

    assert set(info.payload_schema) == set(PAYLOAD_INDEXES)


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
    assert await ledger.begin(ENTRY) == BeginResult(ours=True, first=True)
    assert await ledger.look_up([KEY]) == {KEY: ENTRY}
    done = msgspec.structs.replace(ENTRY, state=EntryState.INDEXED)
    assert await ledger.advance(done) == done
    assert await ledger.look_up([KEY, DocumentKey("t", "e"), KEY]) == {KEY: done}
    assert await ledger.count() == 1


@pytest.mark.parametrize(
    ("fence", "ours"),
    [
        pytest.param(Fence(3, 1), True, id="newer"),
        pytest.param(Fence(2, 4), True, id="later attempt"),
        pytest.param(Fence(2, 2), False, id="earlier attempt"),
        pytest.param(Fence(1, 9), False, id="older, but later"),
    ],
)
async def test_only_a_newer_fence_may_begin(ledger: QdrantLedger, fence: Fence, ours: bool) -> None:
    there = msgspec.structs.replace(ENTRY, version=2, attempt=3)
    await ledger.begin(there)
    mine = msgspec.structs.replace(ENTRY, **fence._asdict())
    assert await ledger.begin(mine) == BeginResult(ours=ours, first=False)
    owner = mine if ours else there
    assert await ledger.advance(mine) == owner
    assert await ledger.advance(there) == owner


async def test_beginning_twice_is_idempotent(ledger: QdrantLedger) -> None:
    for _ in range(2):
        assert await ledger.begin(ENTRY) == BeginResult(ours=True, first=True)


async def test_many_documents_begin_and_end_together(ledger: QdrantLedger) -> None:
    entries = [msgspec.structs.replace(ENTRY, doc_id=str(i), version=1 + i % 2) for i in range(100)]
    begun = await asyncio.gather(*(ledger.begin(entry) for entry in entries))
    assert set(begun) == {BeginResult(ours=True, first=True)}
    stale = [msgspec.structs.replace(entry, version=1, attempt=0) for entry in entries]
    assert await asyncio.gather(*(ledger.advance(entry) for entry in stale)) == entries
    assert await asyncio.gather(*(ledger.advance(entry) for entry in entries)) == entries
    assert len(await ledger.look_up(entry.key for entry in entries)) == 100


async def test_an_entry_is_confirmed_unless_it_changed(ledger: QdrantLedger) -> None:
    done = msgspec.structs.replace(ENTRY, state=EntryState.INDEXED)
    await ledger.begin(ENTRY)
    later = msgspec.structs.replace(done, version=5, attempt=2, file="state")
    assert not await ledger.confirm(done, later)  # it is being written
    await ledger.advance(done)
    assert await ledger.confirm(done, later)
    assert await ledger.look_up([KEY]) == {KEY: later}
    assert not await ledger.confirm(done, msgspec.structs.replace(done, version=3))


async def test_a_tombstone_does_not_count_as_a_document(ledger: QdrantLedger) -> None:
    tombstone = msgspec.structs.replace(ENTRY, state=EntryState.DELETED, chunks=0)
    await ledger.begin(tombstone)
    assert await ledger.count() == 0


async def test_an_older_write_changes_no_newer_chunk(store: QdrantStore) -> None:
    newer = Fence(version=2, attempt=5)
    points = [_point("d", i, source="new", fence=newer) for i in range(2)]
    await store.upsert(points, newer)
    for late in (Fence(1, 9), Fence(2, 4)):
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


@ON_SERVERS
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


async def test_a_full_disk_is_reported_by_the_local_qdrant(tmp_path: Path) -> None:
    async def fill(_: AsyncQdrantClient) -> None:
        with closing(sqlite3.connect(":memory:")) as database:
            database.execute("PRAGMA max_page_count = 2")
            database.execute("CREATE TABLE t AS SELECT zeroblob(100000)")

    async with connect_qdrant(QdrantConfig(None, None, tmp_path)) as qdrant:
        with pytest.raises(StoreFull, match="cannot be written to: database or disk is full"):
            await qdrant.ask(fill)


async def test_a_vector_of_another_name_is_rejected(
    qdrant: Qdrant, alias: str, store: QdrantStore
) -> None:
    point = models.PointStruct(id=1, vector={"dense": [1.0] * 4})

    with pytest.raises(StoreRejected, match="vector name"):
        await qdrant.ask(lambda client: client.upsert(alias, [point], wait=True))


async def test_updates_by_filter_batch_and_payload(
    qdrant: Qdrant, alias: str, store: QdrantStore
) -> None:
    async def change(client: AsyncQdrantClient) -> list[models.Record]:
        batch = models.Batch(ids=[1, 2, 3], vectors=[[1.0] * 4] * 3, payloads=[{"source": "a"}] * 3)
        await client.upsert(alias, batch, wait=True)
        await client.set_payload(alias, {"tenant": "t"}, [1, 2], wait=True)
        await client.overwrite_payload(alias, {"doc_id": "d"}, [1], wait=True)
        tenant = models.FieldCondition(key="tenant", match=models.MatchValue(value="t"))
        assert (await client.count(alias, models.Filter(must=[tenant]))).count == 1
        await client.delete(alias, models.Filter(must=[tenant]), wait=True)
        records, _ = await client.scroll(alias)
        return records

    records = await qdrant.ask(change)

    assert {record.id: record.payload for record in records} == {
        1: {"doc_id": "d"},
        3: {"source": "a"},
    }


async def test_an_alias_is_renamed(qdrant: Qdrant, alias: str) -> None:
    names = await open_collection(qdrant, alias, HALF)
    rename = models.RenameAlias(old_alias_name=alias, new_alias_name=f"{alias}-new")
    delete = models.DeleteAlias(alias_name=f"{alias}-unknown")

    async def change(client: AsyncQdrantClient) -> bool:
        return await client.update_collection_aliases(
            [
                models.RenameAliasOperation(rename_alias=rename),
                models.DeleteAliasOperation(delete_alias=delete),
            ]
        )

    assert await qdrant.ask(change)

    renamed = await find_collection(qdrant, f"{alias}-new")
    assert renamed is not None
    assert renamed.chunks == names.chunks
    assert await find_collection(qdrant, alias) is None


@ON_SERVERS
async def test_a_missing_collection_is_reported(qdrant: Qdrant, alias: str) -> None:
    store, ledger = QdrantStore(qdrant, alias), QdrantLedger(qdrant, alias)
    point = _point("d", 0)
    for request in (
        store.upsert([point], FENCE),
        store.delete_stale(TOMBSTONE),
        store.vectors([point.id]),
        store.count(),
        store.search([1.0] * 4, 1),
        ledger.begin(ENTRY),
        ledger.advance(ENTRY),
        ledger.look_up([KEY]),
    ):
        with pytest.raises(CollectionMissing, match=f"404 Not found: Collection `{alias}`"):
            await request


@ON_SERVERS
async def test_a_name_is_either_a_collection_or_an_alias(qdrant: Qdrant, alias: str) -> None:
    names = await open_collection(qdrant, alias, HALF)

    with pytest.raises(StoreRejected, match=r"409 .*already exists"):
        await _create(qdrant, names.chunks)
    with pytest.raises(StoreRejected, match=r"400 .*Alias with the same name"):
        await _create(qdrant, alias)
    with pytest.raises(StoreRejected, match=r"409 .*already exists"):
        await _point_alias(qdrant, names.ledger, names.chunks)
    with pytest.raises(CollectionMissing, match=r"404 .*doesn't exist"):
        await _point_alias(qdrant, alias, f"{alias}-missing")

    assert await find_collection(qdrant, alias) == names


@ON_SERVERS
async def test_a_request_over_32_mebibytes_is_rejected(
    qdrant: Qdrant, alias: str, store: QdrantStore
) -> None:
    large = models.PointStruct(id=1, vector=[1.0] * 4, payload={"text": "x" * 33 * 1024 * 1024})

    with pytest.raises(StoreRejected, match=r"400 .*larger than allowed"):
        await qdrant.ask(lambda client: client.upsert(alias, [large], wait=True))


@pytest.mark.usefixtures("no_backoff")
async def test_a_short_outage_is_retried(standin: Standin, faulty: QdrantStore) -> None:
    standin.faults.answer_next(2, 503, path_contains="PUT")

    await faulty.upsert([_point("d", 0)], FENCE)

    assert await faulty.count() == 1


@pytest.mark.usefixtures("no_backoff")
async def test_a_rate_limit_is_retried(standin: Standin, faulty: QdrantStore) -> None:
    standin.faults.answer_next(2, 429, headers={"Retry-After": "1"}, path_contains="PUT")

    await faulty.upsert([_point("d", 0)], FENCE)

    assert await faulty.count() == 1


@pytest.mark.usefixtures("no_backoff")
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_a_write_whose_answer_is_lost_leaves_one_copy(
    standin: Standin, faulty: QdrantStore, after: bool
) -> None:
    standin.faults.drop_next(1, after, path_contains="PUT")
    points = [_point("d", 0), _point("d", 1)]

    await faulty.upsert(points, FENCE)

    assert _writes(standin) == 2
    assert (await faulty.vectors(point.id for point in points)).keys() == {p.id for p in points}
    assert await faulty.count() == len(points)


@pytest.mark.usefixtures("no_backoff")
async def test_a_write_is_repeated_until_it_is_applied(
    standin: Standin, faulty: QdrantStore
) -> None:
    standin.faults.wait_timeout_next(2)

    await faulty.upsert([_point("d", 0)], FENCE)

    assert await faulty.count() == 1


@pytest.mark.usefixtures("no_backoff")
async def test_a_ledger_write_is_repeated_until_it_is_applied(
    standin: Standin, network: Qdrant
) -> None:
    names = await open_collection(network, "documents", HALF)
    accepted = {"operation_id": 1, "status": "wait_timeout"}
    body = {"result": [accepted, accepted], "status": "ok", "time": 0}
    standin.faults.answer_next(2, 200, body, path_contains="/points/batch")

    ledger = QdrantLedger(PatientQdrant(network), names.ledger)

    assert await ledger.begin(ENTRY) == BeginResult(ours=True, first=True)


async def test_a_rejected_write_is_not_repeated(standin: Standin, faulty: QdrantStore) -> None:
    with pytest.raises(StoreRejected, match="expected dim: 4, got 2"):
        await faulty.upsert([_point("d", 0, [1.0, 2.0])], FENCE)

    assert _writes(standin) == 1


async def test_a_large_document_is_written_in_several_requests(
    standin: Standin, faulty: QdrantStore
) -> None:

    await faulty.upsert([_point("d", i, text="x" * 3 * 1024 * 1024) for i in range(3)], FENCE)

    assert _writes(standin) == 2
    assert await faulty.count() == 3


@pytest.mark.usefixtures("no_backoff")
async def test_a_long_outage_is_an_error(standin: Standin, faulty: QdrantStore) -> None:
    standin.faults.answer_next(RETRIES, 503, path_contains="PUT")

    with pytest.raises(StoreUnavailable, match="cannot serve requests now: 503 planned by a test"):
        await faulty.upsert([_point("d", 0)], FENCE)


@pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")
@pytest.mark.parametrize("sent", [None, "wrong"])
async def test_a_refused_key_is_a_usage_error(sent: str | None) -> None:
    async with (
        qdrant_standin(api_key="right") as guarded,
        connect_qdrant(QdrantConfig(guarded.url, sent, NO_DATA)) as qdrant,
    ):
        with pytest.raises(UsageError, match=r"does not accept INGESTQ_QDRANT_API_KEY: 401"):
            await open_collection(qdrant, "documents", HALF)

        assert guarded.requests == ["GET /", "GET /aliases"]  # the first needs no key


@pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")
async def test_the_right_key_is_accepted() -> None:
    async with (
        qdrant_standin(api_key="right") as guarded,
        connect_qdrant(QdrantConfig(guarded.url, "right", NO_DATA)) as qdrant,
    ):
        await open_collection(qdrant, "documents", HALF)


async def test_a_read_only_key_is_a_usage_error(standin: Standin, network: Qdrant) -> None:
    standin.faults.answer_next(1, 403, path_contains="/aliases")

    with pytest.raises(UsageError, match="does not accept INGESTQ_QDRANT_API_KEY: 403"):
        await open_collection(network, "documents", HALF)


async def test_an_unreachable_url_is_an_error() -> None:
    with socket.socket() as bound_but_deaf:
        bound_but_deaf.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound_but_deaf.getsockname()[1]}"
        async with connect_qdrant(QdrantConfig(url, None, NO_DATA)) as qdrant:
            with pytest.raises(StoreUnavailable, match=url):
                await qdrant.ask(lambda client: client.get_collections())


async def test_the_standin_runs_as_a_process() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.qdrant_standin", "--port", "0"),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    url = (await process.stdout.readline()).decode().strip()

    async with connect_qdrant(QdrantConfig(url, None, NO_DATA)) as qdrant:
        names = await open_collection(qdrant, "documents", HALF)
        assert await find_collection(qdrant, "documents") == names

    process.terminate()
    assert await process.wait() in (0, -signal.SIGTERM)


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


def _writes(standin: Standin) -> int:
    """Return how many upserts the stand-in received."""
    return sum(
        request.startswith("PUT") and request.endswith("/points?wait=true")
        for request in standin.requests
    )


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
