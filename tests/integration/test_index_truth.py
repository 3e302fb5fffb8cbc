"""However the work of several workers interleaves, the index ends equal to the newest versions.

Two workers process the same documents. Every request to Qdrant is a step. Hypothesis draws which
worker takes the next step, which one dies before or after its request was carried out, and which
one loses its lease and goes on all the same.
"""

import asyncio
import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from qdrant_client import AsyncQdrantClient

from ingestq.core.documents import Deletion, Document, Lane
from ingestq.core.errors import CollectionMissing, DocumentRejected
from ingestq.core.versions import FIRST_ISSUED, is_issued
from tests.examples import few_or_many
from tests.sized import chunks_of
from worker.blobs import BlobContents
from worker.embedding.config import Precision
from worker.pipeline.ingest import Outcome, Rejected, Retry, Work, delete, ingest
from worker.pipeline.points import DocumentKey, Fence, Rejection
from worker.pipeline.ports import Ports
from worker.store.chunks import QdrantStore
from worker.store.client import Request
from worker.store.collection import CollectionNames, open_collection
from worker.store.ledger import QdrantLedger
from worker.store.schema import Fingerprint
from worker.text.parts import (
    ExtractedDocument,
    FileStat,
    PreparedDocument,
    Segment,
    SegmentStart,
    SizedText,
    UnchangedContent,
)

T = TypeVar("T")

pytestmark = pytest.mark.leaves_tasks
SMALL = Fingerprint("test/small", "1", 2, 8, Precision.EXACT, "none", 1)
Change = Document | Deletion
DOC_IDS = "aab"
PART_WORDS = 2
NO_COLLECTION = re.compile(r"Collection \S+ not found")
DAMAGED = "*"
"""The text of a document that is rejected."""
REFUSED = "refused"
"""A word that cannot be embedded."""


class Memory:
    """Qdrant's local mode in memory."""

    def __init__(self) -> None:
        self.client = AsyncQdrantClient(":memory:")

    async def ask(self, request: Request[T]) -> T:
        try:
            return await request(self.client)
        except ValueError as error:  # it has no error of its own for this
            if NO_COLLECTION.fullmatch(str(error)):
                raise CollectionMissing(str(error)) from error
            raise


def text_of(document: Document) -> str:
    """Return what a document says; a file is read anew each time."""
    if document.text is not None:
        return document.text
    assert document.path is not None
    try:
        return Path(document.path).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise DocumentRejected("the file is gone") from error


def words_at(text: str, start: int) -> Segment:
    """Return the next words of ``text`` from word ``start`` on."""
    end = start + PART_WORDS
    rest = SegmentStart(end, 0, False, FileStat(0, 0, 0)) if end < len(text.split()) else None
    return Segment.of(chunks_of(text.split()[start:end]), rest=rest)


class Words:
    """A model that makes every word a chunk, and reads a document two words at a time."""

    async def prepare(
        self, lane: Lane, document: Document, known_hash: str | None
    ) -> PreparedDocument | UnchangedContent:
        text = text_of(document)
        content_hash = hashlib.sha1(text.encode()).hexdigest()
        if text == DAMAGED:
            raise DocumentRejected("it is damaged")
        if content_hash == known_hash:
            return UnchangedContent(content_hash)
        title = PurePath(document.source).name
        return PreparedDocument(content_hash, None, title, words_at(text, 0))

    async def prepare_rest(self, lane: Lane, document: Document, rest: SegmentStart) -> Segment:
        return words_at(text_of(document), rest.start)

    async def prepare_stored(
        self, lane: Lane, document: Document, stored: ExtractedDocument
    ) -> PreparedDocument:
        text = " ".join(part.text for part in stored.parts)
        inline = msgspec.structs.replace(document, text=text, path=None)
        prepared = await self.prepare(lane, inline, None)
        assert isinstance(prepared, PreparedDocument)
        return prepared

    async def embed(self, lane: Lane, texts: Sequence[SizedText]) -> npt.NDArray[np.float32]:
        if any(text.text == REFUSED for text in texts):
            raise DocumentRejected("it cannot be embedded")
        return np.array([[len(text.text), 1] for text in texts], np.float32)


