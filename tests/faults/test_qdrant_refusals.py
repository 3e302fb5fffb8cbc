"""What happens to documents when Qdrant refuses, limits or cannot serve requests.

Every answer is one that a server gives, see `tests.qdrant_proxy.answers`.
"""

import asyncio
import hashlib
import itertools
import json
import math
import re
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import NAMESPACE_OID, uuid5

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
import stamina
from arq.worker import func
from qdrant_client import models
from starlette.responses import Response
from structlog.testing import capture_logs

from ingestq.app.collections import count_collection
from ingestq.app.composition import Broker
from ingestq.broker import keys
from ingestq.core import events
from ingestq.core.documents import Document, Lane
from ingestq.core.errors import (
    CollectionMissing,
    IngestqError,
    StoreFull,
    StoreRejected,
    StoreTooSlow,
    UsageError,
)
from ingestq.core.jobs import INGEST, IngestBatch
from ingestq.core.results import CollectionCounts, DeadLetter, WorkerInfo, WorkerStatus
from tests.books import balanced
from tests.claims import lease_queue
from tests.command import Ingestq
from tests.qdrant_proxy import Matches, QdrantProxy, answers, qdrant_proxy
from tests.sized import chunks_of
from tests.waiting import ended, eventually
from tests.workers import MAX_JOBS, make_worker, none_purged, none_unfinished, working
from worker.blobs import BlobContents
from worker.consumer import decision as retries
from worker.consumer import lease_worker
from worker.consumer.job_functions import INGESTOR, Ingestor, ingest
from worker.consumer.lease_worker import LeaseWorker
from worker.embedding.config import Precision
from worker.pipeline.points import ChunkPoint, EntryState, Fence, LedgerEntry
from worker.pipeline.ports import Ports
from worker.store.chunks import UPSERTS, QdrantStore
from worker.store.client import (
    PATIENCE_SECONDS,
    PatientQdrant,
    Qdrant,
    QdrantConfig,
    connect_qdrant,
)
from worker.store.collection import CollectionNames, open_collection
from worker.store.ledger import QdrantLedger
from worker.store.schema import Fingerprint
from worker.text.parts import ExtractedDocument, PreparedDocument, Segment, SegmentStart, SizedText

SMALL: Final = Fingerprint("test/small", "1", 4, 8, Precision.EXACT, "none", 1)
"""For vectors of 4 dimensions. No model is loaded."""
FENCE: Final = Fence(version=1, attempt=1)
TOMBSTONE: Final = LedgerEntry(
    tenant="t",
    doc_id="d",
    source="d",
    version=FENCE.version,
    attempt=FENCE.attempt,
    content_hash="",
    chunks=0,
    state=EntryState.DELETED,
    written_ms=1,
)
LARGEST_BODY: Final = 48 * 1024
POISON: Final = "poison"
"""The text of a chunk with a vector that no server accepts."""
RETRIES: Final = 10
HEARTBEATS_PER_LEASE: Final = 30
"""Two a second: leases outlast a worker that stands still, and tests see at once what it says."""


@dataclass
class LineModel:
    """A model that makes a chunk of each line, and records the texts that it embeds."""

    embedded: list[str] = field(default_factory=list)

    async def prepare(
        self, lane: Lane, document: Document, known_hash: str | None
    ) -> PreparedDocument:
        assert document.text is not None
        content_hash = hashlib.sha1(document.text.encode()).hexdigest()
        return PreparedDocument(
            content_hash, None, None, Segment.of(chunks_of(document.text.split("\n")))
        )

    async def prepare_rest(self, lane: Lane, document: Document, rest: SegmentStart) -> Segment:
        raise NotImplementedError

    async def prepare_stored(
        self, lane: Lane, document: Document, stored: ExtractedDocument
    ) -> PreparedDocument:
        raise NotImplementedError

    async def embed(self, lane: Lane, texts: Sequence[SizedText]) -> npt.NDArray[np.float32]:
        self.embedded += [text.text for text in texts]
        rows = [[math.nan if text.text == POISON else 1.0, 1.0, 1.0, 1.0] for text in texts]
        return np.array(rows, dtype=np.float32)


