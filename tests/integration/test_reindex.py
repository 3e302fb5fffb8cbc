"""A collection is rebuilt beside the live one and takes its place, without a gap.

The new one differs in the name of its vector: so the same model makes both.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from qdrant_client import models

from ingestq.app.composition import Broker
from ingestq.app.worker import ServedCollections
from ingestq.broker import keys
from ingestq.broker.queue.gate import NO_SUCCESSOR, SHUT_MS, Gate
from ingestq.broker.queue.leases import LeaseQueue
from ingestq.core.display import Activity
from ingestq.core.documents import Deletion, Document
from ingestq.core.errors import CollectionMismatch, StoreRejected
from ingestq.core.results import SubmissionStatus
from tests.books import balanced
from tests.claims import lease_queue, take
from tests.waiting import ended, eventually
from tests.workers import indexing_worker
from worker.blobs import BlobContents
from worker.embedding.pool import ModelPool
from worker.maintenance.cut_over import (
    cut_over,
    find_previous,
    remove_abandoned,
    remove_expired,
    retire,
)
from worker.maintenance.reindex import (
    CutoverRefusal,
    GateTimes,
    Rebuild,
    ReindexResult,
    StoredCollection,
    make_target,
    reindex,
)
from worker.pipeline.ports import Ports
from worker.store.client import Qdrant
from worker.store.collection import CollectionNames, find_collection, make_collection
from worker.store.fence import is_equal
from worker.store.schema import Fingerprint, Schema, fingerprint

BRIEF = GateTimes(closed_seconds=0.5, open_seconds=0.1)
LONG_LEASE = 600.0  # seconds: nobody renews it
TOPICS = ["tides", "geese", "lamps", "bread", "ropes", "bells"]


@dataclass
class Progress:
    """Records what a rebuild displays."""

    shown: list[Activity] = field(default_factory=list)
    looked: asyncio.Event = field(default_factory=asyncio.Event)

    def show(self, activity: Activity) -> None:
        self.shown.append(activity)
        if activity.done:
            self.looked.set()


@dataclass
class ReindexHarness:
    """A live collection, and what it takes to rebuild it."""

    broker: Broker
    qdrant: Qdrant
    model: ModelPool
    live: CollectionNames
    progress: Progress = field(default_factory=Progress)
    versions: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))

    @property
    def alias(self) -> str:
        return self.live.alias

    def gate(self, names: CollectionNames) -> Gate:
        return Gate(self.broker.redis, self.broker.config, names.chunks)

    def leases(self, names: CollectionNames) -> LeaseQueue:
        """Return the queue as a worker of the collection sees it."""
        return lease_queue(self.broker, LONG_LEASE, {self.alias: names.chunks})

    def fingerprint_of(self, names: CollectionNames) -> Fingerprint:
        made = [fingerprint(self.model.info, Schema(name)) for name in ("", "text")]
        return next(m for m in made if CollectionNames.of(self.alias, m.digest) == names)

    @property
    def other(self) -> CollectionNames:
        made_with = fingerprint(self.model.info, Schema("text"))
        return CollectionNames.of(self.alias, made_with.digest)

    def side(self, names: CollectionNames) -> StoredCollection:
        return StoredCollection.of(self.qdrant, names, self.fingerprint_of(names))

    async def prepare(self, live: CollectionNames, new: CollectionNames) -> Rebuild:
        made_with = self.fingerprint_of(new)
        await make_collection(self.qdrant, new, made_with, Schema().storage)
        return Rebuild(
            self.side(live),
            self.side(new),
            self.model,
            reuse=True,
            at_once=4,
            display=self.progress,
        )

    async def rebuild(
        self, live: CollectionNames | None = None, new: CollectionNames | None = None
    ) -> ReindexResult | CutoverRefusal:
        """Do what ``ingestq reindex`` does."""
        live, new = live or self.live, new or self.other
        building = await self.prepare(live, new)
        return await reindex(
            building, self.qdrant, self.broker.queue, self.gate(live), self.model, BRIEF
        )

    @asynccontextmanager
    async def working(self, names: CollectionNames) -> AsyncIterator["asyncio.Task[None]"]:
        """Run a worker of a collection."""
        side = self.side(names)
        ports = Ports(self.model, side.chunks, side.ledger, BlobContents())
        served = ServedCollections(
            {self.alias: names.chunks}, {self.alias: side.ledger}, {self.alias: ports}
        )
        worker = indexing_worker(self.broker, served)
        running = asyncio.create_task(worker.run_until_stopped())
        try:
            yield running
        finally:
            worker.stop()
            with suppress(CollectionMismatch):  # the test has seen it
                await ended(running)

    async def put(self, doc_id: str, text: str, **more: Any) -> str:
        """Queue a document; return its submission."""
        return (
            await self.broker.client.submit(doc_id, source=doc_id, text=text, **more)
        ).submission

    async def ended(self, submission: str) -> SubmissionStatus:
        return await eventually(
            lambda: self.broker.queue.submission(submission), lambda status: status.complete
        )

    async def payloads(self, name: str) -> dict[str, Any]:
        """Return all payloads of the collection ``name`` by point id."""
        records, offset = await self.qdrant.ask(lambda client: client.scroll(name, limit=1000))
        assert offset is None
        return {str(record.id): record.payload for record in records}


@pytest.fixture
async def harness(
    broker: Broker, qdrant: Qdrant, model: ModelPool, collection: CollectionNames
) -> AsyncIterator[ReindexHarness]:
    harness = ReindexHarness(
        replace(broker, collection=collection.alias), qdrant, model, collection
    )
    yield harness
    await qdrant.ask(lambda client: client.delete_collection(harness.other.chunks))
    await qdrant.ask(lambda client: client.delete_collection(harness.other.ledger))


async def fill(harness: ReindexHarness) -> None:
    """Index one document for each topic, with a worker."""
    async with harness.working(harness.live):
        for topic in TOPICS:
            submission = await harness.put(topic, f"A note about {topic}.")
            assert (await harness.ended(submission)).documents.indexed == 1


async def test_every_document_is_copied_to_the_new_collection(
    harness: ReindexHarness, tmp_path: Path
) -> None:
    here, gone, changed = (tmp_path / name for name in ("here.txt", "gone.md", "changed.txt"))
    here.write_text("A file that is there.")
    changed.write_text("What a file said.")
    gone.write_text("# Gone\n\nA file that will be gone.\n")
    client = harness.broker.client
    async with harness.working(harness.live):
        await harness.put("inline", "A text.", metadata={"page": 3, "title": "T"}, tenant="t")
        await client.submit("here", source=str(here), path=str(here))
        await client.submit("changed", source=str(changed), path=str(changed))
        await client.submit("gone", source=str(gone), path=str(gone), media_type="text/markdown")
        await harness.put("deleted", "A text that goes.")
        await eventually(harness.broker.queue.is_empty)
        version = await harness.broker.queue.issue_version()
        await client.delete_many([Deletion(doc_id="deleted", version=version)], submission="d")
        await harness.ended("d")
    gone.unlink()
    changed.write_text("Text that is not indexed yet.")
    before = await harness.payloads(harness.live.chunks)
    assert len(before) == 4

    assert await harness.rebuild() == ReindexResult(documents=4, chunks=4)
    assert harness.progress.shown[-1].detail == "0 chunks embedded, 4 reused"
    assert await find_collection(harness.qdrant, harness.alias) == harness.other
    assert await harness.payloads(harness.alias) == before
    async with harness.working(harness.other):
        old = Document(doc_id="deleted", version=version - 1, source="", text="A text that goes.")
        await client.submit_many([old], submission="late")
        assert (await harness.ended("late")).documents.superseded == 1
        again = await client.submit("here", source=str(here), path=str(here))
        assert (await harness.ended(again.submission)).documents.unchanged == 1
    await balanced(harness.broker.redis)


async def test_searches_are_complete_at_every_moment(harness: ReindexHarness) -> None:
    await fill(harness)
    query = await harness.model.embed_query("Where do I read of lamps?")
    searches = 0
    done = asyncio.Event()

    async def read() -> None:
        nonlocal searches
        while not done.is_set():
            held = await harness.payloads(harness.alias)
            assert {payload["doc_id"] for payload in held.values()} == set(TOPICS)
            live = await find_collection(harness.qdrant, harness.alias)
            assert live is not None
            try:
                hits = await harness.side(live).chunks.search(query.dense, len(TOPICS))
            except StoreRejected:  # the vector has another name since the line before
                continue
            assert len(hits) == len(TOPICS)
            assert hits[0].doc_id == "lamps"
            searches += 1

    async with asyncio.TaskGroup() as group:
        group.create_task(read())
        assert isinstance(await harness.rebuild(), ReindexResult)
        seen = searches
        await eventually(lambda: asyncio.sleep(0, searches > seen))
        done.set()


async def test_documents_written_during_a_rebuild_are_in_the_new_collection(
    harness: ReindexHarness,
) -> None:
    await fill(harness)
    async with harness.working(harness.live) as old_worker:
        rebuilding = asyncio.create_task(harness.rebuild())
        await harness.progress.looked.wait()
        submissions = [await harness.put("tides", "A second note about tides.")]
        submissions += [await harness.put(f"new {i}", f"New note {i}.") for i in range(8)]
        assert isinstance(await rebuilding, ReindexResult)
        submissions += [await harness.put("last", "What came after the cut-over.")]
        with pytest.raises(CollectionMismatch, match="INGESTQ_MODEL"):
            await old_worker
        async with harness.working(harness.other):
            for submission in submissions:
                assert (await harness.ended(submission)).documents.indexed == 1
    texts = {
        p["doc_id"]: p["page_content"] for p in (await harness.payloads(harness.alias)).values()
    }
    assert texts.keys() == {*TOPICS, "last", *(f"new {i}" for i in range(8))}
    assert texts["tides"] == "A second note about tides."
    await balanced(harness.broker.redis)


async def test_a_failed_rebuild_leaves_the_live_collection_as_it_was(
    harness: ReindexHarness,
) -> None:
    await fill(harness)
    building = await harness.prepare(harness.live, harness.other)
    await building.catch_up()
    [payload, *_] = (await harness.payloads(harness.live.chunks)).values()
    vector: dict[str, Any] = {"text": [1.0] * harness.model.info.dimension}
    stray = models.PointStruct(id=1, vector=vector, payload=payload)
    await harness.qdrant.ask(lambda client: client.upsert(harness.other.chunks, [stray]))
    outcome = await harness.rebuild()
    assert isinstance(outcome, CutoverRefusal)
    assert outcome.reasons == ["it holds 7 chunks, but should hold 6"]
    assert await find_collection(harness.qdrant, harness.alias) == harness.live
    async with harness.working(harness.live):
        assert (await harness.ended(await harness.put("next", "Next."))).documents.indexed == 1


async def test_a_document_that_cannot_be_rebuilt_is_named(harness: ReindexHarness) -> None:
    await fill(harness)
    chunks = await harness.payloads(harness.live.chunks)
    [lost] = [point for point, payload in chunks.items() if payload["doc_id"] == "lamps"]
    await harness.qdrant.ask(lambda client: client.delete(harness.live.chunks, [lost]))
    outcome = await harness.rebuild()
    assert isinstance(outcome, CutoverRefusal)
    [reason] = outcome.reasons
    assert reason.startswith("lamps: ")
    assert await find_collection(harness.qdrant, harness.alias) == harness.live


async def test_a_document_that_no_job_will_finish_keeps_its_text(
    harness: ReindexHarness,
) -> None:
    """As when Redis lost its data after a worker had died."""
    await fill(harness)
    before = await harness.payloads(harness.live.chunks)
    lamps = models.Filter(must=[is_equal("doc_id", "lamps")])
    begun = {"chunks": 0, "chunks_fence": None, "chunks_digest": ""}
    unfinished = {"state": "writing", "content_hash": "that of another version", **begun}
    await harness.qdrant.ask(
        lambda client: client.set_payload(harness.live.ledger, unfinished, points=lamps)
    )
    held = ReindexResult(documents=len(TOPICS), chunks=len(TOPICS))
    assert await harness.rebuild() == held
    now = await harness.payloads(harness.alias)
    shown = ("doc_id", "source", "page_content", "context", "metadata")
    assert {point: [p[name] for name in shown] for point, p in now.items()} == {
        point: [p[name] for name in shown] for point, p in before.items()
    }
    assert await harness.rebuild(harness.other, harness.live) == held  # it can go back, too


async def test_a_long_job_does_not_keep_the_gate_shut(
    harness: ReindexHarness,
) -> None:
    await fill(harness)
    mine = harness.leases(harness.live)
    await harness.put("slow", "Slow.")
    [slow] = await take(mine)
    rebuilding = asyncio.create_task(harness.rebuild())
    await harness.put("other", "Other.")
    claims = [slow]

    async def successor() -> str | None:
        claimed = await mine.claim("w", 1, bulk=1, running=0)
        claims.extend(claimed.claims)
        return claimed.shut.get(harness.alias)

    await eventually(successor, lambda name: name == NO_SUCCESSOR)
    await eventually(successor, lambda name: name is None)
    for claim in claims:
        assert await mine.nack(claim, delay_seconds=0, counts_as_try=False)
    assert isinstance(await rebuilding, ReindexResult)
    assert (await harness.broker.queue.depth()).ready == 2


async def test_a_gate_opens_when_the_process_that_shut_it_died(harness: ReindexHarness) -> None:
    gate, leases = harness.gate(harness.live), harness.leases(harness.live)
    async with gate.shut():
        assert await successor_at(leases) == NO_SUCCESSOR
        assert 0 < await harness.broker.redis.pttl(keys.GATE + harness.live.chunks) <= SHUT_MS
        assert await successor_at(harness.leases(harness.other)) is None
    assert await successor_at(leases) is None


async def test_the_gate_names_the_successor_of_a_collection(harness: ReindexHarness) -> None:
    gate, leases = harness.gate(harness.live), harness.leases(harness.live)
    async with gate.shut():
        await gate.replace_with(harness.other.chunks)
    assert await successor_at(leases) == harness.other.chunks
    back = harness.gate(harness.other)
    async with back.shut():
        await back.replace_with(harness.live.chunks)
    assert await successor_at(leases) is None


async def successor_at(leases: LeaseQueue) -> str | None:
    [collection] = leases.serving
    return (await leases.claim("w", 1, bulk=1, running=0)).shut.get(collection)


async def test_going_back_includes_all_changes_since(harness: ReindexHarness) -> None:
    await fill(harness)
    await harness.rebuild()
    assert await find_previous(harness.qdrant, harness.alias) == harness.live
    async with harness.working(harness.other):
        await harness.ended(await harness.put("lamps", "Another note about lamps."))
        await harness.ended(await harness.put("new", "A new note."))
    now = await harness.payloads(harness.alias)
    assert isinstance(await harness.rebuild(harness.other, harness.live), ReindexResult)
    assert await find_collection(harness.qdrant, harness.alias) == harness.live
    assert await find_previous(harness.qdrant, harness.alias) == harness.other
    assert await harness.payloads(harness.alias) == now


async def test_an_alias_moved_by_somebody_else_is_not_changed(harness: ReindexHarness) -> None:
    await fill(harness)
    building = await harness.prepare(harness.live, harness.other)
    third = CollectionNames.of(harness.alias, "0" * 12)
    await make_collection(
        harness.qdrant, third, fingerprint(harness.model.info, Schema("third")), Schema().storage
    )
    await cut_over(harness.qdrant, harness.live, third)
    with pytest.raises(CollectionMismatch, match="moved during the rebuild"):
        await reindex(
            building,
            harness.qdrant,
            harness.broker.queue,
            harness.gate(harness.live),
            harness.model,
        )
    assert await find_collection(harness.qdrant, harness.alias) == third
    await cut_over(harness.qdrant, third, harness.live)
    await harness.qdrant.ask(lambda client: client.delete_collection(third.chunks))
    await harness.qdrant.ask(lambda client: client.delete_collection(third.ledger))


async def test_the_previous_collection_is_kept_for_some_time(harness: ReindexHarness) -> None:
    await fill(harness)
    abandoned = CollectionNames.of(harness.alias, "0" * 12)
    made_with = fingerprint(harness.model.info, Schema("third"))
    await make_collection(harness.qdrant, abandoned, made_with, Schema().storage)
    await harness.rebuild()
    await remove_abandoned(harness.qdrant, harness.alias)
    assert await names_of(harness) == {harness.live.chunks, harness.other.chunks}
    assert await remove_expired(harness.qdrant, harness.alias, hours=1) is None
    await make_target(
        harness.qdrant, harness.live, harness.fingerprint_of(harness.live), Schema().storage
    )
    assert await remove_expired(harness.qdrant, harness.alias, hours=0) is None  # it is rebuilt
    await retire(harness.qdrant, harness.live)
    assert await remove_expired(harness.qdrant, harness.alias, hours=0) == harness.live
    assert await names_of(harness) == {harness.other.chunks}
    assert await find_previous(harness.qdrant, harness.alias) is None


async def names_of(harness: ReindexHarness) -> set[str]:
    """Return the collections of the alias, without their ledgers."""
    known = (await harness.qdrant.ask(lambda client: client.get_collections())).collections
    names = {one.name for one in known if one.name.startswith(harness.alias)}
    ledgers = {name for name in names if name.endswith("__ledger")}
    assert ledgers == {f"{name}__ledger" for name in names - ledgers}
    return names - ledgers
