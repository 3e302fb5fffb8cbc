"""Connections to Redis are lost in the middle of a step: every document is finished once.

A step that is lost ``before`` never reached the server; of a step lost ``after``, only the answer
is missing. A client sends a request up to `TRIES` times, so the caller does not notice one loss,
but does notice `TRIES` in a row.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any, Final, Literal

import pytest
from arq.typing import WorkerCoroutine
from structlog.testing import capture_logs

from ingestq.app.composition import Broker
from ingestq.broker import keys
from ingestq.broker.connection import BrokerConfig, awaited, connected
from ingestq.broker.queue.dead_letters import DeadLetterFilter, DeadLetters
from ingestq.broker.scripts import Scripts
from ingestq.broker.tokens import ApiTokens
from ingestq.client.client import IngestClient
from ingestq.core import events
from ingestq.core.documents import Document
from ingestq.core.errors import BrokerUnavailable
from ingestq.core.jobs import IngestBatch, dead_letter_batch
from ingestq.core.results import EnqueueResult, SubmissionStatus
from ingestq.core.tokens import TokenGrant
from tests.books import Totals, balanced
from tests.claims import batch_of, finish, lease_queue, take
from tests.redis_proxy import (
    Disconnect,
    Predicate,
    RedisProxy,
    command,
    loaded_scripts,
    redis_proxy,
    script,
)
from tests.waiting import SECONDS, eventually
from tests.workers import all_indexed, working
from worker.consumer import lease_worker
from worker.pipeline.ingest import Outcome

TRIES: Final = 4
"""How often a client sends a request; see `ingestq.broker.connection.connect`."""
SUBMISSION: Final = "s"
JOBS: Final = 5
BULK_JOBS: Final = 3
"""How many jobs a worker of `tests.workers` claims at once."""
LEASE_SECONDS: Final = 15.0
"""Far longer than any process here may stand still. A test that wants it ends a lease earlier."""
SHORT_LEASE_SECONDS: Final = 4.0
"""Where a job may run twice: a worker that stands still for longer only delays it."""
RENEWALS_PER_LEASE: Final = 45
"""So many that a test need not wait for them."""
CLAIMS_UNTIL_POISON: Final = 2 * TRIES
"""Claims are lost so often that a worker fails twice, and jobs count as poison."""
DOCUMENTS: Final = 40
LOST_SHARE: Final = 0.1
LOSSES_AT_MOST: Final = 100_000

When = Literal["before", "after"]

WHEN: Final = pytest.mark.parametrize("when", ["before", "after"])
TIMES: Final = pytest.mark.parametrize("times", [1, TRIES + 1], ids=["once", "beyond patience"])


@dataclass(frozen=True)
class Wire:
    """A broker whose connections can be lost, and ``direct``, the same without the proxy."""

    broker: Broker
    direct: Broker
    proxy: RedisProxy
    scripts: Scripts

    def lose(self, when: When, request: Predicate, *, nth: int = 1, times: int = 1) -> Disconnect:
        """Lose the connection ``before`` or ``after`` the server carries out a request."""
        drop = self.proxy.drop_before if when == "before" else self.proxy.drop_after
        return drop(request, nth=nth, times=times)

    def passing(self, request: Predicate, *, nth: int) -> Callable[[], Awaitable[None]]:
        """Return a function that waits until the ``nth`` matching request has been answered."""
        hold = self.proxy.hold_reply(request, nth=nth)
        hold.release()

        async def passed() -> None:
            await asyncio.wait_for(hold.done.wait(), SECONDS)

        return passed

    async def finished(self, submission: str = SUBMISSION) -> SubmissionStatus:
        """Wait until the submission is complete; return its status."""
        return await eventually(
            lambda: self.direct.queue.submission(submission), lambda status: status.complete
        )

    async def totals(self) -> Totals:
        return await balanced(self.direct.redis)

    async def end_leases(self, batches: Iterable[IngestBatch]) -> None:
        """Let the leases of these jobs be over."""
        for batch in batches:
            left_ms = await self.direct.redis.pttl(keys.LEASE + batch.job_id)
            assert left_ms <= LEASE_SECONDS * 1000
            if await self.direct.redis.delete(keys.LEASE + batch.job_id):
                await self.direct.redis.zadd(keys.QUEUE, {batch.job_id: 1}, xx=True)

    async def crashes(self, job_id: str) -> int:
        """Return how many workers count as having died while they ran a job."""
        counted = await awaited(self.direct.redis.hget(keys.JOB_INFO + job_id, "crashes"))
        return int(counted or 0)


@pytest.fixture
async def wire(broker: Broker, redis_url: str) -> AsyncIterator[Wire]:
    scripts = await loaded_scripts(broker.redis)
    async with redis_proxy(redis_url) as proxy:
        config = BrokerConfig(proxy.url)
        async with connected(config) as redis:
            yield Wire(Broker(redis, config), broker, proxy, scripts)


@pytest.fixture
def often_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let workers renew their leases, and send heartbeats, three times a second."""
    monkeypatch.setattr(lease_worker, "RENEWALS_PER_LEASE", RENEWALS_PER_LEASE)