@dataclass(frozen=True)
class Scene:
    """An empty collection behind a proxy, and a worker's access to it."""

    proxy: QdrantProxy
    qdrant: Qdrant
    names: CollectionNames
    model: LineModel = field(default_factory=LineModel)

    @property
    def store(self) -> QdrantStore:
        return QdrantStore(PatientQdrant(self.qdrant), self.names.chunks)

    @property
    def writes(self) -> int:
        """The number of requests to write chunks or ledger entries."""
        return sum(_writes(request, None) for request in self.proxy.requests)

    def refuse(self, response: Response, matches: Matches | None = None) -> None:
        """Answer every matching request, by default every write, with ``response``."""
        self.proxy.faults.standing = (matches or _writes, response)

    def accept(self) -> None:
        self.proxy.faults.standing = None

    def equip(self, worker: LeaseWorker) -> None:
        """Set up a worker's context for its jobs."""
        qdrant = PatientQdrant(self.qdrant)
        ports = Ports(
            self.model, self.store, QdrantLedger(qdrant, self.names.ledger), BlobContents()
        )
        worker.ctx[INGESTOR] = Ingestor({"documents": ports}, none_unfinished, none_purged)

    async def indexed(self) -> set[str]:
        """Return the ids of the documents that have chunks in the collection."""
        records, _ = await self.qdrant.ask(
            lambda client: client.scroll(self.names.chunks, limit=10_000)
        )
        return {str((record.payload or {})["doc_id"]) for record in records}


@pytest.fixture
async def scene(proxied_qdrant: QdrantProxy, alias: str) -> AsyncIterator[Scene]:
    async with connect_qdrant(QdrantConfig(proxied_qdrant.url, None)) as qdrant:
        yield Scene(proxied_qdrant, qdrant, await open_collection(qdrant, alias, SMALL))


@pytest.fixture
async def narrow(qdrant_place: str, alias: str) -> AsyncIterator[Scene]:
    """A server that takes requests of up to 48 KiB."""
    async with (
        qdrant_proxy(qdrant_place, largest_body=LARGEST_BODY) as proxy,
        connect_qdrant(QdrantConfig(proxy.url, None)) as qdrant,
    ):
        yield Scene(proxy, qdrant, await open_collection(qdrant, alias, SMALL))


@pytest.fixture
async def bounded(qdrant_place: str, alias: str) -> AsyncIterator[Scene]:
    """A worker that knows that the server takes requests of up to `LARGEST_BODY` bytes."""
    async with (
        qdrant_proxy(qdrant_place, largest_body=LARGEST_BODY) as proxy,
        connect_qdrant(QdrantConfig(proxy.url, None, largest_body=LARGEST_BODY)) as qdrant,
    ):
        yield Scene(proxy, qdrant, await open_collection(qdrant, alias, SMALL))


@pytest.fixture
def many_heartbeats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_worker, "RENEWALS_PER_LEASE", HEARTBEATS_PER_LEASE)


@pytest.fixture
def no_backoff() -> Iterator[None]:
    """Retry without waiting."""
    with stamina.set_testing(True, attempts=RETRIES):
        yield


async def test_the_ledger_of_an_earlier_version_cannot_count_warnings(scene: Scene) -> None:
    """A server in strict mode refuses conditions on fields without an index."""
    text = 'Index required but not found for "warned" of one of the following types: [bool]'
    scene.refuse(
        answers.error_response(400, f"Bad request: {text}"),
        lambda request, body: "/points/count" in request and "warned" in str(body),
    )
    counts = await count_collection(scene.qdrant, scene.names.alias)
    assert counts == CollectionCounts(scene.names.alias, documents=0, chunks=0)


@pytest.mark.usefixtures("no_backoff")
@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(answers.error_response(500, "Service internal error: odd"), id="500"),
        pytest.param(answers.error_response(503, "Shard temporarily unavailable"), id="503"),
        pytest.param(answers.rate_limited(5), id="rate"),
        *(pytest.param(answers.of_a_proxy(n), id=f"proxy {n}") for n in (404, 429, 502, 504)),
    ],
)
async def test_a_passing_failure_is_retried_unchanged(scene: Scene, answer: Response) -> None:
    scene.refuse(answer, _first(2))
    await scene.store.upsert(_points(16), FENCE)
    assert scene.writes == 3
    assert await scene.store.count() == 16