@dataclass(eq=False)
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
        work = Work(self.change, entry, self.attempt, self.restarted)
        try:
            return await ingest(work, ports, lambda *_: None)
        except DocumentRejected as error:
            rejection = Rejection(self.change.version, self.attempt, str(error))
            await ports.ledger.reject({key: rejection})
            return Rejected(str(error))

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
        self.overtaken: list[Worker] = []  # their outcomes do not count
        self.rejected: list[Change] = []

    async def to_the_end(self, draw: Any) -> None:
        while True:
            while self.queue and len(self.workers) < 2:
                self._start()
            await self._run_until_idle()
            for worker in [worker for worker in self.workers if worker.ended]:
                self.workers.remove(worker)
                assert worker.task is not None
                if worker.dead or worker in self.overtaken:
                    continue
                match worker.task.result():
                    case Retry():
                        self.queue.append((worker.change, worker.restarted))
                    case Rejected():
                        self.rejected.append(worker.change)
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
            if worker not in self.overtaken:  # else its job is somebody else's already
                self.overtaken.append(worker)
                self.queue.insert(0, (worker.change, True))
        if event == "die":
            worker.die()
            self.workers.remove(worker)
            self.died.append(worker)
        elif event == "zombie" and self.queue and len(self.workers) < 4:
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
            text = DAMAGED if draw(st.integers(0, 3)) == 0 else " ".join(draw(words))
            changes.append(Document(doc_id=doc_id, version=version, source=doc_id, text=text))
    again = draw(st.lists(st.sampled_from(changes), max_size=2))
    return list(draw(st.permutations([*changes, *again])))


def is_rejected(change: Change) -> bool:
    return isinstance(change, Document) and change.text == DAMAGED


def newest(changes: Sequence[Change]) -> dict[str, Document]:
    """Return the documents that the index has to hold, by id."""
    good = [change for change in changes if not is_rejected(change)]
    last = {change.doc_id: change for change in sorted(good, key=lambda c: c.version)}
    return {doc_id: c for doc_id, c in last.items() if isinstance(c, Document)}


def stale(changes: Sequence[Change]) -> dict[str, int]:
    """Return the documents of which a newer version was rejected, and that version."""
    rejected = [change for change in changes if is_rejected(change)]
    last = {change.doc_id: change.version for change in sorted(rejected, key=lambda c: c.version)}
    return {
        doc_id: last[doc_id]
        for doc_id, document in newest(changes).items()
        if last.get(doc_id, 0) > document.version
    }


async def check(
    memory: Memory, names: CollectionNames, changes: Sequence[Change], *, in_order: bool = True
) -> None:
    await check_documents(memory, names, newest(changes))
    ledger = QdrantLedger(memory, names.ledger)
    entries = await ledger.look_up(DocumentKey("", doc_id) for doc_id in DOC_IDS)
    for entry in entries.values():
        versions = [
            change.version
            for change in changes
            if change.doc_id == entry.doc_id and not is_rejected(change)
        ]
        assert entry.version == max(versions)
    marked = {key.doc_id: e.stale.version for key, e in entries.items() if e.stale is not None}
    listed = [document async for page in ledger.stale() for document in page]
    if in_order:
        assert marked == stale(changes)
    else:  # a version that was rejected before any other was known leaves no mark
        assert marked.keys() <= stale(changes).keys()
        assert all(version > newest(changes)[doc_id].version for doc_id, version in marked.items())
    assert await ledger.count_stale() == len(marked)
    assert {document.doc_id: document.version for document in listed} == marked
    assert await ledger.stale_among(entries) == {DocumentKey("", doc_id) for doc_id in marked}


async def check_documents(
    memory: Memory, names: CollectionNames, documents: Mapping[str, Document]
) -> None:
    """Check that the index holds ``documents`` (by id), and nothing else."""
    expected = {
        (document.doc_id, index, word)
        for document in documents.values()
        for index, word in enumerate((document.text or "").split())
    }
    records, _ = await memory.client.scroll(names.chunks, limit=100, with_payload=True)
    payloads = [record.payload or {} for record in records]
    held = Counter((p["doc_id"], p["chunk_index"], p["page_content"]) for p in payloads)
    assert held == Counter(expected)
    ledger = QdrantLedger(memory, names.ledger)
    assert await ledger.count() == len(documents)
    entries = await ledger.look_up(DocumentKey("", doc_id) for doc_id in DOC_IDS)
    for entry in entries.values():
        if entry.doc_id in documents:
            assert entry.version == documents[entry.doc_id].version
        fences = [
            Fence(p["version"], p["attempt"], p["epoch"])
            for p in payloads
            if p["doc_id"] == entry.doc_id
        ]
        assert fences == [entry.chunks_fence] * entry.chunks


