"""Several collections on one queue: each holds its own documents only."""

import asyncio
import gc
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from qdrant_client import AsyncQdrantClient

from ingestq.app.composition import Broker
from ingestq.app.settings import Settings, load_settings
from ingestq.app.settings_tables import DropTable
from ingestq.app.verify import VerifyRequest, verify
from ingestq.app.worker import open_collections, open_worker
from ingestq.broker.queue.dead_letters import DeadLetterFilter, DeadLetters
from ingestq.broker.queue.gate import Gate
from ingestq.broker.watched_folders import WatchedFolders
from ingestq.client.client import IngestClient, new_submission
from ingestq.core.display import NoDisplay
from ingestq.core.documents import Deletion, Document, Lane
from ingestq.core.errors import CollectionMismatch
from producers.watch.folder import WatchedFolder
from producers.watch.folder_watch import FolderWatch, WatchConfig
from producers.watch.moves import Arrivals
from tests.books import balanced
from tests.waiting import ended, eventually
from tests.workers import indexing_worker
from worker.embedding.pool import ModelPool
from worker.maintenance import upkeep
from worker.maintenance.cut_over import cut_over
from worker.maintenance.reindex import GateTimes, Rebuild, ReindexResult, StoredCollection, reindex
from worker.store.client import Qdrant
from worker.store.collection import (
    CollectionNames,
    find_collection,
    make_collection,
    open_collection,
)
from worker.store.requests import pages
from worker.store.schema import Schema, fingerprint

QUIET = GateTimes(closed_seconds=5, open_seconds=0.1)
TENANTS = ("", "t")
IDS = ("a", "b", "c")


@dataclass(frozen=True)
class Town:
    """Two collections, ``first`` and ``second``, on one queue."""

    broker: Broker
    qdrant: Qdrant
    model: ModelPool
    settings: Settings
    names: Sequence[CollectionNames]
    client: IngestClient

    @property
    def first(self) -> str:
        return self.names[0].alias

    @property
    def second(self) -> str:
        return self.names[1].alias

    @asynccontextmanager
    async def working(self, *collections: str) -> AsyncIterator["asyncio.Task[None]"]:
        """Run a worker that serves ``collections``, the first by default."""
        tables = tuple(DropTable(path=Path(), collection=name) for name in collections[1:])
        mine = self.settings.model_copy(update={"collection": collections[0], "drop": tables})
        served = await open_collections(mine, self.broker, self.qdrant, self.model)
        worker = indexing_worker(self.broker, served)
        running = asyncio.create_task(worker.run_until_stopped())
        try:
            yield running
        finally:
            worker.stop()
            with suppress(CollectionMismatch):  # the test has seen it
                await ended(running)

    async def texts(self, chunks: str) -> dict[tuple[str, str], str]:
        """Return what a collection holds of each document, by tenant and id."""
        fields = ["tenant", "doc_id", "page_content"]
        found = [
            record.payload or {}
            async for page in pages(self.qdrant, chunks, None, fields, 100)
            for record in page
        ]
        texts = {(one["tenant"], one["doc_id"]): one["page_content"] for one in found}
        assert len(texts) == len(found), "each has one chunk"
        return texts

    async def existing(self) -> set[str]:
        """Return the names of all collections in Qdrant."""
        listed = await self.qdrant.ask(lambda client: client.get_collections())
        return {one.name for one in listed.collections}

    async def verified(self, collection: str) -> dict[str, Any]:
        wanted = VerifyRequest((), None, repair=False, allow_mass_delete=False)
        mine = self.settings.of_collection(collection)
        report = await verify(self.broker, self.qdrant, mine, wanted, NoDisplay())
        return report.as_json()

    async def done(self) -> None:
        await eventually(self.broker.queue.is_empty)
        await balanced(self.broker.redis)


@pytest.fixture
async def town(
    broker: Broker,
    qdrant: Qdrant,
    model: ModelPool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Town]:
    monkeypatch.chdir(tmp_path)
    chance = random.SystemRandom().getrandbits(48)
    mine = fingerprint(model.info)
    names = [await open_collection(qdrant, f"test-{chance:x}-{i}", mine) for i in (1, 2)]
    configured = load_settings().model_copy(update={"collection": names[0].alias})
    town = Town(
        broker,
        qdrant,
        model,
        configured,
        names,
        IngestClient(broker.queue, collection=names[0].alias),
    )
    yield town
    for name in await town.existing():
        if name.startswith(f"test-{chance:x}-"):
            await qdrant.ask(partial(_remove, name))