def batches(count: int = JOBS, submission: str = SUBMISSION) -> list[IngestBatch]:
    """Return ``count`` batches of one document each."""
    names = [f"{submission}-{i}" for i in range(count)]
    return [
        IngestBatch(
            submission,
            (Document(collection="documents", doc_id=name, version=1, source=name, text="t"),),
        )
        for name in names
    ]


def doc_ids(offered: Iterable[IngestBatch]) -> list[str]:
    return sorted(document.doc_id for batch in offered for document in batch.documents)


async def struck(lost: Disconnect, times: int) -> None:
    """Wait until the connection has been lost ``times`` times."""

    async def fired() -> int:
        return lost.fired

    await eventually(fired, lambda seen: seen >= times)


def index_and_note(indexed: list[str]) -> WorkerCoroutine:
    """Return a job function that appends the ids of its documents to ``indexed``."""

    async def job(ctx: dict[str, Any], batch: IngestBatch) -> Sequence[Outcome]:
        indexed.extend(document.doc_id for document in batch.documents)
        return all_indexed(batch)

    return job


@WHEN
async def test_batches_are_queued_once_although_the_connection_was_lost(
    wire: Wire, when: When
) -> None:
    lost = wire.lose(when, script(wire.scripts.enqueue.sha), nth=3)
    answers = await wire.broker.queue.offer(batches())
    assert lost.fired == 1
    queued_at_first = 2 if when == "before" else 3
    assert answers[:queued_at_first] == [EnqueueResult.DUPLICATE] * queued_at_first
    assert set(answers[queued_at_first:]) == {EnqueueResult.ACCEPTED}
    assert await wire.totals() == Totals(JOBS, finished=0, waiting=JOBS, dead=0)
    assert set(await wire.broker.queue.offer(batches())) == {EnqueueResult.DUPLICATE}
    assert await wire.totals() == Totals(JOBS, finished=0, waiting=JOBS, dead=0)


@WHEN
async def test_repeating_a_failed_offer_tells_what_was_queued(wire: Wire, when: When) -> None:
    wire.lose(when, script(wire.scripts.enqueue.sha), nth=3, times=TRIES)
    with pytest.raises(BrokerUnavailable):
        await wire.broker.queue.offer(batches())
    queued = 2 if when == "before" else 3
    assert await wire.totals() == Totals(queued, finished=0, waiting=queued, dead=0)
    answers = await wire.broker.queue.offer(batches())
    assert answers == [EnqueueResult.DUPLICATE] * queued + [EnqueueResult.ACCEPTED] * (
        JOBS - queued
    )
    assert await wire.totals() == Totals(JOBS, finished=0, waiting=JOBS, dead=0)


@WHEN
async def test_a_producer_that_waits_gets_everything_queued(wire: Wire, when: When) -> None:
    lost = wire.lose(when, script(wire.scripts.enqueue.sha), times=TRIES + 1)
    await wire.broker.queue.enqueue(batches())
    assert lost.fired == TRIES + 1
    assert await wire.totals() == Totals(JOBS, finished=0, waiting=JOBS, dead=0)