async def test_retry_after_is_waited_for(scene: Scene) -> None:
    seconds = 2  # more than the longest first back-off
    scene.refuse(answers.rate_limited(seconds), _first(1))
    started = asyncio.get_running_loop().time()
    await scene.store.upsert(_points(1), FENCE)
    assert asyncio.get_running_loop().time() - started >= seconds
    assert scene.writes == 2


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(answers.timed_out(), id="408"),
        pytest.param(answers.over_the_limit(), id="429"),
        pytest.param(answers.of_a_proxy(413), id="413"),
    ],
)
async def test_a_request_that_is_too_large_is_split(scene: Scene, answer: Response) -> None:
    scene.refuse(answer, _more_points_than(4))
    await scene.store.upsert(_points(16), FENCE)
    assert await scene.store.count() == 16
    assert scene.writes == 1 + 2 + 4


async def test_requests_over_the_servers_size_limit_are_split(narrow: Scene) -> None:
    await narrow.store.upsert(_points(16, text="x" * 10_000), FENCE)
    assert await narrow.store.count() == 16
    assert narrow.writes == 1 + 2 + 4
    with pytest.raises(StoreRejected, match=r"chunk 0 .*larger than allowed \(limit: 49152 bytes"):
        await narrow.store.upsert(_points(1, text="x" * 100_000), FENCE)


async def test_too_many_deletions_are_split(scene: Scene) -> None:
    def large(request: str, body: Any) -> bool:
        return _writes(request, body) and any(
            len(operation["delete"]["filter"]["must"][0]["has_id"]) > 4
            for operation in body["operations"]
        )

    points = _points(16)
    await scene.store.upsert(points, FENCE)
    scene.refuse(answers.large_condition(), large)
    assert await scene.store.delete_stale(TOMBSTONE) == 16
    assert await scene.store.count() == 0


async def test_each_document_loses_its_own_stale_chunks_however_many_others_have(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.store.chunks.STALE_POINTS", 8)
    store, sizes = scene.store, {"large": 50, "small": 3, "none": 0}
    for doc_id, n in sizes.items():
        await store.upsert(_points(n, doc_id=doc_id), FENCE)
    newer = FENCE._replace(version=2)
    await store.upsert(_points(2, doc_id="kept", fence=newer), newer)
    tombstones = [msgspec.structs.replace(TOMBSTONE, doc_id=doc_id) for doc_id in (*sizes, "kept")]
    deleted = await asyncio.gather(*map(store.delete_stale, tombstones))
    assert deleted == [50, 3, 0, 0]
    assert await store.count() == 2


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (answers.over_the_limit(), StoreRejected, "chunk 0 .*429 Rate limiting exceeded"),
        (answers.timed_out(), StoreTooSlow, "timed out: 408"),
    ],
)
async def test_one_point_cannot_be_split(
    scene: Scene, answer: Response, error: type[IngestqError], words: str
) -> None:
    scene.refuse(answer)
    with pytest.raises(error, match=words):
        await scene.store.upsert(_points(16), FENCE)
    assert scene.writes == 5


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(answers.wrong_dimension(), id="dimension"),
        pytest.param(answers.strict_mode(), id="strict mode"),
        pytest.param(answers.invalid(), id="422"),
    ],
)
async def test_a_refused_chunk_is_found_in_few_requests(scene: Scene, answer: Response) -> None:
    points = _points(UPSERTS.items)
    bad = points[77].id
    scene.refuse(answer, lambda request, body: bad in str(body))
    with pytest.raises(StoreRejected, match=rf"^chunk 77 \(point {bad}\): .*: 4(00|22) "):
        await scene.store.upsert(points, FENCE)
    assert scene.writes <= 2 * math.log2(UPSERTS.items) + 1


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(answers.disk_full(), id="disk"),
        pytest.param(answers.over_quota(507), id="quota"),
        pytest.param(answers.of_a_proxy(507), id="507"),
        pytest.param(answers.over_quota(400), id="strict mode"),
        pytest.param(answers.collection_full(), id="collection"),
    ],
)
async def test_a_full_server_is_not_retried(scene: Scene, answer: Response) -> None:
    scene.refuse(answer)
    with pytest.raises(StoreFull, match="is full"):
        await scene.store.upsert(_points(16), FENCE)
    assert scene.writes == 1