async def _remove(name: str, client: AsyncQdrantClient) -> bool:
    return await client.delete_collection(name)


@dataclass
class Story:
    """Observed documents, each in a collection, and what has to be left of them."""

    steps: list[Document | Deletion] = field(default_factory=list)

    @classmethod
    def of(cls, chance: random.Random, collections: Sequence[str], length: int) -> "Story":
        story = cls()
        for version in range(1, length + 1):
            where: dict[str, Any] = {
                "doc_id": chance.choice(IDS),
                "tenant": chance.choice(TENANTS),
                "collection": chance.choice(collections),
                "version": version,
            }
            if chance.random() < 0.2:
                story.steps.append(Deletion(**where))
            else:
                text = f"Note {version} in {where['collection']}."
                story.steps.append(Document(**where, source="s", text=text))
        return story

    def left_in(self, collection: str) -> Mapping[tuple[str, str], str]:
        left: dict[tuple[str, str], str] = {}
        for step in self.steps:
            if step.collection == collection:
                left.pop((step.tenant, step.doc_id), None)
                if isinstance(step, Document):
                    left[step.tenant, step.doc_id] = str(step.text)
        return left


@pytest.mark.parametrize("seed", range(3))
async def test_documents_never_reach_another_collection(town: Town, seed: int) -> None:
    """Two workers, one of which serves one collection only; documents arrive in any order."""
    chance = random.Random(seed)
    story = Story.of(chance, [town.first, town.second], length=60)
    arriving = chance.sample(story.steps, len(story.steps))
    async with (
        town.working(town.first, town.second),
        town.working(town.second),
    ):
        for step in arriving:
            if isinstance(step, Document):
                await town.client.submit_many([step], lane=chance.choice(list(Lane)))
            else:
                await town.client.delete_many([step], submission=new_submission())
        await town.done()
    for names in town.names:
        assert await town.texts(names.chunks) == story.left_in(names.alias)
        assert (await town.verified(names.alias))["consistent"]


async def test_a_worker_does_not_claim_jobs_of_collections_that_it_does_not_serve(
    town: Town,
) -> None:
    story = Story.of(random.Random(9), [town.first, town.second], length=30)
    documents = [step for step in story.steps if isinstance(step, Document)]
    story.steps = list(documents)
    await town.client.submit_many(documents)
    async with town.working(town.second):
        await eventually(
            lambda: town.broker.queue.count_jobs([town.second]), lambda left: left.jobs == 0
        )
    assert await town.texts(town.names[0].chunks) == {}
    assert await town.texts(town.names[1].chunks) == story.left_in(town.second)
    assert (await town.broker.queue.overview()).unserved.keys() == {town.first}
    async with town.working(town.first):
        await town.done()
    assert await town.texts(town.names[0].chunks) == story.left_in(town.first)


async def test_two_folders_with_the_same_ids_can_use_two_collections(
    town: Town, tmp_path: Path
) -> None:
    folders = []
    for collection in (town.first, town.second):
        root = tmp_path / collection
        root.mkdir()
        (root / "note.txt").write_text(f"A note for {collection}.")
        (root / "damaged.txt").write_bytes(bytes(range(256)))
        folders.append(WatchedFolder(root, "notes", collection=collection))
    dead_letters = DeadLetters(town.broker.redis, town.broker.config)
    config = WatchConfig(settle_seconds=0.1)
    reports = WatchedFolders(town.broker.redis, town.broker.config)
    drops = [
        FolderWatch(folder, config, town.client, dead_letters, reports, Arrivals(town.client))
        for folder in folders
    ]

    async def given_up() -> dict[str, str]:
        found = dead_letters.find(DeadLetterFilter(frozenset(["notes/damaged.txt"])))
        return {one.dead_letter.collection: one.dead_letter.reason async for one in found}

    async def held() -> list[Mapping[tuple[str, str], str]]:
        return [await town.texts(names.chunks) for names in town.names]

    async with town.working(town.first, town.second):
        running = [asyncio.create_task(drop.run()) for drop in drops]
        await eventually(given_up, lambda reasons: len(reasons) == 2)
        note = ("", "notes/note.txt")
        expected = [{note: f"A note for {name}."} for name in (town.first, town.second)]
        await eventually(held, lambda now: now == expected)
        (folders[0].path / "note.txt").unlink()
        await eventually(held, lambda now: now == [{}, expected[1]])
        (folders[0].path / "damaged.txt").write_text("Now there is something.")
        await eventually(given_up, lambda reasons: reasons.keys() == {town.second})
        for drop in drops:
            drop.stop()
        await asyncio.gather(*running)


