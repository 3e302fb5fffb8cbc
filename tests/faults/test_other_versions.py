"""Rolling deploys: jobs of other versions wait beside our own, and are kept byte for byte."""

import asyncio
import zlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import pytest
from arq.connections import ArqRedis
from arq.worker import func

from ingestq.app.composition import Broker
from ingestq.broker import keys
from ingestq.broker.connection import awaited
from ingestq.core.documents import DEFAULT_COLLECTION, Document, Lane
from ingestq.core.jobs import INGEST, LATEST_MS, IngestBatch, Job
from ingestq.core.results import BatchReport, DeadLetter, DocumentCounts, EnqueueResult
from tests.books import Totals, balanced
from tests.claims import finish, lease_queue, take
from tests.command import Ingestq
from tests.waiting import eventually
from tests.workers import all_indexed, working
from worker.consumer.decision import MAX_TRIES
from worker.pipeline.ingest import Outcome

GOOD: Final = 20
REINDEX: Final = "reindex"
"""The function that only a newer version has."""
UNKNOWN_VERSION: Final = "not a job of a known version"
encode = msgspec.msgpack.encode


class NewerBatch(IngestBatch, frozen=True, tag="ingest/2", omit_defaults=True):
    """A batch of the next version of the job contract."""

    urgency: int = 1


@dataclass(frozen=True)
class OddJob:
    """A job that our worker cannot run, as it was queued; ``reason`` is the expected reason."""

    job_id: str
    payload: bytes
    submission: str
    documents: int
    reason: str = UNKNOWN_VERSION


def documents(prefix: str, count: int = 2) -> tuple[Document, ...]:
    return tuple(
        Document(
            collection="documents", doc_id=f"{prefix}-{i}", version=1, source=prefix, text="t" * 50
        )
        for i in range(count)
    )


TO_REINDEX: Final = IngestBatch("reindex", documents("reindex"))


