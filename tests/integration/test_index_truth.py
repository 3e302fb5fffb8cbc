"""However the work of several workers interleaves, the index ends equal to the newest versions.

Two workers process the same documents. Every request to Qdrant is a step. Hypothesis draws which
worker takes the next step, which one dies before or after its request was carried out, and which
one loses its lease and goes on all the same.
"""

import asyncio
import hashlib
import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from qdrant_client import AsyncQdrantClient

from ingestq.core.documents import Deletion, Document, Lane
from tests.sized import sized
from worker.blobs import BlobContents
from worker.embedding.config import Precision
from worker.pipeline.ingest import Outcome, Retry, Work, delete, ingest
from worker.pipeline.points import DocumentKey, Fence
from worker.pipeline.ports import Ports
from worker.store.chunks import QdrantStore
from worker.store.client import Request
from worker.store.collection import CollectionNames, open_collection
from worker.store.ledger import QdrantLedger
from worker.store.schema import Fingerprint
from worker.text.parts import (
    FileStat,
    PreparedDocument,
    Segment,
    SegmentStart,
    SizedText,
    UnchangedContent,
)

T = TypeVar("T")

SMALL = Fingerprint("test/small", "1", 2, 8, Precision.EXACT, "none", 1)
Change = Document | Deletion
DOC_IDS = "aab"
PART_WORDS = 2


class Memory:
    """Qdrant's local mode in memory."""

    def __init__(self) -> None:
        self.client = AsyncQdrantClient(":memory:")

    async def ask(self, request: Request[T]) -> T:
        return await request(self.client)


def words_at(text: str, start: int) -> Segment:
    """Return the next words of ``text`` from word ``start`` on."""
    end = start + PART_WORDS
    rest = SegmentStart(end, 0, False, "", FileStat(0, 0, 0)) if end < len(text.split()) else None
    return Segment.of(sized(text.split()[start:end]), rest=rest)


class Words:
    """A model that makes every word a chunk, and reads a document two words at a time."""

    async def prepare(
        self, lane: Lane, document: Document, known_hash: str | None
    ) -> PreparedDocument | UnchangedContent:
        assert document.text is not None
        content_hash = hashlib.sha1(document.text.encode()).hexdigest()
        if content_hash == known_hash:
            return UnchangedContent(content_hash)
        title = PurePath(document.source).name
        return PreparedDocument(content_hash, None, title, words_at(document.text, 0))

    async def prepare_rest(self, lane: Lane, document: Document, rest: SegmentStart) -> Segment:
        assert document.text is not None
        return words_at(document.text, rest.start)

    async def embed(self, lane: Lane, texts: Sequence[SizedText]) -> npt.NDArray[np.float32]:
        return np.array([[len(text.text), 1] for text in texts], np.float32)


@dataclass
class Worker:
    """A worker that stops before and after every request; ``steps`` are those it waits to take."""

    memory: Memory
    names: CollectionNames
    change: Change
    attempt: int
    restarted: bool = False
    steps: list[asyncio.Future[None]] = field(default_factory=list)
    task: "asyncio.Task[Outcome] | None" = None
    dead: bool = False

    async def ask(self, request: Request[T]) -> T:
        await self._step()
        answer = await self.memory.ask(request)
        await self._step()
        return answer

    async def _step(self) -> None:
        if self.dead:
            await asyncio.Event().wait()
        step: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.steps.append(step)
        await step

    def start(self) -> None:
        self.task = asyncio.create_task(self._work())

    async def _work(self) -> Outcome:
        ports = Ports(
            Words(),
            QdrantStore(self, self.names.chunks),
            QdrantLedger(self, self.names.ledger),
            BlobContents(),
        )
        if isinstance(self.change, Deletion):
            return await delete(self.change, self.attempt, ports)
        key = DocumentKey("", self.change.doc_id)
        entry = (await ports.ledger.look_up([key])).get(key)
        return await ingest(
            Work(self.change, entry, self.attempt, self.restarted), ports, lambda *_: None
        )

    def die(self) -> None:
        """Take no further step."""
        assert self.task is not None
        self.dead = True
        self.task.cancel()

    @property
    def ended(self) -> bool:
        return self.task is not None and self.task.done()


