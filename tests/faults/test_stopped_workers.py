"""Worker processes are killed, stopped and frozen at every step of a document.

Whatever happens to a worker, every document is finished once, and the collection holds what it
would hold if nothing had happened.
"""

import asyncio
import signal
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from ingestq.app.composition import Broker
from ingestq.broker import keys
from ingestq.broker.connection import awaited
from ingestq.broker.scripts import Scripts
from ingestq.core import events
from ingestq.core.documents import Document, Lane
from ingestq.core.jobs import IngestBatch
from ingestq.core.results import ChunkCounts, FailedDocument, SubmissionStatus
from tests.books import Totals, balanced
from tests.command import Ingestq
from tests.qdrant_proxy import Matches, QdrantProxy, written
from tests.redis_proxy import RedisProxy, command, loaded_scripts, redis_proxy, script
from tests.redis_proxy.faults import Hold
from tests.waiting import eventually
from worker.blobs import BlobContents
from worker.consumer.job_runner import POISON_REASON
from worker.embedding.pool import ModelPool
from worker.pipeline import ingest as pipeline
from worker.pipeline.ingest import Work
from worker.pipeline.points import DocumentKey, ledger_id
from worker.pipeline.ports import Ports
from worker.store.chunks import QdrantStore
from worker.store.client import Qdrant
from worker.store.collection import CollectionNames
from worker.store.ledger import QdrantLedger

LEASE_SECONDS: Final = 8
"""Short enough to wait for, and so long that a worker renews in time that stands still for 3 s."""
END_SECONDS: Final = 200
"""How long a worker may take to end if it has nothing to wait for, or to start and finish a job."""
SENTENCES: Final = 120
"""Sentences of a document, which make several chunks."""
DEATHS: Final = 3
"""Workers that a poison document kills: two that also run others, and one that runs it alone."""
ALL_POINTS: Final = 10_000

Index = Mapping[str, Mapping[str, Any]]
"""The contents of a collection: the payload of each chunk by its id."""


@dataclass(frozen=True)
class Held:
    """A step of a worker that is held until `let_go`. ``struck`` returns when it has begun."""

    struck: Callable[[], Awaitable[object]]
    let_go: Callable[[], Awaitable[object]]


@dataclass
class WorkerProcess:
    """A running ``ingestq worker``."""

    process: Process
    log: list[str] = field(default_factory=list)

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def says(self, *words: str) -> None:
        """Return when it has logged all ``words``, each on a line not waited for before."""
        left = set(words)
        while left:
            line = await self._next_line()
            assert line, f"it ended before it said {left}: {self.log}"
            left -= {word for word in left if word in line}

    async def ended(self) -> int:
        """Return its exit code, once it and its pool processes have ended."""
        async with asyncio.timeout(END_SECONDS):
            while await self._next_line():
                pass
            return await self.process.wait()

    async def ended_well(self) -> None:
        """Wait until it ends, and check that nothing went wrong in it."""
        assert await self.ended() == 0, self.log
        assert not any("Traceback" in line for line in self.log), self.log

    async def _next_line(self) -> str:
        assert self.process.stderr is not None
        line = (await self.process.stderr.readline()).decode()
        self.log.append(line)
        return line


@dataclass(frozen=True)
class Scene:
    """A queue and a Qdrant in which any step can be held, and the workers that use them."""

    broker: Broker
    proxy: RedisProxy
    scripts: Scripts
    qdrant: Qdrant
    proxied_qdrant: QdrantProxy
    alias: str
    command: Ingestq
    workers: list[WorkerProcess] = field(default_factory=list)

    async def start(self, **settings: str) -> WorkerProcess:
        """Start a worker; it takes some seconds until it logs that it has started."""
        self.command.settings.update(settings)
        process = await asyncio.create_subprocess_exec(
            *self.command.command("worker"),
            cwd=self.command.folder,
            env=self.command.environment(),
            stdin=DEVNULL,
            stdout=DEVNULL,
            stderr=PIPE,
        )
        self.workers.append(WorkerProcess(process))
        return self.workers[-1]

    async def successive_workers(self, count: int) -> AsyncIterator[WorkerProcess]:
        """Yield workers one after the other; the next loads its model while leases last."""
        for _ in range(count):
            worker = await self.start()
            await worker.says(events.WORKER_STARTED)
            yield worker

    def document(self, name: str) -> Document:
        text = " ".join(f"In note {i} about {name} the tide turns." for i in range(SENTENCES))
        source = f"{name}.txt"
        return Document(collection=self.alias, doc_id=name, version=1, source=source, text=text)

    async def put(self, *documents: Document, lane: Lane = Lane.INTERACTIVE) -> None:
        """Queue ``documents`` as one job, whose submission is named after the first."""
        await self.broker.queue.offer([IngestBatch(documents[0].doc_id, documents, lane)])

    async def finished(self, document: Document) -> SubmissionStatus:
        """Return the status of the submission of ``document``, once it is complete."""
        return await eventually(
            lambda: self.broker.queue.submission(document.doc_id),
            lambda status: status.complete,
            END_SECONDS,
        )

    async def failures_and_crashes(self, document: Document) -> list[int]:
        """Return the failures and crashes of the job of ``document``, which is on the queue."""
        info = keys.JOB_INFO + job_id(document)
        recorded = await awaited(self.broker.redis.hmget(info, ["failures", "crashes"]))
        return [int(n or 0) for n in recorded]

    async def index(self) -> Index:
        """Return the contents of the collection."""
        return await index_of(self.qdrant, self.alias)

    def in_qdrant(self, matches: Matches, *, answer: bool = False) -> Held:
        """Hold a request to Qdrant, or its ``answer``."""
        hold = (self.proxied_qdrant.holds.answer if answer else self.proxied_qdrant.holds.request)(
            matches
        )

        async def let_go() -> None:
            hold.release()

        return Held(hold.struck, let_go)

    async def kill_all(self) -> None:
        for worker in self.workers:
            if worker.process.returncode is None:
                worker.send(signal.SIGKILL)
            await worker.ended()