@WHEN
async def test_a_document_is_accepted_once_although_the_first_answer_was_lost(
    wire: Wire, when: When
) -> None:
    lost = wire.lose(when, script(wire.scripts.enqueue.sha))
    receipt = await IngestClient(wire.broker.queue).submit("d", source="s", text="t")
    assert lost.fired == 1
    assert (receipt.accepted, receipt.duplicates) == (1, 0)
    assert (await wire.direct.queue.submission(receipt.submission)).accepted == 1
    assert await wire.totals() == Totals(1, finished=0, waiting=1, dead=0)


@WHEN
async def test_an_idempotency_key_queues_one_document_although_the_connection_was_lost(
    wire: Wire, when: When
) -> None:
    lost = wire.lose(when, script(wire.scripts.enqueue_once.sha), times=TRIES)
    submit = partial(
        IngestClient(wire.broker.queue).submit, "d", source="s", text="t", idempotency_key="k"
    )
    with pytest.raises(BrokerUnavailable):
        await submit()
    assert lost.fired == TRIES
    receipt = await submit()
    assert (receipt.accepted, receipt.duplicates) == (1, 0)
    assert (await wire.direct.queue.submission(receipt.submission)).accepted == 1
    assert await wire.totals() == Totals(1, finished=0, waiting=1, dead=0)


async def test_a_batch_finished_before_it_is_resent_is_not_run_again(
    wire: Wire,
) -> None:
    enqueue = script(wire.scripts.enqueue.sha)
    wire.lose("after", enqueue)
    again = wire.proxy.hold_request(enqueue, nth=2)
    offering = asyncio.create_task(wire.broker.queue.offer(batches(1)))
    await again.struck.wait()
    async with working(wire.direct, index_and_note([])):
        await wire.finished()
    again.release()
    assert await offering == [EnqueueResult.DUPLICATE]
    assert await wire.totals() == Totals(1, finished=1, waiting=0, dead=0)


@WHEN
async def test_a_lost_claim_delays_the_job_by_the_lease_only(wire: Wire, when: When) -> None:
    indexed: list[str] = []
    crashes: list[int] = []

    async def job(ctx: dict[str, Any], batch: IngestBatch) -> Sequence[Outcome]:
        crashes.append(await wire.crashes(ctx["job_id"]))
        indexed.extend(doc_ids([batch]))
        return all_indexed(batch)

    await wire.broker.queue.offer(batches())
    lost = wire.lose(when, script(wire.scripts.claim.sha))
    async with working(wire.broker, job, lease_seconds=LEASE_SECONDS):
        await lost.struck.wait()
        # Later claims are not of these jobs before their leases are over.
        await wire.end_leases(batches()[:BULK_JOBS] if when == "after" else [])
        await wire.finished()
    assert lost.fired == 1
    assert sorted(indexed) == doc_ids(batches())
    assert sum(crashes) == (0 if when == "before" else BULK_JOBS)
    assert await wire.totals() == Totals(JOBS, finished=JOBS, waiting=0, dead=0)


@WHEN
async def test_a_job_survives_any_number_of_lost_claims(wire: Wire, when: When) -> None:
    indexed: list[str] = []
    await wire.broker.queue.offer(batches())
    claims = script(wire.scripts.claim.sha)
    later = [wire.proxy.hold_request(claims, nth=2 + n) for n in range(CLAIMS_UNTIL_POISON)]
    lost = wire.lose(when, claims, times=CLAIMS_UNTIL_POISON)
    async with working(wire.broker, index_and_note(indexed), lease_seconds=LEASE_SECONDS):
        for claim in later:
            await claim.struck.wait()
            await wire.end_leases(batches())
            claim.release()
        await wire.finished()
    assert lost.fired == CLAIMS_UNTIL_POISON
    assert sorted(indexed) == doc_ids(batches())
    assert await wire.totals() == Totals(JOBS, finished=JOBS, waiting=0, dead=0)


