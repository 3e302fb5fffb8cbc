"""However a rebuild is interrupted, the new collection ends equal to the live one.

A rebuild takes its requests to Qdrant one by one. It dies after any of them and is begun anew, or
waits while a worker changes the live collection.
"""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingestq.core.display import NoDisplay
from ingestq.core.documents import Deletion, Document, Lane
from ingestq.core.versions import FIRST_ISSUED
from tests.examples import few_or_many
from tests.integration.test_index_truth import (
    REFUSED,
    SMALL,
    Change,
    Memory,
    Words,
    Worker,
    advance,
    histories,
    newest,
    text_of,
    words,
)
from tests.sized import chunks_of
from worker.embedding.config import Precision
from worker.maintenance.cut_over import PREVIOUS, remove_expired
from worker.maintenance.reindex import Rebuild, StoredCollection, make_target
from worker.pipeline.ingest import Outcome, Superseded, Unchanged
from worker.pipeline.points import Digest, DocumentKey, EntryState, Fence
from worker.store.collection import CollectionNames, make_collection, open_collection, point_alias
from worker.store.ledger import QdrantLedger
from worker.store.schema import DEFAULT_STORAGE, Fingerprint
from worker.text.parts import PreparedDocument, Segment, SizedText, UnchangedContent

OTHER = Fingerprint("test/small", "1", 2, 9, Precision.EXACT, "none", 1)
NEW = CollectionNames.of("documents", OTHER.digest)
pytestmark = pytest.mark.leaves_tasks
TO_THE_END = 10_000
FIRST = "FIRST"
STEPS = 32
"""More than a rebuild of `HISTORY` takes."""
STEPS_OF_REMOVAL = 10
"""More than a removal of the previous collection takes."""
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
        chunks = (self.first, *text_of(document).upper().split())
        return PreparedDocument(
            prepared.content_hash, prepared.file, prepared.title, Segment.of(chunks_of(chunks))
        )


class ChangedWords(CapitalWords):
    """The same model with another first chunk, as if the source had changed."""

    first = "OTHERWISE"


@dataclass
class Builder(Worker):
    """A process that makes one pass of a rebuild; all that it takes if it is ``idle``."""

    change: Change = field(default=HISTORY[0])
    attempt: int = 0
    model: Words = field(default_factory=CapitalWords)
    idle: bool = False

    async def _work(self) -> Outcome:
        live, new = (
            StoredCollection.of(self, self.names, SMALL),
            StoredCollection.of(self, NEW, OTHER),
        )
        rebuild = Rebuild(live, new, self.model, reuse=False, at_once=2, display=NoDisplay())
        seen = await rebuild.catch_up(idle=self.idle)
        assert not seen.failed
        while self.idle and seen.changed:
            seen = await rebuild.catch_up(idle=True)
            assert not seen.failed
        assert not self.idle or await rebuild.check_count(seen) is None
        return Unchanged()


class Remover(Worker):
    """A process that removes the previous collection, which has expired."""

    async def _work(self) -> Outcome:
        await remove_expired(self, "documents", 0)
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


@pytest.mark.parametrize("goes_back", [False, True], ids=["next removal", "next rebuild"])
async def test_a_killed_removal_of_the_previous_collection_is_completed(goes_back: bool) -> None:
    """By the next removal, or by a rebuild that would fill that collection again."""
    for at in range(STEPS_OF_REMOVAL):
        memory, names = await prepared(HISTORY)
        await advance(Builder(memory, names), TO_THE_END)
        previous = point_alias(f"documents{PREVIOUS}", NEW)
        await memory.client.update_collection_aliases([previous])
        change = Document(doc_id="a", version=9, source="a", text="rope")
        await advance(Worker(memory, names, change, 9), TO_THE_END)
        victim = Remover(memory, names, change, 0)
        await advance(victim, at)
        victim.die()
        if goes_back:
            await make_target(memory, NEW, OTHER, DEFAULT_STORAGE)
            await advance(Builder(memory, names), TO_THE_END)
            await check(memory, names, [*HISTORY, change])
        else:
            await advance(Remover(memory, names, change, 0), TO_THE_END)
            existing = (await memory.client.get_collections()).collections
            assert {one.name for one in existing} == {names.chunks, names.ledger}
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
@few_or_many(40, 200)
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


