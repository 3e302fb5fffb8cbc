"""However a rebuild is interrupted, the new collection ends equal to the live one.

A rebuild takes its requests to Qdrant one by one. It dies after any of them and is begun anew, or
waits while a worker changes the live collection.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingestq.core.display import NoDisplay
from ingestq.core.documents import Deletion, Document, Lane
from ingestq.core.versions import FIRST_ISSUED
from tests.examples import few_or_many
from tests.integration.test_index_truth import (
    SMALL,
    Change,
    Memory,
    Words,
    Worker,
    advance,
    histories,
    newest,
)
from tests.sized import chunks_of
from worker.embedding.config import Precision
from worker.maintenance.reindex import Rebuild, StoredCollection
from worker.pipeline.ingest import Outcome, Superseded, Unchanged
from worker.pipeline.points import Digest, DocumentKey, EntryState, Fence
from worker.store.collection import CollectionNames, make_collection, open_collection
from worker.store.ledger import QdrantLedger
from worker.store.schema import DEFAULT_STORAGE, Fingerprint
from worker.text.parts import PreparedDocument, Segment, UnchangedContent

OTHER = Fingerprint("test/small", "1", 2, 9, Precision.EXACT, "none", 1)
NEW = CollectionNames.of("documents", OTHER.digest)
pytestmark = pytest.mark.leaves_tasks
TO_THE_END = 10_000
FIRST = "FIRST"
STEPS = 32
"""More than a rebuild of `HISTORY` takes."""
HISTORY: Sequence[Change] = (
    Document(doc_id="a", version=1, source="a", text="tide goose"),
    Document(doc_id="b", version=2, source="b", text="lamp", metadata={"page": 3}),
    Deletion(doc_id="b", version=3),
)


class CapitalWords(Words):
    """A model with the chunks of `Words` in capitals, after an extra first chunk."""

    first = FIRST

    async def prepare(
        self, lane: Lane, document: Document, known_hash: str | None
    ) -> PreparedDocument | UnchangedContent:
        prepared = await super().prepare(lane, document, known_hash)
        assert isinstance(prepared, PreparedDocument)
        assert document.text is not None
        chunks = (self.first, *document.text.upper().split())
        return PreparedDocument(
            prepared.content_hash, prepared.file, prepared.title, Segment.of(chunks_of(chunks))
        )


class ChangedWords(CapitalWords):
    """The same model with another first chunk, as if the source had changed."""

    first = "OTHERWISE"


@dataclass
class Builder(Worker):
    """A process that makes one pass of a rebuild."""

    change: Change = field(default=HISTORY[0])
    attempt: int = 0
    model: Words = field(default_factory=CapitalWords)

    async def _work(self) -> Outcome:
        live, new = (
            StoredCollection.of(self, self.names, SMALL),
            StoredCollection.of(self, NEW, OTHER),
        )
        rebuild = Rebuild(live, new, self.model, reuse=False, at_once=2, display=NoDisplay())
        seen = await rebuild.catch_up()
        assert not seen.failed
        return Unchanged()


async def prepared(changes: Sequence[Change]) -> tuple[Memory, CollectionNames]:
    """Return a live collection after ``changes``, and an empty new one."""
    memory = Memory()
    names = await open_collection(memory, "documents", SMALL)
    await make_collection(memory, NEW, OTHER, DEFAULT_STORAGE)
    for attempt, change in enumerate(changes, 1):
        await advance(Worker(memory, names, change, attempt), TO_THE_END)
    return memory, names


async def check(memory: Memory, names: CollectionNames, changes: Sequence[Change]) -> None:
    """Check that the new collection holds what the live one does, chunked by the new model."""
    documents = newest(changes).values()
    expected = Counter(
        (document.doc_id, index, word.upper())
        for document in documents
        for index, word in enumerate([FIRST, *(document.text or "").split()])
    )
    records, _ = await memory.client.scroll(NEW.chunks, limit=100, with_payload=True)
    payloads: list[Any] = [record.payload for record in records]
    held = Counter((p["doc_id"], p["chunk_index"], p["page_content"]) for p in payloads)
    assert held == expected
    mine, theirs = QdrantLedger(memory, NEW.ledger), QdrantLedger(memory, names.ledger)
    live = [entry async for entries in theirs.entries() for entry in entries]
    new = await mine.look_up(entry.key for entry in live)
    for entry in live:
        copy = new[entry.key]
        order = ("version", "attempt", "queued", "own", "deleted_at")
        same = (*order, "state", "content_hash", "source", "metadata", "file", "folders")
        assert [getattr(copy, name) for name in same] == [getattr(entry, name) for name in same]
        stored = [p for p in payloads if p["doc_id"] == entry.doc_id]
        fences = [Fence(p["version"], p["attempt"], p["epoch"]) for p in stored]
        assert fences == [copy.chunks_fence] * copy.chunks
    assert await memory.client.count(NEW.ledger) == await memory.client.count(names.ledger)
    await memory.client.close()


async def test_a_rebuild_keeps_the_order_of_own_versions_and_deletions() -> None:
    five = Document(doc_id="a", version=5, queued=FIRST_ISSUED + 1, source="a", text="tide")
    deleted = Deletion(doc_id="a", version=FIRST_ISSUED + 2)
    six = msgspec.structs.replace(five, version=6, queued=FIRST_ISSUED + 3, text="goose lamp")
    for changes in ((five, deleted), (five, deleted, six)):
        memory, names = await prepared(changes)
        for _ in range(2):  # the second finds nothing to copy
            await advance(Builder(memory, names), TO_THE_END)
        late = msgspec.structs.replace(five, version=7)
        for at in (names, NEW):
            worker = Worker(memory, at, late, 9)
            await advance(worker, TO_THE_END)
            assert worker.task is not None
            assert worker.task.result() == Superseded()
            entry = await QdrantLedger(memory, at.ledger).look_up([DocumentKey("", "a")])
            assert [found.state for found in entry.values()] == [EntryState.DELETED]
        assert await memory.client.count(NEW.chunks) == await memory.client.count(names.chunks)
        await memory.client.close()


async def test_a_killed_rebuild_is_completed_by_the_next() -> None:
    for at in range(STEPS):
        memory, names = await prepared(HISTORY)
        victims = [Builder(memory, names), Builder(memory, names)]
        for victim in victims:
            await advance(victim, at)
            victim.die()
        await advance(Builder(memory, names), TO_THE_END)
        await check(memory, names, HISTORY)


async def test_chunks_of_two_readings_of_a_document_are_not_mixed() -> None:
    """The source exists before the rebuild dies, and is gone after it."""
    for at in range(STEPS):
        memory, names = await prepared(HISTORY)
        victim = Builder(memory, names, model=ChangedWords())
        await advance(victim, at)
        victim.die()
        await advance(Builder(memory, names), TO_THE_END)
        records, _ = await memory.client.scroll(NEW.chunks, limit=100)
        digest = Digest()
        for record in records:
            digest.add(str(record.id))
        key = DocumentKey("", "a")
        entry = (await QdrantLedger(memory, NEW.ledger).look_up([key]))[key]
        assert (entry.chunks, entry.chunks_digest) == (len(records), str(digest))
        await memory.client.close()


@pytest.mark.parametrize(
    "change",
    [
        Document(doc_id="a", version=9, source="a", text="goose bread"),
        Document(doc_id="b", version=9, source="b", text="goose"),
        Document(doc_id="a", version=9, source="a", text="tide goose"),
        Deletion(doc_id="a", version=9),
        Document(doc_id="c", version=9, source="c", text="rope"),
    ],
    ids=["edited", "comes back", "unchanged", "deleted", "new"],
)
async def test_changes_during_a_rebuild_reach_both_collections(change: Change) -> None:
    for at in range(STEPS):
        memory, names = await prepared(HISTORY)
        builder = Builder(memory, names)
        await advance(builder, at)
        await advance(Worker(memory, names, change, 9), TO_THE_END)
        await advance(builder, TO_THE_END)
        await advance(Builder(memory, names), TO_THE_END)
        await check(memory, names, [*HISTORY, change])


@pytest.mark.timeout(600)
@few_or_many(40, 400)
def test_the_new_collection_ends_equal_to_the_live_one(examples: int) -> None:
    async def play(changes: list[Change], data: st.DataObject) -> None:
        memory, names = await prepared(())
        builder = Builder(memory, names)
        died = [builder]  # kept: what they left undone must not vanish at random
        for attempt, change in enumerate(changes, 1):
            worker = Worker(memory, names, change, attempt)
            while not worker.ended:
                await advance(worker, data.draw(st.integers(1, 24)))
                await advance(builder, data.draw(st.integers(0, 24)))
                if builder.ended or data.draw(st.integers(0, 4)) == 0:
                    builder.die()
                    builder = Builder(memory, names)
                    died.append(builder)
        if builder.task is not None:
            builder.die()
        await advance(Builder(memory, names), TO_THE_END)
        await check(memory, names, changes)

    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    @given(changes=histories(), data=st.data())
    def ends_equal(changes: list[Change], data: st.DataObject) -> None:
        with asyncio.Runner() as runner:
            runner.run(play(changes, data))

    ends_equal()


async def test_documents_that_are_being_written_are_copied_in_a_later_pass() -> None:
    memory, names = await prepared(HISTORY)
    writer = Worker(memory, names, Document(doc_id="a", version=9, source="a", text="rope"), 9)
    ledger = QdrantLedger(memory, names.ledger)
    key = DocumentKey("", "a")
    while (await ledger.look_up([key]))[key].state is not EntryState.WRITING:
        await advance(writer, 1)
    await advance(Builder(memory, names), TO_THE_END)
    assert not await QdrantLedger(memory, NEW.ledger).look_up([key])
    await advance(writer, TO_THE_END)
    await advance(Builder(memory, names), TO_THE_END)
    await check(memory, names, [*HISTORY, writer.change])
