"""A collection is rebuilt beside the live one and takes its place, without a gap.

The new one differs in the name of its vector: so the same model makes both.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
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
from ingestq.core.documents import Deletion, Document, Lane
from ingestq.core.errors import CollectionMismatch, StoreRejected
from ingestq.core.jobs import IngestBatch
from ingestq.core.results import SubmissionStatus
from tests.books import balanced
from tests.claims import lease_queue, take
from tests.waiting import eventually
from tests.workers import indexing_worker
from worker.blobs import BlobContents
from worker.embedding.pool import ModelPool
from worker.maintenance.cut_over import cut_over, find_previous, remove_abandoned, remove_expired
from worker.maintenance.reindex import (
    CutoverRefusal,
    Patience,
    Rebuild,
    ReindexResult,
    Side,
    reindex,
)
from worker.pipeline.ports import Ports
from worker.store.client import Qdrant
from worker.store.collection import CollectionNames, find_collection, make_collection
from worker.store.schema import Fingerprint, Schema, fingerprint

BRIEF = Patience(closed_seconds=0.5, open_seconds=0.1)
TOPICS = ["tides", "geese", "lamps", "bread", "ropes", "bells"]


@dataclass
class Progress:
    """What a rebuild shows of itself."""

    shown: list[Activity] = field(default_factory=list)
    looked: asyncio.Event = field(default_factory=asyncio.Event)

    def show(self, activity: Activity) -> None:
        self.shown.append(activity)
        if activity.done:
            self.looked.set()


@dataclass
class RebuiltHouse:
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
        """The queue as a worker of the collection sees it."""
        return lease_queue(self.broker, serving={self.alias: names.chunks})

    def fingerprint_of(self, names: CollectionNames) -> Fingerprint:
        made = [fingerprint(self.model.info, Schema(name)) for name in ("", "text")]
        return next(m for m in made if CollectionNames.of(self.alias, m.digest) == names)

    @property
    def other(self) -> CollectionNames:
        made_with = fingerprint(self.model.info, Schema("text"))
        return CollectionNames.of(self.alias, made_with.digest)

    def side(self, names: CollectionNames) -> Side:
        return Side.of(self.qdrant, names, self.fingerprint_of(names))

    async def prepare(self, live: CollectionNames, new: CollectionNames) -> Rebuild:
        made_with = self.fingerprint_of(new)
        await make_collection(self.qdrant, new, made_with, Schema().storage)
        return Rebuild(
            self.side(live),
            self.side(new),
            self.model.in_lane(Lane.BULK),
            reuse=True,
            at_once=4,
            display=self.progress,
        )

    async def rebuild(
        self, live: CollectionNames | None = None, new: CollectionNames | None = None
    ) -> ReindexResult | CutoverRefusal:
        """What ``ingestq reindex`` does."""
        live, new = live or self.live, new or self.other
        building = await self.prepare(live, new)
        return await reindex(
            building, self.qdrant, self.broker.queue, self.gate(live), self.model, BRIEF
        )

    @asynccontextmanager
    async def working(self, names: CollectionNames) -> AsyncIterator["asyncio.Task[None]"]:
        """A worker of a collection, at work."""
        side = self.side(names)
        ports = {
            lane: Ports(self.model.in_lane(lane), side.chunks, side.ledger, BlobContents())
            for lane in Lane
        }
        served = ServedCollections({self.alias: names.chunks}, {self.alias: ports})
        worker = indexing_worker(self.broker, served)
        running = asyncio.create_task(worker.run_until_stopped())
        try:
            yield running
        finally:
            worker.stop()
            await asyncio.wait([running])

    async def put(self, doc_id: str, text: str, **more: Any) -> str:
        """Queue a document; answers its submission."""
        return (
            await self.broker.client.submit(doc_id, source=doc_id, text=text, **more)
        ).submission

    async def ended(self, submission: str) -> SubmissionStatus:
        return await eventually(
            lambda: self.broker.queue.submission(submission), lambda status: status.complete
        )

    async def payloads(self, name: str) -> dict[str, Any]:
        """Everything that is stored under ``name`` but the vectors, by id."""
        records, offset = await self.qdrant.ask(lambda client: client.scroll(name, limit=1000))
        assert offset is None
        return {str(record.id): record.payload for record in records}


@pytest.fixture
async def house(
    broker: Broker, qdrant: Qdrant, model: ModelPool, collection: CollectionNames
) -> AsyncIterator[RebuiltHouse]:
    house = RebuiltHouse(replace(broker, collection=collection.alias), qdrant, model, collection)
    yield house
    await qdrant.ask(lambda client: client.delete_collection(house.other.chunks))
    await qdrant.ask(lambda client: client.delete_collection(house.other.ledger))


async def fill(house: RebuiltHouse) -> None:
    """Index a document a topic, with a worker."""
    async with house.working(house.live):
        for topic in TOPICS:
            submission = await house.put(topic, f"A note about {topic}.")
            assert (await house.ended(submission)).documents.indexed == 1


async def test_everything_is_carried_over(house: RebuiltHouse, tmp_path: Path) -> None:
    here, gone, changed = (tmp_path / name for name in ("here.txt", "gone.md", "changed.txt"))
    here.write_text("A file that is there.")
    changed.write_text("What a file said.")
    gone.write_text("# Gone\n\nA file that will be gone.\n")
    client = house.broker.client
    async with house.working(house.live):
        await house.put("inline", "A text.", metadata={"page": 3, "title": "T"}, tenant="t")
        await client.submit("here", source=str(here), path=str(here))
        await client.submit("changed", source=str(changed), path=str(changed))
        await client.submit("gone", source=str(gone), path=str(gone), media_type="text/markdown")
        await house.put("deleted", "A text that goes.")
        await eventually(house.broker.queue.is_empty)
        version = await house.broker.queue.now()
        await client.delete_many([Deletion(doc_id="deleted", version=version)], submission="d")
        await house.ended("d")
    gone.unlink()
    changed.write_text("What nobody has looked at yet.")
    before = await house.payloads(house.live.chunks)
    assert len(before) == 4

    assert await house.rebuild() == ReindexResult(documents=4, chunks=4)
    assert house.progress.shown[-1].detail == "0 chunks embedded, 4 reused"
    assert await find_collection(house.qdrant, house.alias) == house.other
    assert await house.payloads(house.alias) == before
    async with house.working(house.other):
        old = Document(doc_id="deleted", version=version - 1, source="", text="A text that goes.")
        await house.broker.queue.offer([IngestBatch("late", (old,))])
        assert (await house.ended("late")).documents.superseded == 1
        again = await client.submit("here", source=str(here), path=str(here))
        assert (await house.ended(again.submission)).documents.unchanged == 1
    await balanced(house.broker.redis)


async def test_readers_find_everything_at_every_moment(house: RebuiltHouse) -> None:
    await fill(house)
    question = await house.model.embed_query("Where do I read of lamps?")
    searches = 0
    done = asyncio.Event()

    async def read() -> None:
        nonlocal searches
        while not done.is_set():
            held = await house.payloads(house.alias)
            assert {payload["doc_id"] for payload in held.values()} == set(TOPICS)
            live = await find_collection(house.qdrant, house.alias)
            assert live is not None
            try:
                hits = await house.side(live).chunks.search(question.dense, len(TOPICS))
            except StoreRejected:  # the vector has another name since the line before
                continue
            assert len(hits) == len(TOPICS)
            assert hits[0].doc_id == "lamps"
            searches += 1

    async with asyncio.TaskGroup() as group:
        group.create_task(read())
        assert isinstance(await house.rebuild(), ReindexResult)
        seen = searches
        await eventually(lambda: asyncio.sleep(0, searches > seen))
        done.set()


async def test_what_is_written_meanwhile_is_in_the_new_collection(house: RebuiltHouse) -> None:
    await fill(house)
    async with house.working(house.live) as old_worker:
        rebuilding = asyncio.create_task(house.rebuild())
        await house.progress.looked.wait()
        submissions = [await house.put("tides", "A second note about tides.")]
        submissions += [await house.put(f"new {i}", f"New note {i}.") for i in range(8)]
        assert isinstance(await rebuilding, ReindexResult)
        submissions += [await house.put("last", "What came after the cut-over.")]
        with pytest.raises(CollectionMismatch, match="INGESTQ_MODEL"):
            await old_worker
        async with house.working(house.other):
            for submission in submissions:
                assert (await house.ended(submission)).documents.indexed == 1
    texts = {p["doc_id"]: p["page_content"] for p in (await house.payloads(house.alias)).values()}
    assert texts.keys() == {*TOPICS, "last", *(f"new {i}" for i in range(8))}
    assert texts["tides"] == "A second note about tides."
    await balanced(house.broker.redis)


async def test_a_rebuild_that_went_wrong_changes_nothing(house: RebuiltHouse) -> None:
    await fill(house)
    building = await house.prepare(house.live, house.other)
    await building.catch_up()
    [payload, *_] = (await house.payloads(house.live.chunks)).values()
    vector: dict[str, Any] = {"text": [1.0] * house.model.info.dimension}
    stray = models.PointStruct(id=1, vector=vector, payload=payload)
    await house.qdrant.ask(lambda client: client.upsert(house.other.chunks, [stray]))
    outcome = await house.rebuild()
    assert isinstance(outcome, CutoverRefusal)
    assert outcome.reasons == ["it holds 7 chunks, and should hold 6"]
    assert await find_collection(house.qdrant, house.alias) == house.live
    async with house.working(house.live):
        assert (await house.ended(await house.put("next", "Next."))).documents.indexed == 1


async def test_a_document_that_cannot_be_rebuilt_is_named(house: RebuiltHouse) -> None:
    await fill(house)
    chunks = await house.payloads(house.live.chunks)
    [lost] = [point for point, payload in chunks.items() if payload["doc_id"] == "lamps"]
    await house.qdrant.ask(lambda client: client.delete(house.live.chunks, [lost]))
    outcome = await house.rebuild()
    assert isinstance(outcome, CutoverRefusal)
    [reason] = outcome.reasons
    assert reason.startswith("lamps: ")
    assert await find_collection(house.qdrant, house.alias) == house.live


async def test_jobs_that_run_long_do_not_hold_up_the_others_for_long(house: RebuiltHouse) -> None:
    await fill(house)
    leases = lease_queue(house.broker)
    await house.put("slow", "Slow.")
    [slow] = await take(leases)
    rebuilding = asyncio.create_task(house.rebuild())
    await house.put("other", "Other.")
    mine = house.leases(house.live)
    claims = [slow]

    async def successor() -> str | None:
        claimed = await mine.claim("w", 1, bulk=1, running=0)
        claims.extend(claimed.claims)
        return claimed.shut.get("")

    await eventually(successor, lambda name: name == NO_SUCCESSOR)
    await eventually(successor, lambda name: name is None)
    for claim in claims:
        assert await leases.nack(claim, delay_seconds=0, counts_as_try=False)
    assert isinstance(await rebuilding, ReindexResult)
    assert (await house.broker.queue.depth()).ready == 2


async def test_a_gate_opens_by_itself_if_whoever_shut_it_died(house: RebuiltHouse) -> None:
    gate, leases = house.gate(house.live), house.leases(house.live)
    async with gate.shut():
        assert await successor_at(leases) == NO_SUCCESSOR
        assert 0 < await house.broker.redis.pttl(keys.GATE + house.live.chunks) <= SHUT_MS
        assert await successor_at(house.leases(house.other)) is None
    assert await successor_at(leases) is None


async def test_who_replaced_a_collection_is_said_at_its_gate(house: RebuiltHouse) -> None:
    gate, leases = house.gate(house.live), house.leases(house.live)
    async with gate.shut():
        await gate.replaced_by(house.other.chunks)
    assert await successor_at(leases) == house.other.chunks
    back = house.gate(house.other)
    async with back.shut():
        await back.replaced_by(house.live.chunks)
    assert await successor_at(leases) is None


async def successor_at(leases: LeaseQueue) -> str | None:
    return (await leases.claim("w", 1, bulk=1, running=0)).shut.get("")


async def test_it_goes_back_with_all_that_changed_since(house: RebuiltHouse) -> None:
    await fill(house)
    await house.rebuild()
    assert await find_previous(house.qdrant, house.alias) == house.live
    async with house.working(house.other):
        await house.ended(await house.put("lamps", "Another note about lamps."))
        await house.ended(await house.put("new", "A new note."))
    now = await house.payloads(house.alias)
    assert isinstance(await house.rebuild(house.other, house.live), ReindexResult)
    assert await find_collection(house.qdrant, house.alias) == house.live
    assert await find_previous(house.qdrant, house.alias) == house.other
    assert await house.payloads(house.alias) == now


async def test_an_alias_that_somebody_else_changed_is_left_alone(house: RebuiltHouse) -> None:
    await fill(house)
    building = await house.prepare(house.live, house.other)
    third = CollectionNames.of(house.alias, "0" * 12)
    await make_collection(
        house.qdrant, third, fingerprint(house.model.info, Schema("third")), Schema().storage
    )
    await cut_over(house.qdrant, house.live, third)
    with pytest.raises(CollectionMismatch, match="somebody else"):
        await reindex(
            building, house.qdrant, house.broker.queue, house.gate(house.live), house.model
        )
    assert await find_collection(house.qdrant, house.alias) == third
    await cut_over(house.qdrant, third, house.live)
    await house.qdrant.ask(lambda client: client.delete_collection(third.chunks))
    await house.qdrant.ask(lambda client: client.delete_collection(third.ledger))


async def test_the_collection_before_is_kept_for_a_while(house: RebuiltHouse) -> None:
    await fill(house)
    given_up = CollectionNames.of(house.alias, "0" * 12)
    made_with = fingerprint(house.model.info, Schema("third"))
    await make_collection(house.qdrant, given_up, made_with, Schema().storage)
    await house.rebuild()
    await remove_abandoned(house.qdrant, house.alias)
    assert await names_of(house) == {house.live.chunks, house.other.chunks}
    assert await remove_expired(house.qdrant, house.alias, hours=1) is None
    assert await remove_expired(house.qdrant, house.alias, hours=0) == house.live
    assert await names_of(house) == {house.other.chunks}
    assert await find_previous(house.qdrant, house.alias) is None


async def names_of(house: RebuiltHouse) -> set[str]:
    """The collections that belong to the alias, without their ledgers."""
    known = (await house.qdrant.ask(lambda client: client.get_collections())).collections
    names = {one.name for one in known if one.name.startswith(house.alias)}
    ledgers = {name for name in names if name.endswith("__ledger")}
    assert ledgers == {f"{name}__ledger" for name in names - ledgers}
    return names - ledgers