async def payloads_of(memory: Memory, names: CollectionNames, doc_id: str) -> list[Any]:
    records, _ = await memory.client.scroll(names.chunks, limit=100, with_payload=True)
    payloads: list[Any] = [record.payload for record in records]
    return [payload for payload in payloads if payload["doc_id"] == doc_id]


async def check_ended(
    memory: Memory, names: CollectionNames, texts: Mapping[int, str] | None = None
) -> None:
    """Check that the new collection has everything that is stored in the live one.

    No job is left that would finish the documents whose entry is unfinished. A version that was
    being written may be there completely if it has the text of one before: ``texts`` has them.
    """
    theirs = QdrantLedger(memory, names.ledger)
    live = [entry async for entries in theirs.entries() for entry in entries]
    new = await QdrantLedger(memory, NEW.ledger).look_up(entry.key for entry in live)
    for entry in live:
        copy, stored = new[entry.key], await payloads_of(memory, names, entry.doc_id)
        order = ("version", "attempt", "queued", "own", "deleted_at", "source")
        assert [getattr(copy, name) for name in order] == [getattr(entry, name) for name in order]
        state, stale = entry.state, entry.stale
        words_stored = [payload["page_content"] for payload in stored]
        match entry.state:
            case EntryState.CLEARING:
                state = EntryState.INDEXED
                own = [p for p in stored if fence_of(p) == entry.chunks_fence]
                words_stored = [payload["page_content"] for payload in own]
            case EntryState.DELETING:
                state, stale, words_stored = EntryState.DELETED, None, []
            case EntryState.WRITING if texts is not None and copy.indexed:
                state = EntryState.INDEXED
                words_stored = texts[entry.version].split()
        if copy.indexed and stale is not None and stale.version <= entry.version:
            stale = None
        assert (copy.state, copy.stale) == (state, stale)
        is_empty = state is EntryState.DELETED or (state is EntryState.WRITING and not stored)
        expected = [word.upper() for word in words_stored] + [FIRST] * (not is_empty)
        copied = await payloads_of(memory, NEW, entry.doc_id)
        assert Counter(p["page_content"] for p in copied) == Counter(expected)
        assert [fence_of(payload) for payload in copied] == [copy.chunks_fence] * copy.chunks


def fence_of(payload: Any) -> Fence:
    return Fence(payload["version"], payload["attempt"], payload["epoch"])


BROKEN = Document(
    doc_id="a", version=9, source="new", text=f"tide lamp {REFUSED}", metadata={"page": 2}
)
"""Its first words are stored before the last one is refused."""


async def test_text_stays_whose_newer_version_was_rejected_while_it_was_written() -> None:
    for at in range(0, STEPS + 20, 2):
        memory, names = await prepared((*HISTORY, BROKEN))
        await advance(Builder(memory, names), TO_THE_END)
        assert not await payloads_of(memory, NEW, "a")  # a worker might be writing it
        victim = Builder(memory, names, idle=True)
        await advance(victim, at)
        victim.die()
        await advance(last := Builder(memory, names, idle=True), TO_THE_END)
        assert last.task is not None
        assert last.task.result() == Unchanged()
        await check_ended(memory, names)
        copied = await payloads_of(memory, NEW, "a")
        assert {p["page_content"] for p in copied} == {FIRST, "TIDE", "GOOSE", "LAMP"}
        assert [(p["source"], p["metadata"]) for p in copied] == [
            ("a", {"title": "a", "source": "a"})
        ] * 4
        again = Worker(memory, NEW, msgspec.structs.replace(BROKEN, text="tide lamp"), 9)
        await advance(again, TO_THE_END)
        copied = await payloads_of(memory, NEW, "a")
        assert {p["page_content"] for p in copied} == {"tide", "lamp"}
        assert await QdrantLedger(memory, NEW.ledger).count_stale() == 0
        await memory.client.close()