async def test_a_mismatched_collection_stops_the_worker_before_it_claims(
    town: Town,
) -> None:
    other = Schema(vector_name="text")
    alias = f"{town.second}-x"
    await open_collection(town.qdrant, alias, fingerprint(town.model.info, other))
    await town.client.submit("a", source="s", text="t")
    with pytest.raises(CollectionMismatch, match=alias):
        async with town.working(town.first, alias):
            pass
    assert (await town.broker.queue.depth()).ready == 1


async def test_a_running_worker_removes_a_previous_collection_that_has_expired(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "UPKEEP_SECONDS", 0.02)
    monkeypatch.setattr(gc, "freeze", lambda: None)
    new = fingerprint(town.model.info, Schema("text"))
    rebuilt = CollectionNames.of(town.first, new.digest)
    await make_collection(town.qdrant, rebuilt, new, Schema("text").storage)
    mine = town.settings.model_copy(update={"collection": town.first, "keep_previous_hours": 0})
    qdrant, model = asyncio.Future[Qdrant](), asyncio.Future[ModelPool]()
    qdrant.set_result(town.qdrant)
    model.set_result(town.model)
    async with open_worker(mine, town.broker, qdrant, model):
        await cut_over(town.qdrant, rebuilt, town.names[0])
        await eventually(town.existing, {rebuilt.chunks, rebuilt.ledger}.isdisjoint)
    assert await find_collection(town.qdrant, town.first) == town.names[0]


async def test_one_collection_is_rebuilt_while_another_is_written(town: Town) -> None:
    """Jobs of the other one go on; jobs of the rebuilt one reach the new collection."""
    first, second = town.names
    new_schema = Schema("text")
    made_with = [fingerprint(town.model.info, schema) for schema in (Schema(), new_schema)]
    new = CollectionNames.of(first.alias, made_with[1].digest)
    await make_collection(town.qdrant, new, made_with[1], new_schema.storage)
    gate = Gate(town.broker.redis, town.broker.config, first.chunks)
    rebuild = Rebuild(
        StoredCollection.of(town.qdrant, first, made_with[0]),
        StoredCollection.of(town.qdrant, new, made_with[1]),
        town.model,
        reuse=True,
        at_once=4,
        display=NoDisplay(),
    )
    put = 0
    stopping = asyncio.Event()  # redis-py may lose a cancellation

    async def write_both() -> None:
        nonlocal put
        while not stopping.is_set():
            put += 1
            for collection in (first.alias, second.alias):
                text = f"Note {put} for {collection}."
                await town.client.submit(str(put), source="s", text=text, collection=collection)
            await asyncio.sleep(0.02)

    async with town.working(first.alias, second.alias) as running:
        writing = asyncio.create_task(write_both())
        await eventually(lambda: town.texts(first.chunks), lambda texts: len(texts) > 3)
        outcome = await reindex(rebuild, town.qdrant, town.broker.queue, gate, town.model, QUIET)
        assert isinstance(outcome, ReindexResult)
        assert await find_collection(town.qdrant, first.alias) == new
        [error] = await asyncio.gather(running, return_exceptions=True)
        assert isinstance(error, CollectionMismatch), "the worker of the old one stops"
        stopping.set()
        await writing
    old = await town.texts(first.chunks)
    async with town.working(second.alias):
        await eventually(
            lambda: town.broker.queue.count_jobs([second.alias]), lambda left: left.jobs == 0
        )
    assert await town.texts(first.chunks) == old
    renamed = town.settings.model_copy(update={"vector_name": "text"})
    successor = Town(town.broker, town.qdrant, town.model, renamed, town.names, town.client)
    async with successor.working(first.alias):
        await town.done()
    for alias, chunks in ((first.alias, new.chunks), (second.alias, second.chunks)):
        texts = await town.texts(chunks)
        assert (
            texts.items() >= {("", str(i)): f"Note {i} for {alias}." for i in range(1, put)}.items()
        )
        assert len(texts) in (put, put - 1)  # the last may not have been queued
    assert len(old) < put
