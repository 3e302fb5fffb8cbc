"""In any order of events, accepted = finished + dead + waiting, as counted from Redis itself."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Coroutine
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from ingestq.broker import keys
from ingestq.broker.connection import BrokerConfig, awaited, connect
from ingestq.broker.queue.dead_letters import DeadLetterFilter, DeadLetters
from ingestq.broker.queue.job_queue import JobQueue
from ingestq.broker.queue.leases import Claim, LeaseQueue
from ingestq.core.documents import Document, Lane
from ingestq.core.jobs import IngestBatch, dead_letter_batch
from ingestq.core.results import BatchReport, DocumentCounts, EnqueueResult
from ingestq.core.versions import FIRST_ISSUED, is_issued
from ingestq.core.webhooks import Subscriptions, WebhookEvent
from tests import claims as worker
from tests.books import balanced
from tests.claims import batch_of
from tests.examples import few_or_many

T = TypeVar("T")

MAX_JOBS = 5
FINISHED, DEAD_LETTERED = WebhookEvent.SUBMISSION_FINISHED, WebhookEvent.DOCUMENT_DEAD_LETTERED
WEBHOOKS = Subscriptions({FINISHED: ("t",), DEAD_LETTERED: ("t",)})
SERVING = ({"x": "x__1", "y": "y__1"}, {"y": "y__1"})
"""The collections that each of two workers serves. No worker serves z."""


class QueueMachine(RuleBasedStateMachine):
    """Producers, workers and an operator take steps in any order, and the counts must balance."""

    url: str
    claims: Bundle[Claim] = Bundle("claims")
    stale: Bundle[Claim] = Bundle("stale")

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        config = BrokerConfig(self.url, max_queue_jobs=MAX_JOBS)
        self.redis = connect(config)
        self.queue = JobQueue(self.redis, config)
        self.workers = [
            LeaseQueue(self.redis, config, 3600, serving, webhooks=WEBHOOKS) for serving in SERVING
        ]
        self.leases = self.workers[0]
        self.dead_letters = DeadLetters(self.redis, config)
        self.run(self.redis.flushdb())
        self.version = 0
        self.offered: list[IngestBatch] = []
        self.accepted = 0
        self.finished = 0
        self.crashes: Counter[str] = Counter()
        self.dead: dict[str, int] = {}
        """The versions that failed, by the keys of their dead letters."""
        self.jobs: Counter[str] = Counter()
        """The jobs of each submission that are not finished."""
        self.finishes: Counter[str] = Counter()
        """How often each submission was finished: it may get documents again afterwards."""
        self.failures = 0

    def run(self, work: Coroutine[Any, Any, T] | Awaitable[T]) -> T:
        async def done() -> T:
            return await work

        return self.runner.run(done())

    def teardown(self) -> None:
        self.run(self.redis.aclose())
        self.runner.close()

    @rule(
        ids=st.lists(st.sampled_from("abc"), min_size=1, max_size=3, unique=True),
        lane=st.sampled_from(Lane),
        owner=st.tuples(st.sampled_from(["", "t"]), st.sampled_from("xyz")),
        scale=st.sampled_from([0, FIRST_ISSUED]),
    )
    def enqueue(self, ids: list[str], lane: Lane, owner: tuple[str, str], scale: int) -> None:
        self.version += 1
        tenant, collection = owner
        documents = tuple(
            Document(
                doc_id=i,
                version=scale + self.version,
                source=i,
                text=i * 9,
                tenant=tenant,
                collection=collection,
            )
            for i in ids
        )
        batch = IngestBatch(f"s{self.version % 2}", documents, lane)
        waiting = self.run(self.redis.zcard(keys.QUEUE))
        [answer] = self.run(self.queue.offer([batch]))
        assert answer is (EnqueueResult.FULL if waiting >= MAX_JOBS else EnqueueResult.ACCEPTED)
        if answer is EnqueueResult.ACCEPTED:
            self.offered.append(batch)
            self.accepted += len(ids)
            self.jobs[batch.submission] += 1

    @rule()
    def enqueue_again_after_a_lost_connection(self) -> None:
        if self.offered:
            answers = self.run(self.queue.offer(self.offered))
            assert set(answers) == {EnqueueResult.DUPLICATE}

    @rule(target=claims, n=st.integers(1, 3), who=st.sampled_from([0, 1]))
    def claim(self, n: int, who: int) -> Any:
        """Claim jobs; each is given to a worker that serves its collection."""
        claimed = self.run(self.workers[who].claim(f"w{who}", n, bulk=n, running=0)).claims
        for claim in claimed:
            assert claim.collection in SERVING[who]
            assert batch_of(claim).collection == claim.collection
            assert claim.crashes == self.crashes[claim.job_id]
            assert claim.is_poison == (claim.crashes >= 2)
            assert len(claimed) == 1 or not claim.is_poison
        return multiple(*claimed)

    @rule(target=claims)
    def claim_while_busy(self) -> Any:
        """Claim as a busy worker, which never gets a poison job but may be told to drain."""
        claimed = self.run(self.leases.claim("w0", 3, bulk=1, running=1))
        assert not any(claim.is_poison for claim in claimed.claims)
        assert sum(claim.lane is Lane.BULK for claim in claimed.claims) <= 1
        assert not (claimed.drain and claimed.claims)
        return multiple(*claimed.claims)

    @rule(claim=claims)
    def renew(self, claim: Claim) -> None:
        assert self.run(self.leases.renew([claim])) == frozenset()

    @rule(claim=claims)
    def write_down_that_it_is_alone(self, claim: Claim) -> None:
        assert self.run(self.leases.mark_alone(claim, 0))

    @rule(target=stale, claim=consumes(claims))
    def lease_expires(self, claim: Claim) -> Claim:
        """Let the lease expire, as if the worker had died or been disconnected."""
        self.run(self.redis.delete(keys.LEASE + claim.job_id))
        now_ms = self.run(self.queue.issue_version()) // 1000
        self.run(self.redis.zadd(keys.QUEUE, {claim.job_id: now_ms}, xx=True))
        self.crashes[claim.job_id] += 1
        return claim

    @rule(claim=consumes(claims), failed=st.booleans(), delay=st.sampled_from([0, 0.001, 60]))
    def nack(self, claim: Claim, failed: bool, delay: float) -> None:
        assert self.run(self.leases.nack(claim, delay_seconds=delay, counts_as_try=failed))

    @rule(claim=consumes(claims), dead=st.integers(0, 3))
    def finish(self, claim: Claim, dead: int) -> None:
        batch = batch_of(claim)
        assert self.run(worker.finish(self.leases, claim, report(batch, dead)))
        self.finished += len(batch.documents)
        for position, (key, version) in enumerate(batch.versions.items()):
            known = self.dead.get(key, 0)
            if is_issued(known) == is_issued(version) and known > version:
                continue  # a newer version has failed meanwhile
            if position < dead:
                self.failures += 1
                self.dead[key] = version
            else:
                self.dead.pop(key, None)
        del self.crashes[claim.job_id]
        self.jobs[batch.submission] -= 1
        if not self.jobs[batch.submission]:
            self.finishes[batch.submission] += 1

    @rule(claim=stale, dead=st.integers(0, 3))
    def finish_late(self, claim: Claim, dead: int) -> None:
        late = report(batch_of(claim), dead)
        assert not self.run(worker.finish(self.leases, claim, late))
        assert not self.run(self.leases.nack(claim, delay_seconds=0, counts_as_try=True))
        assert not self.run(self.leases.mark_alone(claim, 0))
        assert self.run(self.leases.renew([claim])) == {claim.token}

    @rule()
    def abort_and_enqueue_again(self) -> None:
        """Abort a job that has ended, and enqueue it again: the abort must not affect it."""
        self.run(self.redis.zadd(keys.ABORT, {"long gone": 1}))
        self.run(self.leases.claim("w0", 0, bulk=0, running=1))
        assert self.run(self.leases.aborted()) == frozenset()

    @rule()
    def requeue(self) -> None:
        self.version += 1
        submission = f"requeued-{self.version}"

        async def again() -> int:
            found = [stored async for stored in self.dead_letters.find(DeadLetterFilter())]
            requeued = await self.dead_letters.requeue(found, submission)
            assert requeued == len(found)
            return requeued

        requeued = self.run(again())
        self.accepted += requeued
        self.jobs[submission] += requeued
        self.dead = {}

    @invariant()
    def nothing_is_lost_and_nothing_counted_twice(self) -> None:
        self.run(self.check())

    async def check(self) -> None:
        totals = await balanced(self.redis)
        assert totals.accepted == self.accepted
        assert totals.finished == self.finished
        find = self.dead_letters.find(DeadLetterFilter())
        stored = [found.dead_letter async for found in find]
        assert {dead_letter.key: dead_letter.version for dead_letter in stored} == self.dead

        # Webhooks are told once of each finished submission, and of each dead letter.
        written = await self.webhooks()
        assert written[DEAD_LETTERED] == self.failures
        assert written[FINISHED] == self.finishes.total()

        depth = await self.queue.depth()
        jobs = await self.redis.zcard(keys.QUEUE)
        assert depth.ready + depth.deferred + depth.in_flight == jobs
        assert depth.interactive + depth.bulk == jobs
        assert depth.dead_letters == len(self.dead)
        counts = [await self.queue.count_jobs([name]) for name in "xyz"]
        assert sum(count.jobs for count in counts) == jobs

    async def webhooks(self) -> Counter[str]:
        """Count the messages in the outbox by event."""
        waiting = await self.redis.zrange(keys.WEBHOOKS_WAITING + "t", 0, -1)
        assert len(await self.redis.zrange(keys.WEBHOOKS_DUE + "t", 0, -1)) == len(waiting)
        of_messages = [
            await awaited(self.redis.hgetall(keys.WEBHOOK + i.decode())) for i in waiting
        ]
        return Counter(fields[b"event"].decode() for fields in of_messages)


def report(batch: IngestBatch, dead: int) -> BatchReport:
    """Return a report in which the first ``dead`` documents failed and the others are indexed."""
    failed, good = batch.documents[:dead], batch.documents[dead:]
    resolved = IngestBatch(batch.submission, good).versions if good else {}
    outcome = BatchReport(DocumentCounts(indexed=len(good)), resolved=resolved)
    if failed:
        outcome += dead_letter_batch(IngestBatch(batch.submission, failed), "because", tries=1)
    return outcome


@pytest.mark.timeout(600)
@few_or_many(20, 100)
def test_every_accepted_document_is_counted_exactly_once(redis_url: str, examples: int) -> None:
    machine = type("Machine", (QueueMachine,), {"url": redis_url})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