@pytest.mark.timeout(600)
@few_or_many(40, 300)
def test_the_index_ends_equal_to_the_newest_versions(examples: int) -> None:
    async def play(changes: list[Change], draw: Any) -> None:
        memory = Memory()
        names = await open_collection(memory, "documents", SMALL)
        await Run(memory, names, changes).to_the_end(draw)
        await check(memory, names, changes, in_order=False)
        await memory.client.close()

    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    @given(changes=histories(), data=st.data())
    def ends_equal(changes: list[Change], data: st.DataObject) -> None:
        with asyncio.Runner() as runner:
            runner.run(play(changes, data.draw))

    ends_equal()


def change_at(at: int, kind: str, doc_id: str, version: int, text: str) -> Change:
    """Return the change that is observed or queued at the time ``at``."""
    issued = FIRST_ISSUED + at
    match kind:
        case "put":
            return Document(doc_id=doc_id, version=version, queued=issued, source=doc_id, text=text)
        case "delete at version":
            return Deletion(doc_id=doc_id, version=version, queued=issued)
        case "put issued":
            return Document(doc_id=doc_id, version=issued, source=doc_id, text=text)
        case _:
            return Deletion(doc_id=doc_id, version=issued)


@st.composite
def scaled_histories(draw: Any) -> list[Change]:
    """Draw changes of both scales in order of arrival; some arrive twice.

    Own versions grow with time if there are issued ones between them. If not, they may be sent in
    any order.
    """
    mixed = draw(st.booleans())
    kinds = ["put", "put", "delete", "delete at version", *(["put issued"] if mixed else [])]
    changes = []
    for at in range(1, draw(st.integers(2, 6)) + 1):
        kind, doc_id = draw(st.sampled_from(kinds)), draw(st.sampled_from(DOC_IDS))
        version = at if mixed else draw(st.integers(1, 4))
        # Whoever sends a version twice sends the same.
        text = " ".join(draw(words)) if mixed else f"tide {version}"
        changes.append(change_at(at, kind, doc_id, version, text))
    again = draw(st.lists(st.sampled_from(changes), max_size=2))
    return list(draw(st.permutations([*changes, *again])))


def newest_of_both_scales(changes: Sequence[Change]) -> dict[str, Document]:
    """Return the documents that the index has to hold, by id."""
    held = {}
    for doc_id in {change.doc_id for change in changes}:
        newest = newest_change([change for change in changes if change.doc_id == doc_id])
        if isinstance(newest, Document):
            held[doc_id] = newest
    return held


def newest_change(changes: Sequence[Change]) -> Change | None:
    """Return the newest change of a document.

    What was issued or queued last wins, as long as own versions grow with it. Otherwise it is the
    largest own version, unless that or a larger one was queued before the last deletion.
    """
    own = [change for change in changes if not is_issued(change.version)]
    issued = [change for change in changes if is_issued(change.version)]
    if any(isinstance(change, Document) for change in issued):
        return max(changes, key=lambda c: c.version if is_issued(c.version) else c.queued)
    deleted_at = max((change.version for change in issued), default=0)
    gone = max((change.version for change in own if change.queued < deleted_at), default=0)
    return max(
        (change for change in own if change.version > gone),
        key=lambda change: (change.version, isinstance(change, Deletion)),
        default=None,
    )


async def play_both_scales(changes: Sequence[Change], draw: Any) -> None:
    memory = Memory()
    names = await open_collection(memory, "documents", SMALL)
    run = Run(memory, names, changes)
    await run.to_the_end(draw)
    assert all(isinstance(change, Deletion) for change in run.rejected)
    accepted = list(changes)
    for change in run.rejected:
        accepted.remove(change)
    await check_documents(memory, names, newest_of_both_scales(accepted))
    await memory.client.close()