async def test_a_missing_collection_is_looked_up_once_more(scene: Scene) -> None:
    gone = answers.error_response(404, "Not found: Collection `documents` doesn't exist!")
    scene.refuse(gone, _first(1))
    await scene.store.upsert(_points(1), FENCE)
    assert await scene.store.count() == 1
    await scene.qdrant.ask(lambda client: client.delete_collection(scene.names.chunks))
    before = scene.writes
    with pytest.raises(CollectionMissing, match=f"Collection `{scene.names.chunks}` doesn't exist"):
        await scene.store.upsert(_points(1), FENCE)
    assert scene.writes == before + 2


async def test_a_refused_document_is_dead_lettered_alone(broker: Broker, scene: Scene) -> None:
    lines = [f"line {i}" for i in range(40)]
    bad = _document("bad", [*lines[:17], POISON, *lines[17:]])
    async with working(broker, func(ingest, name=INGEST)) as worker:
        scene.equip(worker)
        await _offer(broker, [_document("a", lines), bad, _document("b", lines)])
        counts = await _finished(broker)
    assert (counts.indexed, counts.rejected) == (2, 1)
    [dead_letter] = await _dead_letters(broker)
    assert dead_letter.doc_id == "bad"
    assert dead_letter.tries == 1
    assert dead_letter.reason.startswith("chunk 17 (point ")
    assert "400" in dead_letter.reason


async def test_a_document_too_large_for_the_ledger_is_dead_lettered_alone(
    broker: Broker, narrow: Scene
) -> None:
    long = msgspec.structs.replace(_document("long", ["long"]), metadata={"note": "x" * 60_000})
    async with working(broker, func(ingest, name=INGEST)) as worker:
        narrow.equip(worker)
        await _offer(broker, [_document("a", ["one"]), long, _document("b", ["two"])])
        counts = await _finished(broker)
    assert (counts.indexed, counts.rejected) == (2, 1)
    assert await narrow.indexed() == {"a", "b"}
    assert set(narrow.model.embedded) == {"one", "two"}
    [dead_letter] = await _dead_letters(broker)
    assert dead_letter.doc_id == "long"
    assert dead_letter.reason.startswith("the entry of 'long' in the ledger")
    assert "larger than allowed" in dead_letter.reason


async def test_too_many_ledger_entries_are_split(broker: Broker, narrow: Scene) -> None:
    note = {"note": "x" * 20_000}
    documents = [
        msgspec.structs.replace(_document(f"d{i}", [f"{i}"]), metadata=note) for i in range(6)
    ]
    async with working(broker, func(ingest, name=INGEST)) as worker:
        narrow.equip(worker)
        await _offer(broker, documents)
        assert (await _finished(broker)).indexed == 6