class Run:
    """A queue of changes, and the workers that process it."""

    def __init__(self, memory: Memory, names: CollectionNames, changes: Sequence[Change]) -> None:
        self.memory = memory
        self.names = names
        self.queue = [(change, False) for change in changes]
        self.workers: list[Worker] = []
        self.died: list[Worker] = []  # kept, so that their tasks are not collected at random
        self.attempts = itertools.count(1)
        self.faults_left = 8  # deaths and lost leases, after which workers may finish

    async def to_the_end(self, draw: Any) -> None:
        while True:
            while self.queue and len(self.workers) < 2:
                self._start()
            await self._run_until_idle()
            for worker in [worker for worker in self.workers if worker.ended]:
                self.workers.remove(worker)
                assert worker.task is not None
                if not worker.dead and isinstance(worker.task.result(), Retry):
                    self.queue.append((worker.change, worker.restarted))
            if not self.workers and not self.queue:
                return
            if self.workers:
                await self._move(draw)

    async def _move(self, draw: Any) -> None:
        """Let one worker take some steps, die, or lose its lease and go on all the same."""
        worker = self.workers[draw(st.integers(0, len(self.workers) - 1))]
        event = (
            draw(st.sampled_from(["steps"] * 4 + ["die", "zombie"]))
            if self.faults_left
            else "steps"
        )
        if event != "steps":
            self.faults_left -= 1
            self.queue.insert(0, (worker.change, True))
        if event == "die":
            worker.die()
            self.workers.remove(worker)
            self.died.append(worker)
        elif event == "zombie" and len(self.workers) < 4:
            self._start()
        for _ in range(draw(st.integers(1, 24))):
            if worker.steps and not worker.dead:
                worker.steps.pop(0).set_result(None)
                await self._run_until_idle()

    def _start(self) -> None:
        change, restarted = self.queue.pop(0)
        worker = Worker(self.memory, self.names, change, next(self.attempts), restarted)
        worker.start()
        self.workers.append(worker)

    async def _run_until_idle(self) -> None:
        """Let every worker run until it waits for a step."""
        for _ in range(8):
            await asyncio.sleep(0)


words = st.lists(st.sampled_from(["tide", "goose", "lamp", "bread"]), min_size=1, max_size=4)


@st.composite
def histories(draw: Any) -> list[Change]:
    """Draw versions of documents in order of arrival; some arrive twice."""
    changes: list[Change] = []
    for version in range(1, draw(st.integers(2, 6)) + 1):
        doc_id = draw(st.sampled_from(DOC_IDS))
        if draw(st.integers(0, 3)) == 0:
            changes.append(Deletion(doc_id=doc_id, version=version))
        else:
            text = " ".join(draw(words))
            changes.append(Document(doc_id=doc_id, version=version, source=doc_id, text=text))
    again = draw(st.lists(st.sampled_from(changes), max_size=2))
    return list(draw(st.permutations([*changes, *again])))


def newest(changes: Sequence[Change]) -> dict[str, Document]:
    """Return the documents that the index has to hold, by id."""
    last = {change.doc_id: change for change in sorted(changes, key=lambda c: c.version)}
    return {doc_id: c for doc_id, c in last.items() if isinstance(c, Document)}


async def check(memory: Memory, names: CollectionNames, changes: Sequence[Change]) -> None:
    expected = {
        (document.doc_id, index, word)
        for document in newest(changes).values()
        for index, word in enumerate((document.text or "").split())
    }
    records, _ = await memory.client.scroll(names.chunks, limit=100, with_payload=True)
    payloads = [record.payload or {} for record in records]
    held = Counter((p["doc_id"], p["chunk_index"], p["page_content"]) for p in payloads)
    assert held == Counter(expected)
    ledger = QdrantLedger(memory, names.ledger)
    assert await ledger.count() == len(newest(changes))
    entries = await ledger.look_up(DocumentKey("", doc_id) for doc_id in DOC_IDS)
    for entry in entries.values():
        versions = [change.version for change in changes if change.doc_id == entry.doc_id]
        assert entry.version == max(versions)
        fences = [
            Fence(p["version"], p["attempt"]) for p in payloads if p["doc_id"] == entry.doc_id
        ]
        assert fences == [entry.chunks_fence] * entry.chunks


@pytest.mark.timeout(600)
@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(changes=histories(), data=st.data())
def test_the_index_ends_equal_to_the_newest_versions(
    changes: list[Change], data: st.DataObject
) -> None:
    async def play() -> None:
        memory = Memory()
        names = await open_collection(memory, "documents", SMALL)
        await Run(memory, names, changes).to_the_end(data.draw)
        await check(memory, names, changes)
        await memory.client.close()

    with asyncio.Runner() as runner:
        runner.run(play())


ORIGINAL = "tide goose"
OLDER = "tide lamp bread"
NEWER = "tide bread"
STEPS = 34
"""More than a worker needs for a document."""


def change_to(text: str | None, version: int) -> Change:
    if text is None:
        return Deletion(doc_id="a", version=version)
    return Document(doc_id="a", version=version, source="a", text=text)


async def advance(worker: Worker, steps: int) -> None:
    """Let ``worker`` take up to ``steps`` steps."""
    if worker.task is None:
        worker.start()
    while not worker.ended and steps:
        for _ in range(8):
            await asyncio.sleep(0)
        if worker.steps:
            worker.steps.pop(0).set_result(None)
            steps -= 1