@pytest.mark.parametrize("then", ["accepted", "refused", "edited", "gone"])
async def test_a_version_that_was_not_written_is_read_again(then: str, tmp_path: Path) -> None:
    path = tmp_path / "a"
    file = Document(doc_id="a", version=1, source="a", path=str(path))
    path.write_text("tide goose")
    memory, names = await prepared((file,))
    path.write_text(f"tide lamp {REFUSED}")
    await advance(Worker(memory, names, msgspec.structs.replace(file, version=2), 2), TO_THE_END)
    model = CapitalWords() if then == "accepted" else Picky()
    if then == "edited":
        path.write_text("bread")
    elif then == "gone":
        path.unlink()
    for _ in range(2):
        await advance(builder := Builder(memory, names, model=model, idle=True), TO_THE_END)
        assert builder.task is not None
        assert builder.task.result() == Unchanged()
    copied = {p["page_content"] for p in await payloads_of(memory, NEW, "a")}
    ledger = QdrantLedger(memory, NEW.ledger)
    [entry] = (await ledger.look_up([DocumentKey("", "a")])).values()
    if then == "accepted":
        assert copied == {FIRST, "TIDE", "LAMP", REFUSED.upper()}
        assert (entry.state, entry.stale) == (EntryState.INDEXED, None)
    else:
        assert copied == {FIRST, "TIDE", "GOOSE", "LAMP"}
        await check_ended(memory, names)
    await memory.client.close()


class Picky(CapitalWords):
    """The same model, which cannot embed the word `REFUSED` either."""

    async def embed(self, lane: Lane, texts: Sequence[SizedText]) -> npt.NDArray[np.float32]:
        lowered = [text._replace(text=text.text.lower()) for text in texts]
        return await super().embed(lane, lowered)


@st.composite
def failing_histories(draw: Any) -> list[Change]:
    """Draw versions of documents in order of arrival; some cannot be embedded."""
    changes: list[Change] = []
    for version in range(1, draw(st.integers(2, 6)) + 1):
        doc_id = draw(st.sampled_from("aab"))
        text = " ".join([*draw(words), *([REFUSED] if draw(st.integers(0, 3)) == 0 else [])])
        deletion = Deletion(doc_id=doc_id, version=version)
        document = Document(doc_id=doc_id, version=version, source=doc_id, text=text)
        changes.append(deletion if draw(st.integers(0, 3)) == 0 else document)
    return changes


@pytest.mark.timeout(600)
@few_or_many(25, 200)
def test_nothing_is_lost_that_dead_workers_and_rejected_versions_left(examples: int) -> None:
    async def play(changes: list[Change], data: st.DataObject) -> None:
        memory, names = await prepared(())
        died: list[Worker] = []  # kept, as above
        for attempt, change in enumerate(changes, 1):
            worker = Worker(memory, names, change, attempt)
            steps = data.draw(st.just(TO_THE_END) | st.integers(1, 40))
            await advance(worker, steps)
            if data.draw(st.booleans()):
                died.append(Builder(memory, names))
                await advance(died[-1], data.draw(st.integers(1, 60)))
                died[-1].die()
            worker.die()
            died.append(worker)
        died.append(Builder(memory, names, idle=True))
        await advance(died[-1], data.draw(st.integers(0, 60)))
        died[-1].die()
        last = Builder(memory, names, idle=True)
        await advance(last, TO_THE_END)
        assert last.task is not None
        assert last.task.result() == Unchanged()
        texts = {c.version: c.text or "" for c in changes if isinstance(c, Document)}
        await check_ended(memory, names, texts)
        await memory.client.close()

    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    @given(changes=failing_histories(), data=st.data())
    def nothing_is_lost(changes: list[Change], data: st.DataObject) -> None:
        with asyncio.Runner() as runner:
            runner.run(play(changes, data))

    nothing_is_lost()