async def offered(
    broker: Broker, batch: IngestBatch, payload: bytes, reason: str = UNKNOWN_VERSION
) -> OddJob:
    """Queue ``batch`` as a producer that encodes it as ``payload``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ingestq.broker.queue.job_queue.encode_job", lambda *_, **__: payload)
        assert await broker.queue.offer([batch]) == [EnqueueResult.ACCEPTED]
    return OddJob(batch.job_id, payload, batch.submission, len(batch.documents), reason)


async def newer_contract(broker: Broker) -> OddJob:
    batch = NewerBatch("newer", documents("newer"), urgency=9)
    return await offered(broker, batch, encode(Job(INGEST, (batch,), 1)), "'ingest/2'")


async def other_encoding(broker: Broker) -> OddJob:
    batch = IngestBatch("packed", documents("packed"))
    return await offered(broker, batch, zlib.compress(encode(Job(INGEST, (batch,), 1))))


async def impossible_date(broker: Broker) -> OddJob:
    batch = IngestBatch("date", documents("date"))
    return await offered(broker, batch, encode(Job(INGEST, (batch,), LATEST_MS + 1)))


async def stock_arq(broker: Broker) -> OddJob:
    """Queue a pickled job of stock arq, which must not be unpickled."""
    stock = ArqRedis(broker.redis.connection_pool)
    job = await stock.enqueue_job(INGEST, {"text": "t" * 50}, urgency=9)
    assert job is not None
    payload = await stock.get(keys.JOB + job.job_id)
    return OddJob(job.job_id, payload, submission="", documents=0)


async def unknown_function(broker: Broker) -> OddJob:
    payload = encode(Job(REINDEX, (TO_REINDEX,), 1, kwargs={"thoroughly": True}))
    return await offered(broker, TO_REINDEX, payload, f"no function {REINDEX!r}")


Kinds = Sequence[Callable[[Broker], Awaitable[OddJob]]]
UNDECODABLE: Final[Kinds] = [
    newer_contract, other_encoding, impossible_date, stock_arq
]  # fmt: skip
UNKNOWN_FUNCTION: Final[Kinds] = [unknown_function]
every_kind = pytest.mark.parametrize(
    "kinds",
    [
        pytest.param(UNDECODABLE, id="undecodable"),
        pytest.param(UNKNOWN_FUNCTION, id="unknown-function"),
    ],
)


@pytest.fixture
async def odd(broker: Broker, kinds: Kinds) -> list[OddJob]:
    """Queue a job of each kind."""
    return [await put(broker) for put in kinds]


async def index(ctx: dict[str, Any], batch: IngestBatch) -> Sequence[Outcome]:
    """Index every document: the only function of our worker."""
    return all_indexed(batch)


async def completed(broker: Broker, submission: str) -> DocumentCounts:
    status = await eventually(
        lambda: broker.queue.submission(submission), lambda s: s.accepted > 0 and s.complete
    )
    assert status.documents.total == status.accepted
    return status.documents


async def waiting(broker: Broker, odd: Sequence[OddJob], failures: int) -> None:
    """Return when each job failed ``failures`` times and waits, with its payload intact."""

    async def tries() -> set[int]:
        infos = [keys.JOB_INFO + job.job_id for job in odd]
        return {int(await awaited(broker.redis.hget(info, "failures")) or 0) for info in infos}

    await eventually(tries, lambda seen: seen == {failures})
    depth = await broker.queue.depth()
    assert (depth.ready, depth.in_flight, depth.deferred) == (0, 0, len(odd))
    assert depth.queued_bytes == sum(len(job.payload) for job in odd)
    for job in odd:
        assert await broker.redis.get(keys.JOB + job.job_id) == job.payload


async def let_delays_end(broker: Broker) -> None:
    """Make the delays of all jobs end, and wake the worker."""
    for job_id in await broker.redis.zrange(keys.QUEUE, 0, -1):
        await broker.redis.zadd(keys.QUEUE, {job_id: 1}, xx=True)
    for lane in Lane:
        await awaited(broker.redis.rpush(f"{keys.WAKE}{lane}:{DEFAULT_COLLECTION}", "1"))


async def dead_letter_all(broker: Broker, odd: Sequence[OddJob]) -> None:
    """Let our worker try the jobs until it dead-letters them."""
    async with working(broker, index):
        for failures in range(1, MAX_TRIES):
            await waiting(broker, odd, failures)
            await balanced(broker.redis)
            await let_delays_end(broker)
        await eventually(broker.queue.is_empty)


async def requeue_all(broker: Broker, ingestq: Ingestq) -> dict[str, Any]:
    ingestq.settings["redis_url"] = broker.config.url
    ran = await asyncio.to_thread(ingestq, "dead", "requeue", "--all", "--json")
    assert ran.code == 0, ran.err
    answer: dict[str, Any] = ran.json
    return answer


async def dead_letters(broker: Broker) -> dict[str, DeadLetter]:
    raw = await awaited(broker.redis.hvals(keys.DEAD))
    dead_letters = [msgspec.msgpack.decode(dead_letter, type=DeadLetter) for dead_letter in raw]
    return {dead_letter.doc_id: dead_letter for dead_letter in dead_letters}


@pytest.mark.parametrize("kinds", [[*UNDECODABLE, *UNKNOWN_FUNCTION]], ids=["all"])
async def test_good_jobs_are_finished_at_once_and_unknown_ones_wait(
    broker: Broker, odd: Sequence[OddJob]
) -> None:
    good = [IngestBatch("good", (document,)) for document in documents("good", GOOD)]
    await broker.queue.offer(good)
    async with working(broker, index):
        assert await completed(broker, "good") == DocumentCounts(indexed=GOOD)
        await waiting(broker, odd, failures=1)
    left = sum(job.documents for job in odd)
    assert await balanced(broker.redis) == Totals(GOOD + left, GOOD, left, dead=0)


@every_kind
async def test_an_unknown_job_is_dead_lettered_unchanged_and_counted(
    broker: Broker, odd: Sequence[OddJob]
) -> None:
    await dead_letter_all(broker, odd)
    rejected = sum(job.documents for job in odd)
    assert await balanced(broker.redis) == Totals(rejected, rejected, waiting=0, dead=rejected)
    dead = await dead_letters(broker)
    for job in odd:
        dead_letter = dead.pop(job.job_id)
        assert dead_letter.payload == job.payload
        assert (dead_letter.tries, dead_letter.documents) == (MAX_TRIES, job.documents)
        assert job.reason in dead_letter.reason
        if job.documents:
            assert await completed(broker, job.submission) == DocumentCounts(rejected=job.documents)
            [failed] = await broker.queue.failed_documents(job.submission)
            assert (failed.doc_id, failed.reason) == (job.job_id, dead_letter.reason)
    assert dead == {}


@every_kind
async def test_the_command_shows_why_a_job_is_dead(
    broker: Broker, odd: Sequence[OddJob], ingestq: Ingestq
) -> None:
    await dead_letter_all(broker, odd)
    ingestq.settings["redis_url"] = broker.config.url
    listed = await asyncio.to_thread(ingestq, "dead", "list")
    assert listed.code == 0, listed.err
    for job in odd:
        [line] = [line for line in listed.out.splitlines() if job.job_id in line]
        assert job.reason in line
    for job in (odd[0], odd[-1]):  # each takes a second
        shown = await asyncio.to_thread(ingestq, "dead", "show", job.job_id, "--json")
        assert shown.code == 0, shown.err
        [dead_letter] = shown.json["dead_letters"]
        assert (dead_letter["tries"], dead_letter["submission"]) == (MAX_TRIES, job.submission)


@every_kind
async def test_a_requeued_job_has_the_original_payload(
    broker: Broker, odd: Sequence[OddJob], ingestq: Ingestq
) -> None:
    await dead_letter_all(broker, odd)
    dead = sum(job.documents for job in odd)
    requeued = await requeue_all(broker, ingestq)
    assert requeued["requeued"] == len(odd)
    assert await balanced(broker.redis) == Totals(2 * dead, dead, waiting=dead, dead=0)

    leases = lease_queue(broker)
    claims = {claim.job_id: claim for claim in await take(leases, len(odd))}
    for job in odd:  # as a worker that knows its version
        claim = claims.pop(job.job_id)
        assert (claim.payload, claim.failures) == (job.payload, 0)
        assert await finish(leases, claim, BatchReport(DocumentCounts(indexed=job.documents)))
        await balanced(broker.redis)
    assert claims == {}
    assert await completed(broker, requeued["submission"]) == DocumentCounts(indexed=dead)
    assert await balanced(broker.redis) == Totals(2 * dead, 2 * dead, waiting=0, dead=0)


@pytest.mark.parametrize("kinds", [UNKNOWN_FUNCTION], ids=["unknown-function"])
async def test_a_newer_worker_finishes_requeued_jobs(
    broker: Broker, odd: Sequence[OddJob], ingestq: Ingestq
) -> None:
    ran: list[tuple[IngestBatch, bool]] = []

    async def reindex(
        ctx: dict[str, Any], batch: IngestBatch, *, thoroughly: bool
    ) -> Sequence[Outcome]:
        ran.append((batch, thoroughly))
        return all_indexed(batch)

    await dead_letter_all(broker, odd)
    requeued = await requeue_all(broker, ingestq)
    async with working(broker, [func(index, name=INGEST), func(reindex, name=REINDEX)]):
        ended = await completed(broker, requeued["submission"])
    assert ended == DocumentCounts(indexed=len(TO_REINDEX.documents))
    assert ran == [(TO_REINDEX, True)]
    await balanced(broker.redis)