@WHEN
@pytest.mark.usefixtures("often_renewed")
async def test_a_job_continues_although_a_renewal_was_lost(wire: Wire, when: When) -> None:
    renewals = script(wire.scripts.renew.sha)
    lost, fourth_renewal = wire.lose(when, renewals), wire.passing(renewals, nth=4)
    indexed: list[str] = []
    ends_ms: list[int] = []

    async def job(ctx: dict[str, Any], batch: IngestBatch) -> Sequence[Outcome]:
        indexed.extend(doc_ids([batch]))
        for waited in (lost.struck.wait, fourth_renewal):
            await waited()
            ends_at = wire.direct.redis.pexpiretime(keys.LEASE + ctx["job_id"])
            ends_ms.append(await awaited(ends_at))
        return all_indexed(batch)

    await wire.broker.queue.offer(batches(1))
    async with working(wire.broker, job, lease_seconds=LEASE_SECONDS):
        await wire.finished()
    assert lost.fired == 1
    assert indexed == doc_ids(batches(1))
    assert ends_ms[0] < ends_ms[1]
    assert await wire.totals() == Totals(1, finished=1, waiting=0, dead=0)


@pytest.mark.usefixtures("often_renewed")
async def test_a_job_whose_lease_expired_runs_again_and_finishes_once(wire: Wire) -> None:
    renewals = script(wire.scripts.renew.sha)
    lost = wire.lose("before", renewals, times=TRIES + 1)
    too_late = wire.proxy.hold_request(renewals, nth=lost.times + 1)
    later = wire.passing(renewals, nth=lost.times + 2)
    indexed: list[str] = []
    interrupted: list[str] = []

    async def job(ctx: dict[str, Any], batch: IngestBatch) -> Sequence[Outcome]:
        indexed.extend(doc_ids([batch]))
        try:
            await later()
        except asyncio.CancelledError:
            interrupted.extend(doc_ids([batch]))
            raise
        return all_indexed(batch)

    await wire.broker.queue.offer(batches(1))
    async with working(wire.broker, job, lease_seconds=LEASE_SECONDS):
        await too_late.struck.wait()
        await wire.end_leases(batches(1))
        too_late.release()
        await wire.finished()
    assert lost.fired == lost.times
    assert indexed == doc_ids(batches(1)) * 2
    assert interrupted == doc_ids(batches(1))
    assert await wire.totals() == Totals(1, finished=1, waiting=0, dead=0)


@WHEN
@TIMES
async def test_a_failure_counts_once_although_its_nack_was_lost(
    wire: Wire, when: When, times: int
) -> None:
    tries: list[int] = []

    async def job(ctx: dict[str, Any], batch: IngestBatch) -> Sequence[Outcome]:
        tries.append(ctx["job_try"])
        if len(tries) == 1:
            raise RuntimeError("a passing fault")
        return all_indexed(batch)

    await wire.broker.queue.offer(batches(1))
    lost = wire.lose(when, script(wire.scripts.nack.sha), times=times)
    async with working(wire.broker, job):
        await wire.finished()
        await struck(lost, times)
    assert tries == [1, 2]
    assert await wire.totals() == Totals(1, finished=1, waiting=0, dead=0)


@WHEN
@TIMES
async def test_a_stopping_worker_nacks_its_job_without_counting_a_try(
    wire: Wire, when: When, times: int
) -> None:
    started = asyncio.Event()

    async def job(ctx: dict[str, Any], batch: IngestBatch) -> Sequence[Outcome]:
        started.set()
        await asyncio.Event().wait()
        return all_indexed(batch)

    await wire.broker.queue.offer(batches(1))
    lost = wire.lose(when, script(wire.scripts.nack.sha), times=times)
    async with working(wire.broker, job, drain_seconds=0):
        await asyncio.wait_for(started.wait(), SECONDS)
    assert lost.fired == times
    assert (await wire.direct.queue.depth()).ready == 1
    [claim] = await take(lease_queue(wire.direct))
    assert (claim.failures, claim.crashes) == (0, 0)
    assert await wire.totals() == Totals(1, finished=0, waiting=1, dead=0)


@WHEN
@TIMES
async def test_a_job_counts_once_although_its_ack_was_lost(
    wire: Wire, when: When, times: int
) -> None:
    indexed: list[str] = []
    await wire.broker.queue.offer(batches(1))
    lost = wire.lose(when, script(wire.scripts.ack.sha), times=times)
    with capture_logs() as log:
        async with working(wire.broker, index_and_note(indexed)):
            await wire.finished()
            await struck(lost, times)
            await wire.broker.queue.offer(batches(submission="later"))
            await wire.finished("later")
    assert sorted(indexed) == doc_ids(batches(1) + batches(submission="later"))
    assert await wire.totals() == Totals(1 + JOBS, finished=1 + JOBS, waiting=0, dead=0)
    said = Counter(line["event"] for line in log)
    unsure = 0 if when == "before" else 1  # this worker cannot know whether it finished the job
    assert said[events.LEASE_LOST] == unsure
    assert said[events.JOB_FINISHED] == 1 + JOBS - unsure