async def test_nothing_larger_than_qdrant_accepts_is_sent(broker: Broker, bounded: Scene) -> None:
    sizes: list[int] = []

    def note_size(request: str, body: Any) -> bool:
        sizes.append(len(json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()))
        return False

    bounded.proxy.faults.standing = (note_size, answers.invalid())
    large = "x" * (LARGEST_BODY // 3)
    note = {"note": large}
    documents = [
        _document("a", ["one"]),
        _document("large chunks", [large] * 5),
        *(msgspec.structs.replace(_document(f"b{i}", ["b"]), metadata=note) for i in range(5)),
        _document("too large", ["two", "x" * LARGEST_BODY]),
        msgspec.structs.replace(
            _document("too large for the ledger", ["three"]), metadata={"note": 3 * large}
        ),
    ]
    async with working(broker, func(ingest, name=INGEST)) as worker:
        bounded.equip(worker)
        await _offer(broker, documents)
        counts = await _finished(broker)
    assert (counts.indexed, counts.rejected) == (7, 2)
    assert max(sizes) <= LARGEST_BODY
    reasons = {letter.doc_id: letter for letter in await _dead_letters(broker)}
    for doc_id, item in (
        ("too large", "chunk 1 (point "),
        ("too large for the ledger", "the entry of 'too large for the ledger' in the ledger"),
    ):
        assert reasons[doc_id].tries == 1
        assert reasons[doc_id].reason.startswith(item)
        size = re.search(r"has ([\d,]+) bytes", reasons[doc_id].reason)
        assert size is not None
        assert int(size[1].replace(",", "")) > LARGEST_BODY
        assert f"accepts {LARGEST_BODY:,} at most" in reasons[doc_id].reason
    with pytest.raises(StoreRejected, match=f"accepts {LARGEST_BODY:,} at most"):
        await bounded.store.count(models.Filter(must=[models.HasIdCondition(has_id=[1] * 40_000)]))


async def test_documents_in_work_share_requests_and_new_ones_read_nothing_of_the_index(
    broker: Broker, scene: Scene
) -> None:
    jobs = [[_document(f"{job}.{i}", [f"text {job} {i}"]) for i in range(16)] for job in range(8)]
    for documents in jobs:  # before the worker starts, or it might work on one after another
        await _offer(broker, documents)
    before = len(scene.proxy.requests)
    async with working(broker, func(ingest, name=INGEST)) as worker:
        scene.equip(worker)
        assert (await _finished(broker)).indexed == 128
    requests = scene.proxy.requests[before:]
    assert len(requests) <= 128 / 3
    chunks = [r.split("?")[0] for r in requests if f"/{scene.names.chunks}/points" in r]
    assert set(chunks) == {f"POST /collections/{scene.names.chunks}/points/batch"}


@pytest.mark.usefixtures("many_heartbeats")
async def test_a_worker_waits_until_qdrant_has_space(
    broker: Broker, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "STORE_FULL_SECONDS", 3.0)
    jobs = [[_document(f"{i}.{j}", [f"text {i} {j}"]) for j in range(8)] for i in range(40)]
    scene.refuse(answers.disk_full())
    with capture_logs() as log:
        async with working(broker, func(ingest, name=INGEST)) as worker:
            scene.equip(worker)
            for documents in jobs:
                await _offer(broker, documents)
            sign = await _sign(broker, lambda sign: sign.paused is not None)
            assert sign.paused is not None
            assert "is full" in sign.paused
            assert scene.writes <= 2 * MAX_JOBS
            scene.accept()
            assert (await _finished(broker)).indexed == 40 * 8
            await _sign(broker, lambda sign: sign.paused is None)
    assert await _dead_letters(broker) == []
    said = [entry["event"] for entry in log]
    assert said.count(events.WORKER_PAUSED) == said.count(events.WORKER_RESUMED) == 1


@pytest.mark.usefixtures("many_heartbeats")
async def test_a_paused_worker_stops_at_once(broker: Broker, scene: Scene) -> None:
    scene.refuse(answers.over_quota(507))
    async with working(broker, func(ingest, name=INGEST)) as worker:
        scene.equip(worker)
        await _offer(broker, [_document(str(i), ["text"]) for i in range(16)])
        await _sign(broker, lambda sign: sign.paused is not None and sign.running == 0)
    assert scene.writes <= 2  # the first entry, and the fifteen that arrived meanwhile
    assert (await balanced(broker.redis)).waiting == 16


@pytest.mark.usefixtures("many_heartbeats")
async def test_a_rate_limited_job_is_deferred_as_long_as_qdrant_says(
    broker: Broker, scene: Scene
) -> None:
    seconds = 3600
    assert seconds > PATIENCE_SECONDS
    scene.refuse(answers.rate_limited(seconds))
    before = await broker.queue.issue_version()
    async with working(broker, func(ingest, name=INGEST)) as worker:
        scene.equip(worker)
        first = await _offer(broker, [_document("d", ["text"])])
        await _sign(broker, lambda sign: sign.paused is not None and sign.running == 0)
        await _offer(broker, [_document("e", ["text"])])
        due_ms = await broker.redis.zscore(keys.QUEUE, first)
    assert due_ms is not None
    after = await broker.queue.issue_version()
    spread = 1.25 * retries.SERVICE_RETRY_SECONDS
    assert before / 1e6 + seconds < due_ms / 1000 < after / 1e6 + seconds + spread
    assert scene.writes == 1
    assert (await broker.queue.depth()).ready == 1


async def test_status_says_why_a_worker_is_paused(broker: Broker, ingestq: Ingestq) -> None:
    info = WorkerInfo("host", 7, 0, 0.0, 0.0, paused="Qdrant is full")
    await lease_queue(broker).heartbeat("worker-1", info)
    ingestq.settings["redis_url"] = broker.config.url
    ran = await asyncio.to_thread(ingestq, "status")
    assert "paused      worker-1: Qdrant is full" in ran.out


@pytest.mark.parametrize("answer", [answers.forbidden(), answers.invalid_key()], ids=["403", "401"])
async def test_a_refused_key_stops_the_worker(
    broker: Broker, scene: Scene, answer: Response
) -> None:
    scene.refuse(answer)
    await _stops(broker, scene, UsageError, "does not accept INGESTQ_QDRANT_API_KEY: 40[13]")


@pytest.mark.parametrize("lost", ["chunks", "ledger"])
async def test_a_deleted_collection_stops_the_worker(
    broker: Broker, scene: Scene, lost: str
) -> None:
    name = getattr(scene.names, lost)
    await scene.qdrant.ask(lambda client: client.delete_collection(name))
    await _stops(broker, scene, CollectionMissing, f"Collection `{name}` doesn't exist")


async def _stops(broker: Broker, scene: Scene, error: type[UsageError], words: str) -> None:
    """Check that a worker stops with ``error``, and every job is still queued and untried."""
    for i in range(3 * MAX_JOBS):
        await _offer(broker, [_document(str(i), ["text"])])
    worker = make_worker(broker, func(ingest, name=INGEST))
    scene.equip(worker)
    with pytest.raises(error, match=words):
        await ended(asyncio.create_task(worker.run_until_stopped()))
    totals = await balanced(broker.redis)
    assert (totals.waiting, totals.dead) == (3 * MAX_JOBS, 0)
    assert (await broker.queue.depth()).ready == 3 * MAX_JOBS


def _writes(request: str, body: Any) -> bool:
    return request.endswith("/points/batch?wait=true")


def _first(n: int) -> Matches:
    """Match the first ``n`` writes."""
    count = itertools.count()
    return lambda request, body: _writes(request, body) and next(count) < n


def _more_points_than(n: int) -> Matches:
    def matches(request: str, body: Any) -> bool:
        return _writes(request, body) and n < sum(
            len(operation["upsert"]["points"]) for operation in body["operations"]
        )

    return matches


def _points(
    n: int, text: str = "text", doc_id: str = "d", fence: Fence = FENCE
) -> list[ChunkPoint]:
    payload = {**fence._asdict(), "tenant": "t", "doc_id": doc_id, "page_content": text}
    return [
        ChunkPoint(
            uuid5(NAMESPACE_OID, f"{doc_id} {i}").hex,
            [1.0, 1.0, 1.0, float(i)],
            {**payload, "chunk_index": i},
        )
        for i in range(n)
    ]


def _document(doc_id: str, lines: Sequence[str]) -> Document:
    text = "\n".join(lines)
    return Document(collection="documents", doc_id=doc_id, version=1, source=doc_id, text=text)


async def _offer(broker: Broker, documents: Sequence[Document]) -> str:
    batch = IngestBatch("s", tuple(documents), Lane.INTERACTIVE)
    await broker.queue.offer([batch])
    return batch.job_id


async def _finished(broker: Broker) -> Any:
    """Return the counts of the submission's documents when all are done."""
    status = await eventually(lambda: broker.queue.submission("s"), lambda s: s.complete)
    return status.documents


async def _sign(broker: Broker, good: Callable[[WorkerStatus], bool]) -> WorkerStatus:
    """Return the worker's heartbeat as soon as it satisfies ``good``."""
    [sign] = await eventually(broker.queue.workers, lambda signs: any(map(good, signs)))
    return sign


async def _dead_letters(broker: Broker) -> list[DeadLetter]:
    found = await broker.redis.hvals(keys.DEAD)  # type: ignore[misc]
    return [msgspec.msgpack.decode(raw, type=DeadLetter) for raw in found]
