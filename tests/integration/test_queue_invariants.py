"""Whatever happens, in whatever order: accepted = finished + dead + waiting, seen from outside."""

import asyncio
from collections.abc import Awaitable, Coroutine
from typing import Any, TypeVar

import msgspec
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

from broker import keys
from broker.connection import BrokerConfig, awaited, connect
from broker.contract import (
    BatchReport,
    DeadLetter,
    Document,
    DocumentCounts,
    IngestBatch,
    JobResult,
    bury,
    dead_letter_key,
    decode_job,
)
from broker.dead_letters import DeadLetters, LetterFilter
from broker.leases import Claim, LeaseQueue
from broker.queue import Enqueued, JobQueue

T = TypeVar("T")


class QueueMachine(RuleBasedStateMachine):
    """Producers, workers and an operator, against what they have to be able to rely on."""

    url: str
    claims: Bundle[Claim] = Bundle("claims")
    stale: Bundle[Claim] = Bundle("stale")

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        config = BrokerConfig(self.url, max_queue_jobs=5)
        self.redis = connect(config)
        self.queue = JobQueue(self.redis, config)
        self.leases = LeaseQueue(self.redis, config, lease_seconds=3600)
        self.letters = DeadLetters(self.redis, config)
        self.run(self.redis.flushdb())
        self.version = 0
        self.offered: list[IngestBatch] = []
        self.accepted = 0
        self.finished = 0
        self.dead: set[str] = set()
        self.submissions: set[str] = set()

    def run(self, work: Coroutine[Any, Any, T] | Awaitable[T]) -> T:
        async def done() -> T:
            return await work

        return self.runner.run(done())

    def teardown(self) -> None:
        self.run(self.redis.aclose())
        self.runner.close()

    @rule(ids=st.lists(st.sampled_from("abc"), min_size=1, max_size=3, unique=True))
    def enqueue(self, ids: list[str]) -> None:
        self.version += 1
        documents = tuple(
            Document(doc_id=i, version=self.version, source=i, text=i * 9) for i in ids
        )
        batch = IngestBatch(f"s{self.version % 2}", documents)
        waiting = self.run(self.redis.zcard(keys.QUEUE))
        [answer] = self.run(self.queue.offer([batch]))
        assert answer is (Enqueued.FULL if waiting >= 5 else Enqueued.ACCEPTED)
        if answer is Enqueued.ACCEPTED:
            self.offered.append(batch)
            self.accepted += len(ids)
            self.submissions.add(batch.submission)

    @rule()
    def enqueue_again_after_a_lost_connection(self) -> None:
        if self.offered:
            answers = self.run(self.queue.offer(self.offered))
            assert set(answers) == {Enqueued.DUPLICATE}

    @rule(target=claims, n=st.integers(1, 3))
    def claim(self, n: int) -> Any:
        return multiple(*self.run(self.leases.claim(n)))

    @rule(claim=claims)
    def renew(self, claim: Claim) -> None:
        assert self.run(self.leases.renew([claim])) == frozenset()

    @rule(target=stale, claim=consumes(claims))
    def lease_expires(self, claim: Claim) -> Claim:
        """The worker died, or was stopped or cut off for too long."""
        self.run(self.redis.delete(keys.LEASE + claim.job_id))
        now_ms = self.run(self.queue.now()) // 1000
        self.run(self.redis.zadd(keys.QUEUE, {claim.job_id: now_ms}, xx=True))
        return claim

    @rule(claim=consumes(claims), failed=st.booleans())
    def put_back(self, claim: Claim, failed: bool) -> None:
        submission = decode_job(claim.payload).args[0].submission
        assert self.run(self.leases.put_back(claim, submission, delay_seconds=0, failed=failed))

    @rule(claim=consumes(claims), dead=st.integers(0, 3))
    def finish(self, claim: Claim, dead: int) -> None:
        batch = decode_job(claim.payload).args[0]
        assert self.settle(claim, report(batch, dead))
        self.finished += len(batch.documents)
        self.dead -= {document.doc_id for document in batch.documents[dead:]}
        self.dead |= {document.doc_id for document in batch.documents[:dead]}

    @rule(claim=stale, dead=st.integers(0, 3))
    def finish_late(self, claim: Claim, dead: int) -> None:
        batch = decode_job(claim.payload).args[0]
        assert not self.settle(claim, report(batch, dead))
        assert not self.run(
            self.leases.put_back(claim, batch.submission, delay_seconds=0, failed=True)
        )
        assert self.run(self.leases.renew([claim])) == {claim.token}

    @rule()
    def requeue(self) -> None:
        self.version += 1
        submission = f"requeued-{self.version}"

        async def again() -> int:
            found = [stored async for stored in self.letters.find(LetterFilter())]
            requeued = await self.letters.requeue(found, submission)
            assert requeued == len(found)
            return requeued

        self.accepted += self.run(again())
        self.dead = set()
        self.submissions.add(submission)

    @invariant()
    def nothing_is_lost_and_nothing_counted_twice(self) -> None:
        self.run(self.check())

    async def check(self) -> None:
        statuses = [await self.queue.submission(name) for name in self.submissions]
        assert sum(status.accepted for status in statuses) == self.accepted
        assert sum(status.documents.total for status in statuses) == self.finished
        ids = [job_id.decode() for job_id in await self.redis.zrange(keys.QUEUE, 0, -1)]
        payloads = [await self.redis.get(keys.JOB + job_id) for job_id in ids]
        waiting = [document for p in payloads for document in decode_job(p).args[0].documents]
        assert self.accepted == self.finished + len(waiting)

        depth = await self.queue.depth()
        assert depth.queued_bytes == sum(map(len, payloads))
        assert depth.ready + depth.deferred + depth.in_flight == len(ids)
        stored = await awaited(self.redis.hvals(keys.DEAD))
        letters = [msgspec.msgpack.decode(raw, type=DeadLetter) for raw in stored]
        assert sorted(letter.doc_id for letter in letters) == sorted(self.dead)
        assert depth.dead_letters == len(self.dead)
        assert len(await self.redis.keys(keys.JOB + "*")) == len(ids)

    def settle(self, claim: Claim, outcome: BatchReport) -> bool:
        submission = decode_job(claim.payload).args[0].submission
        result = JobResult("ingest", 1, 0, True, outcome, 0, 0, keys.QUEUE, claim.job_id)
        return self.run(self.leases.finish(claim, submission, outcome, result))


def report(batch: IngestBatch, dead: int) -> BatchReport:
    """The first ``dead`` documents failed, the others are indexed."""
    failed, good = batch.documents[:dead], batch.documents[dead:]
    buried = bury(IngestBatch(batch.submission, failed), "because", tries=1)
    return BatchReport(
        documents=DocumentCounts(indexed=len(good), rejected=len(failed)),
        dead=buried.dead,
        healed=tuple(map(dead_letter_key, good)),
    )


@pytest.mark.timeout(600)
def test_the_books_balance(redis_url: str) -> None:
    machine = type("Machine", (QueueMachine,), {"url": redis_url})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=60,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