@WHEN
@TIMES
@pytest.mark.usefixtures("often_renewed")
async def test_a_worker_stays_listed_and_works_although_a_heartbeat_was_lost(
    wire: Wire, when: When, times: int
) -> None:
    indexed: list[str] = []
    heartbeats = script(wire.scripts.heartbeat.sha)
    lost = wire.lose(when, heartbeats, times=times)
    next_sign = wire.passing(heartbeats, nth=times + 1)
    async with working(wire.broker, index_and_note(indexed), lease_seconds=LEASE_SECONDS) as worker:
        await wire.broker.queue.offer(batches())
        await wire.finished()
        await next_sign()
        assert [sign.id for sign in await wire.direct.queue.workers()] == [worker.id]
    assert lost.fired == times
    assert await wire.totals() == Totals(JOBS, finished=JOBS, waiting=0, dead=0)


@WHEN
@TIMES
async def test_an_idle_worker_takes_new_jobs_although_its_wait_was_lost(
    wire: Wire, when: When, times: int
) -> None:
    indexed: list[str] = []
    lost = wire.lose(when, command("BLPOP"), times=times)
    async with working(wire.broker, index_and_note(indexed)):
        for i in range(times):  # each wakes it, so that the next wait can be lost
            await wire.broker.queue.offer(batches(1, submission=str(i)))
            await struck(lost, i + 1)
        for i in range(times):
            await wire.finished(str(i))
    assert lost.fired == times
    assert await wire.totals() == Totals(times, finished=times, waiting=0, dead=0)


@WHEN
async def test_a_worker_deregisters_although_the_connection_was_lost(
    wire: Wire, when: When
) -> None:
    indexed: list[str] = []
    await wire.broker.queue.offer(batches())
    async with working(wire.broker, index_and_note(indexed)):
        await wire.finished()
        lost = wire.lose(when, command("EXEC"))
    assert lost.fired == 1
    assert await wire.direct.queue.workers() == []


@WHEN
async def test_a_worker_stops_although_it_cannot_deregister(wire: Wire, when: When) -> None:
    """If the request is lost before, the worker stays listed until its heartbeat times out."""
    indexed: list[str] = []
    await wire.broker.queue.offer(batches())
    async with working(wire.broker, index_and_note(indexed)):
        await wire.finished()
        lost = wire.lose(when, command("EXEC"), times=TRIES)
    assert lost.fired == TRIES
    assert len(await wire.direct.queue.workers()) == (1 if when == "before" else 0)
    assert await wire.totals() == Totals(JOBS, finished=JOBS, waiting=0, dead=0)


async def dead_lettered(broker: Broker, batch: IngestBatch) -> None:
    """Queue ``batch`` and dead-letter it."""
    await broker.queue.offer([batch])
    leases = lease_queue(broker)
    [claim] = await take(leases)
    assert await finish(leases, claim, dead_letter_batch(batch_of(claim), "it is broken", tries=1))


@WHEN
@TIMES
async def test_a_dead_letter_is_requeued_once_although_the_connection_was_lost(
    wire: Wire, when: When, times: int
) -> None:
    await dead_lettered(wire.direct, *batches(1))
    dead_letters = DeadLetters(wire.broker.redis, wire.broker.config)
    lost = wire.lose(when, script(wire.scripts.requeue.sha), times=times)
    while lost.fired < times:  # as a user does who is told that Redis is away
        found = [dead_letter async for dead_letter in dead_letters.find(DeadLetterFilter())]
        try:
            await dead_letters.requeue(found, "again")
        except BrokerUnavailable:
            continue
        break
    assert await wire.totals() == Totals(accepted=2, finished=1, waiting=1, dead=0)

    indexed: list[str] = []
    async with working(wire.broker, index_and_note(indexed)):
        assert (await wire.finished("again")).documents.indexed == 1
    assert indexed == doc_ids(batches(1))
    assert await wire.totals() == Totals(accepted=2, finished=2, waiting=0, dead=0)