async def index_of(qdrant: Qdrant, name: str) -> Index:
    points, offset = await qdrant.ask(lambda client: client.scroll(name, limit=ALL_POINTS))
    assert offset is None
    return {str(point.id): _lasting(point.payload or {}) for point in points}


def _lasting(payload: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a payload that does not depend on the number of tries."""
    return {name: value for name, value in payload.items() if name != "attempt"}


def job_id(document: Document) -> str:
    return IngestBatch(document.doc_id, (document,)).job_id


# The steps of a document, in their order. Each is held for one document.


def claim_answer(scene: Scene, document: Document) -> Held:
    """The worker has claimed the job, which is queued before ``struck`` is awaited."""
    claims = script(scene.scripts.claim.sha)
    request, answer = scene.proxy.hold_request(claims), scene.proxy.hold_reply(claims)

    async def struck() -> None:
        await request.struck.wait()
        request.release()
        await answer.struck.wait()

    return Held(struck, _let_go(answer))


def look_up(scene: Scene, document: Document) -> Held:
    entry = {"ids": [ledger_id(DocumentKey(document.tenant, document.doc_id))]}
    return scene.in_qdrant(
        lambda request, body: (
            request.endswith("__ledger/points") and entry.items() <= dict(body).items()
        )
    )


def mark_writing(scene: Scene, document: Document) -> Held:
    return scene.in_qdrant(_ledger_write(document, "writing"))


def upsert(scene: Scene, document: Document) -> Held:
    return scene.in_qdrant(_chunks_of(document))


def upsert_answer(scene: Scene, document: Document) -> Held:
    return scene.in_qdrant(_chunks_of(document), answer=True)


def mark_indexed(scene: Scene, document: Document) -> Held:
    return scene.in_qdrant(_ledger_write(document, "indexed"))


def finish(scene: Scene, document: Document) -> Held:
    request = scene.proxy.hold_request(_finish(scene, document))
    return Held(request.struck.wait, _let_go(request))


def finish_answer(scene: Scene, document: Document) -> Held:
    answer = scene.proxy.hold_reply(_finish(scene, document))
    return Held(answer.struck.wait, _let_go(answer))


STEPS: Final = {
    step.__name__: step
    for step in (
        claim_answer,
        look_up,
        mark_writing,
        upsert,
        upsert_answer,
        mark_indexed,
        finish,
        finish_answer,
    )
}

KILLED_TOGETHER: Final = (
    ("mark_writing", "look_up", "claim_answer"),
    ("mark_indexed",),
    ("upsert_answer",),
    ("finish_answer", "finish", "upsert"),
)
"""Steps of different jobs, in an order in which a worker comes to all of them: while it waits for
an answer, no other request of this kind is sent."""
STEPS_WITH_CHUNKS: Final = ("upsert_answer", "mark_indexed", "finish")
"""Steps of an unfinished job whose chunks are in the index."""


def _finish(scene: Scene, document: Document) -> Callable[[tuple[bytes, ...]], bool]:
    return command("EVALSHA", scene.scripts.ack.sha, "0", job_id(document))


def _ledger_write(document: Document, state: str) -> Matches:
    return _writes(document, state)


def _chunks_of(document: Document) -> Matches:
    return _writes(document, None)


def _writes(document: Document, state: str | None) -> Matches:
    """Match writes of the entry of ``document`` in ``state``, or of its chunks, which have none."""

    def matches(request: str, body: Any) -> bool:
        return any(
            (payload.get("doc_id"), payload.get("state")) == (document.doc_id, state)
            for payload in written(request, body)
        )

    return matches


def _let_go(hold: Hold) -> Callable[[], Awaitable[object]]:
    async def let_go() -> None:
        hold.release()
        await hold.done.wait()

    return let_go


@pytest.fixture
async def scene(
    broker: Broker,
    redis_url: str,
    qdrant: Qdrant,
    proxied_qdrant: QdrantProxy,
    alias: str,
    tmp_path: Path,
) -> AsyncIterator[Scene]:
    scripts = await loaded_scripts(broker.redis)
    async with redis_proxy(redis_url) as proxy:
        settings = {
            "redis_url": proxy.url,
            "qdrant_url": proxied_qdrant.url,
            "collection": alias,
            "lease_seconds": str(LEASE_SECONDS),
            "pool_size": "1",
        }
        command = Ingestq(tmp_path, settings)
        scene = Scene(broker, proxy, scripts, qdrant, proxied_qdrant, alias, command)
        try:
            yield scene
        finally:
            await scene.kill_all()


@pytest.fixture
def clean_run(
    qdrant: Qdrant, collection: CollectionNames, model: ModelPool
) -> Callable[[Iterable[Document]], Awaitable[Index]]:
    """Index documents undisturbed, without a queue or a worker, into an empty collection."""

    async def index(documents: Iterable[Document]) -> Index:
        chunks = QdrantStore(qdrant, collection.chunks)
        ledger = QdrantLedger(qdrant, collection.ledger)
        ports = Ports(model, chunks, ledger, BlobContents())
        for each in documents:
            await pipeline.ingest(Work(each, None, attempt=1), ports, lambda done, known: None)
        return await index_of(qdrant, collection.chunks)

    return index


CleanRun = Callable[[Iterable[Document]], Awaitable[Index]]


@pytest.mark.slow
@pytest.mark.timeout(1200)
async def test_killing_a_worker_at_any_step_loses_no_document(
    scene: Scene, clean_run: CleanRun
) -> None:
    documents = {name: scene.document(name) for name in STEPS}
    deaths = iter(KILLED_TOGETHER)
    held: dict[str, Held] = {}
    async for worker in scene.successive_workers(len(KILLED_TOGETHER) + 1):
        for name, late in held.items():
            await scene.finished(documents[name])
            await late.let_go()
        held = {}
        for name in next(deaths, ()):
            held[name] = STEPS[name](scene, documents[name])
            await scene.put(documents[name])
            await held[name].struck()
        worker.send(signal.SIGKILL if held else signal.SIGTERM)
        assert await worker.ended() == (-signal.SIGKILL if held else 0)

    index = await scene.index()
    assert index == await clean_run(documents.values())
    everything = Totals(len(STEPS), finished=len(STEPS), waiting=0, dead=0)
    assert await balanced(scene.broker.redis) == everything
    for name, each in documents.items():
        status = await scene.finished(each)
        assert (status.documents.indexed, status.documents.total) == (1, 1)
        chunks = sum(payload["doc_id"] == name for payload in index.values())
        assert chunks > 1
        kept = name in STEPS_WITH_CHUNKS
        assert status.chunks == (ChunkCounts(reused=chunks) if kept else ChunkCounts(chunks)), name


@pytest.mark.slow
@pytest.mark.timeout(1200)
async def test_a_document_that_kills_every_worker_is_dead_lettered_alone(
    scene: Scene, clean_run: CleanRun
) -> None:
    poison, *mates = documents = [scene.document(f"note {i}") for i in range(4)]
    documents[:2] = documents[1], poison
    fatal = [upsert(scene, poison) for _ in range(DEATHS)]
    await scene.put(*documents, lane=Lane.BULK)
    deaths = iter(fatal)
    async for worker in scene.successive_workers(DEATHS + 1):
        if death := next(deaths, None):
            await death.struck()
            worker.send(signal.SIGKILL)
            assert await worker.ended() == -signal.SIGKILL

    status = await scene.finished(documents[0])
    assert (status.documents.indexed, status.documents.rejected) == (len(mates), 1)
    failed = await scene.broker.queue.failed_documents(documents[0].doc_id)
    assert failed == [FailedDocument(poison.doc_id, POISON_REASON)]
    everything = Totals(len(documents), finished=len(documents), waiting=0, dead=1)
    assert await balanced(scene.broker.redis) == everything
    assert await scene.index() == await clean_run(mates)


async def held_at_unfinished_steps(
    scene: Scene, documents: Mapping[str, Document]
) -> dict[str, Held]:
    """Queue ``documents``, one for each step, and return when a worker has come to all of them.

    From the last step to the first: who waits for an answer holds up what comes after it, as the
    worker sends requests of a kind, and claims, one after the other.
    """
    held = {}
    for name in reversed(list(documents)):
        held[name] = STEPS[name](scene, documents[name])
        await scene.put(documents[name])
        await held[name].struck()
    return held


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    "steps",
    [("mark_indexed",), ("upsert_answer", "mark_writing"), ("upsert", "mark_writing")],
    ids=" ".join,
)
async def test_a_stopping_worker_nacks_its_jobs_without_counting_a_try(
    scene: Scene, clean_run: CleanRun, steps: Sequence[str]
) -> None:
    """Told so with jobs at these steps, at the look-up and at the claim.

    While it is held at a request, it comes to no later step that needs one of the same kind. The
    next worker finishes the jobs and, told so at the same steps, what it has itself: it may.
    """
    steps = ["claim_answer", "look_up", *reversed(steps)]
    nacked = {name: scene.document(name) for name in steps}
    worker = await scene.start(drain_seconds="0", pool_size="2")
    await worker.says(events.WORKER_STARTED)
    # What is claimed at the last moment may begin, but not get far.
    beginning = look_up(scene, nacked["claim_answer"])
    held = await held_at_unfinished_steps(scene, nacked)
    worker.send(signal.SIGTERM)
    await held["claim_answer"].let_go()
    await worker.ended_well()
    await beginning.let_go()

    for each in nacked.values():
        assert await scene.failures_and_crashes(each) == [0, 0]
    assert (await scene.broker.queue.depth()).ready == len(nacked)
    everything = Totals(len(nacked), finished=0, waiting=len(nacked), dead=0)
    assert await balanced(scene.broker.redis) == everything

    heir = await scene.start(drain_seconds="3600")
    for each in nacked.values():
        await scene.finished(each)
    drained = {name: scene.document(f"{name} again") for name in steps}
    held = await held_at_unfinished_steps(scene, drained)
    heir.send(signal.SIGTERM)
    await held.pop("claim_answer").let_go()
    await heir.says(events.WORKER_DRAINING)
    for step in held.values():
        await step.let_go()
    await heir.ended_well()

    documents = [*nacked.values(), *drained.values()]
    everything = Totals(len(documents), finished=len(documents), waiting=0, dead=0)
    assert await balanced(scene.broker.redis) == everything
    assert await scene.index() == await clean_run(documents)


@pytest.mark.slow
@pytest.mark.timeout(1200)
async def test_a_second_stop_signal_stops_at_once_but_acks_finished_jobs(scene: Scene) -> None:
    documents = {name: scene.document(name) for name in ("finish_answer", "finish", "upsert")}
    worker = await scene.start(drain_seconds="3600")
    await worker.says(events.WORKER_STARTED)
    held = {name: STEPS[name](scene, each) for name, each in documents.items()}
    for name, each in documents.items():
        await scene.put(each)
        await held[name].struck()
    worker.send(signal.SIGTERM)
    await worker.says(events.WORKER_DRAINING)
    worker.send(signal.SIGTERM)
    await worker.says(events.JOB_NACKED)
    for name in ("finish", "finish_answer"):
        await held[name].let_go()
    await worker.ended_well()

    assert await scene.failures_and_crashes(documents["upsert"]) == [0, 0]
    assert (await scene.broker.queue.depth()).ready == 1
    assert await balanced(scene.broker.redis) == Totals(3, finished=2, waiting=1, dead=0)


@pytest.mark.slow
@pytest.mark.timeout(1200)
async def test_a_worker_frozen_beyond_its_lease_changes_nothing_and_goes_on(
    scene: Scene, clean_run: CleanRun
) -> None:
    lost = {name: scene.document(name) for name in ("finish", "upsert")}
    frozen = await scene.start()
    await frozen.says(events.WORKER_STARTED)
    late = {name: STEPS[name](scene, each) for name, each in lost.items()}
    for name, each in lost.items():
        await scene.put(each)
        await late[name].struck()
    frozen.send(signal.SIGSTOP)

    heir = await scene.start()
    for each in lost.values():
        assert (await scene.finished(each)).documents.indexed == 1
    heir.send(signal.SIGTERM)
    await heir.ended_well()

    for step in late.values():
        await step.let_go()
    frozen.send(signal.SIGCONT)
    new = scene.document("new")
    await scene.put(new)
    assert (await scene.finished(new)).documents.indexed == 1
    frozen.send(signal.SIGTERM)
    await frozen.ended_well()

    for each in lost.values():
        said = [line for line in frozen.log if job_id(each) in line]
        assert said
        assert all(events.LEASE_LOST in line for line in said)
    assert await balanced(scene.broker.redis) == Totals(3, finished=3, waiting=0, dead=0)
    assert await scene.index() == await clean_run([*lost.values(), new])