@pytest.mark.timeout(600)
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(changes=scaled_histories(), data=st.data())
def test_versions_of_both_scales_and_deletions_have_one_order(
    changes: list[Change], data: st.DataObject
) -> None:
    with asyncio.Runner() as runner:
        runner.run(play_both_scales(changes, data.draw))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(changes=scaled_histories(), data=st.data())
def test_versions_of_both_scales_have_one_order_in_many_histories(
    changes: list[Change], data: st.DataObject
) -> None:
    with asyncio.Runner() as runner:
        runner.run(play_both_scales(changes, data.draw))


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
    while steps:
        while not (worker.ended or worker.steps):  # noqa: ASYNC110 - it gives no signal
            await asyncio.sleep(0)
        if worker.ended:
            return
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


@pytest.mark.parametrize(
    "apart", [pytest.param(5, id="some steps"), pytest.param(2, id="steps", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("newer", [NEWER, None], ids=["then put", "then deleted"])
async def test_an_overtaken_worker_that_dies_leaves_nothing_behind(
    newer: str | None, apart: int
) -> None:
    older, last = change_to(OLDER, 2), change_to(newer, 3)
    for at, then in itertools.product(range(0, STEPS, apart), range(1, STEPS, apart)):
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


@pytest.mark.parametrize(
    ("newer", "apart"),
    [
        pytest.param(NEWER, 3, id="some steps, then put"),
        pytest.param(NEWER, 1, id="then put", marks=pytest.mark.slow),
        pytest.param(None, 1, id="then deleted", marks=pytest.mark.slow),
    ],
)
async def test_workers_on_two_versions_never_mix_them(newer: str | None, apart: int) -> None:
    """The older one ends while the newer one waits. One version is complete at any time, unless the
    document is being deleted."""
    for at, then in itertools.product(range(0, STEPS, 2 * apart), range(0, STEPS, apart)):
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


@pytest.mark.parametrize("other", [OLDER, None], ids=["put", "deleted"])
@pytest.mark.parametrize("rejected", [2, 4], ids=["older", "newer"])
async def test_a_rejection_marks_older_versions_only(other: str | None, rejected: int) -> None:
    """Wherever it comes between the steps of a worker on another version, dead or alive."""
    for at, dies in itertools.product(range(0, STEPS, 2), [False, True]):
        memory = Memory()
        names = await open_collection(memory, "documents", SMALL)
        await advance(Worker(memory, names, change_to(ORIGINAL, 1), 1), 1000)
        worker = Worker(memory, names, change_to(other, 3), 2)
        damaged = change_to(DAMAGED, rejected)
        await advance(worker, at)
        await advance(Worker(memory, names, damaged, 3), 1000)
        if dies:
            worker.die()
            worker = Worker(memory, names, change_to(other, 3), 4, restarted=True)
        await advance(worker, 1000)
        await check(memory, names, [change_to(other, 3), damaged])
        await memory.client.close()


@pytest.mark.parametrize("then", [ORIGINAL, NEWER, None], ids=["restored", "edited", "deleted"])
async def test_the_mark_of_a_rejection_goes_with_the_next_version(then: str | None) -> None:
    """Whenever the worker that rejects the document, or the one after it, dies."""
    for at in range(0, STEPS, 2):
        memory = Memory()
        names = await open_collection(memory, "documents", SMALL)
        ledger = QdrantLedger(memory, names.ledger)
        await advance(Worker(memory, names, change_to(ORIGINAL, 1), 1), 1000)
        victim = Worker(memory, names, change_to(DAMAGED, 2), 2)
        await advance(victim, at)
        victim.die()
        await advance(Worker(memory, names, change_to(DAMAGED, 2), 3, restarted=True), 1000)
        await advance(Worker(memory, names, change_to(DAMAGED, 3), 4), 1000)
        [entry] = (await ledger.look_up([DocumentKey("", "a")])).values()
        # The time is the number of the attempt that was first to reject a newer version.
        assert entry.stale in (Rejection(3, 2, "it is damaged"), Rejection(3, 3, "it is damaged"))
        victim = Worker(memory, names, change_to(then, 4), 5)
        await advance(victim, at)
        victim.die()
        await advance(Worker(memory, names, change_to(then, 4), 6, restarted=True), 1000)
        await check(memory, names, [change_to(then, 4)])
        await memory.client.close()