async def test_a_dead_letter_indexed_before_its_requeue_is_resent_is_not_run_again(
    wire: Wire,
) -> None:
    await dead_lettered(wire.direct, *batches(1))
    requeue = script(wire.scripts.requeue.sha)
    wire.lose("after", requeue)
    again = wire.proxy.hold_request(requeue, nth=2)
    dead_letters = DeadLetters(wire.broker.redis, wire.broker.config)
    found = [dead_letter async for dead_letter in dead_letters.find(DeadLetterFilter())]
    requeuing = asyncio.create_task(dead_letters.requeue(found, "again"))
    await again.struck.wait()
    async with working(wire.direct, index_and_note([])):
        await wire.finished("again")
    again.release()
    await requeuing
    assert await wire.totals() == Totals(accepted=2, finished=2, waiting=0, dead=0)


@WHEN
async def test_commands_say_what_they_did_although_the_answer_was_lost(
    wire: Wire, when: When
) -> None:
    tokens = ApiTokens(wire.broker.redis, wire.broker.config)
    scripts = wire.scripts
    for name in ("first", "second"):
        lost = wire.lose(when, script(scripts.create_token.sha))
        created = await tokens.create(TokenGrant(name))
        assert created is not None
        assert await tokens.admit(created[1].encode()) is not None
        assert lost.fired == 1
    assert await tokens.create(TokenGrant("first")) is None
    lost = wire.lose(when, script(scripts.revoke_token.sha))
    assert await tokens.revoke("first") == 1
    assert lost.fired == 1
    assert await tokens.revoke("first") is None

    dead_letters = DeadLetters(wire.broker.redis, wire.broker.config)
    for act, sent in (
        (dead_letters.purge, scripts.purge),
        (partial(dead_letters.requeue, submission="again"), scripts.requeue),
    ):
        await dead_lettered(wire.direct, *batches(1, sent.sha))
        found = [dead_letter async for dead_letter in dead_letters.find(DeadLetterFilter())]
        lost = wire.lose(when, script(sent.sha))
        assert await act(found) == 1
        assert lost.fired == 1
        assert await act(found) == 0


@WHEN
@TIMES
async def test_a_poison_job_runs_once_although_recording_its_progress_was_lost(
    wire: Wire, when: When, times: int
) -> None:
    indexed: list[str] = []
    [batch] = batches(1)
    await wire.direct.queue.offer([batch])
    for _ in range(2):  # workers that die at once
        await eventually(lambda: take(lease_queue(wire.direct, lease_seconds=0.01)))
    lost = wire.lose(when, script(wire.scripts.mark_alone.sha), times=times)
    async with working(wire.broker, index_and_note(indexed)):
        await wire.finished()
    assert lost.fired == times
    assert indexed == doc_ids([batch])
    assert await wire.totals() == Totals(1, finished=1, waiting=0, dead=0)


async def test_a_server_that_closes_every_connection_is_reported() -> None:
    """As a load balancer without servers does."""

    async def close(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_server(close, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(BrokerUnavailable, match="Redis does not answer"):
            async with connected(BrokerConfig(f"redis://127.0.0.1:{port}/1")):
                pass


async def test_no_document_is_lost_if_one_request_in_ten_is(wire: Wire) -> None:
    chance = Random(1)
    whens: tuple[When, When] = ("before", "after")
    lost = [
        wire.lose(when, lambda _: chance.random() < LOST_SHARE / 2, times=LOSSES_AT_MOST)
        for when in whens
    ]
    offered = batches(DOCUMENTS)
    indexed: list[str] = []
    async with working(wire.broker, index_and_note(indexed), lease_seconds=SHORT_LEASE_SECONDS):
        for batch in offered:
            await wire.broker.queue.enqueue([batch])
        await wire.finished()
    assert min(drop.fired for drop in lost) > 0
    assert set(indexed) == set(doc_ids(offered))
    assert await wire.totals() == Totals(DOCUMENTS, finished=DOCUMENTS, waiting=0, dead=0)