async def overtaken(older: Change, newer: Change, at: int, *, first: bool) -> None:
    """Stop a worker on ``older`` after ``at`` steps, and let it go on when ``newer`` is done."""
    memory = Memory()
    names = await open_collection(memory, "documents", SMALL)
    changes = [] if first else [change_to(ORIGINAL, 1)]
    for attempt, change in enumerate(changes, 1):
        await advance(Worker(memory, names, change, attempt), 1000)
    stopped = Worker(memory, names, older, 2)
    await advance(stopped, at)
    await advance(Worker(memory, names, newer, 3), 1000)
    await advance(stopped, 1000)
    await check(memory, names, [*changes, newer])
    await memory.client.close()


@pytest.mark.parametrize("first", [True, False], ids=["new document", "known document"])
@pytest.mark.parametrize("newer", [NEWER, None], ids=["then put", "then deleted"])
@pytest.mark.parametrize("older", [OLDER, None], ids=["put", "deleted"])
async def test_an_overtaken_worker_changes_nothing(
    older: str | None, newer: str | None, first: bool
) -> None:
    for at in range(STEPS):
        await overtaken(change_to(older, 2), change_to(newer, 3), at, first=first)


@pytest.mark.parametrize("newer", [NEWER, None], ids=["then put", "then deleted"])
async def test_an_overtaken_worker_that_dies_leaves_nothing_behind(
    newer: str | None,
) -> None:
    older, last = change_to(OLDER, 2), change_to(newer, 3)
    for at, then in itertools.product(range(0, STEPS, 2), range(1, STEPS, 2)):
        memory = Memory()
        names = await open_collection(memory, "documents", SMALL)
        await advance(Worker(memory, names, change_to(ORIGINAL, 1), 1), 1000)
        victim, winner = Worker(memory, names, older, 2), Worker(memory, names, last, 3)
        await advance(victim, at)
        await advance(winner, then)
        await advance(victim, 4)
        victim.die()
        await advance(winner, 1000)
        await advance(Worker(memory, names, older, 4, restarted=True), 1000)
        await check(memory, names, [last])
        await memory.client.close()


@pytest.mark.parametrize("newer", [NEWER, None], ids=["then put", "then deleted"])
async def test_workers_on_two_versions_never_mix_them(newer: str | None) -> None:
    """The older one ends while the newer one waits. One version is complete at any time, unless the
    document is being deleted."""
    for at, then in itertools.product(range(0, STEPS, 2), range(STEPS)):
        memory = Memory()
        names = await open_collection(memory, "documents", SMALL)
        await advance(Worker(memory, names, change_to(ORIGINAL, 1), 1), 1000)
        first = Worker(memory, names, change_to(OLDER, 2), 2)
        second = Worker(memory, names, change_to(newer, 3), 3)
        await advance(first, at)
        await advance(second, then)
        await advance(first, 1000)
        if newer is not None:
            found = await words_of(memory, names)
            assert any(found >= set(text.split()) for text in (ORIGINAL, OLDER, newer))
        await advance(second, 1000)
        await check(memory, names, [change_to(newer, 3)])
        await memory.client.close()


async def words_of(memory: Memory, names: CollectionNames) -> set[str]:
    """Return the words that a search can find."""
    records, _ = await memory.client.scroll(names.chunks, limit=100, with_payload=True)
    return {(record.payload or {})["page_content"] for record in records}


async def test_of_two_workers_on_one_version_the_later_attempt_wins() -> None:
    """As when a file changed between their reads."""
    for at in range(STEPS):
        await overtaken(change_to(OLDER, 2), change_to(NEWER, 2), at, first=False)


@pytest.mark.parametrize("then", [OLDER, NEWER, None], ids=["retried", "edited", "deleted"])
@pytest.mark.parametrize("text", [OLDER, None], ids=["put", "deleted"])
async def test_a_worker_that_dies_leaves_nothing_behind(text: str | None, then: str | None) -> None:
    for at in range(STEPS):
        memory = Memory()
        names = await open_collection(memory, "documents", SMALL)
        await advance(Worker(memory, names, change_to(ORIGINAL, 1), 1), 1000)
        victim = Worker(memory, names, change_to(text, 2), 2)
        await advance(victim, at)
        victim.die()
        last = change_to(then, 2 if then == text else 3)
        await advance(Worker(memory, names, last, 3), 1000)
        await check(memory, names, [last])
        await memory.client.close()


def test_newest_picks_the_highest_version() -> None:
    one = Document(doc_id="a", version=1, source="a", text="x")
    two = msgspec.structs.replace(one, version=2, text="y")
    assert newest([two, one]) == {"a": two}
    assert newest([one, Deletion(doc_id="a", version=3), two]) == {}
