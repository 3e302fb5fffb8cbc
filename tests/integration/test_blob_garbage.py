"""Garbage collection deletes all blobs that are not needed, and no others."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from tempfile import TemporaryDirectory
from typing import Any, TypeVar, cast

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from redis.asyncio import Redis

from ingestq.app.composition import Broker
from ingestq.broker import keys
from ingestq.broker.blobs import open_blob_store
from ingestq.broker.blobs.garbage import MAX_PASSES, GarbageCollector
from ingestq.broker.blobs.store import UNFINISHED
from ingestq.broker.connection import BrokerConfig, awaited, connect
from ingestq.broker.queue.dead_letters import DeadLetterFilter, StoredDeadLetter
from ingestq.broker.queue.leases import LeaseQueue
from ingestq.broker.queue.pending import job_payloads
from ingestq.core.blobs import GARBAGE_AGE_MS, new_blob_name
from ingestq.core.documents import Document
from ingestq.core.jobs import IngestBatch, blobs_in, dead_letter_batch
from ingestq.core.results import BatchReport, DeadLetter, DocumentCounts
from tests.claims import DOCUMENTS, batch_of, finish, lease_queue, take

T = TypeVar("T")

LONG_AGO_US = (GARBAGE_AGE_MS + 60_000) * 1000


async def nothing() -> AsyncIterator[bytes]:
    yield b"content"


class Desk:
    """A queue with its dead letters and blob store, and the steps that people take with them."""

    def __init__(self, broker: Broker) -> None:
        assert broker.blobs is not None
        self.broker = broker
        self.blobs = broker.blobs
        self.redis = broker.redis
        self.queue = broker.queue
        self.dead_letters = broker.dead_letters
        self.leases = lease_queue(broker, 3600)
        self.garbage_collector = GarbageCollector(broker.redis, broker.config, broker.blobs)
        self.made = 0

    async def write(self, *, age_us: int = 0) -> str:
        """Write a blob to which nothing refers yet."""
        space, now_us = await self.queue.space()
        name = new_blob_name(space, now_us - age_us)
        await self.blobs.put(name, nothing())
        return name

    def about(self, name: str, doc_id: str | None = None) -> IngestBatch:
        self.made += 1
        doc_id = f"doc-{self.made}" if doc_id is None else doc_id
        document = Document(
            collection="documents", doc_id=doc_id, version=self.made, source="s", blob=name
        )
        return IngestBatch(f"s{self.made}", (document,))

    async def add_old_dead_letter(self) -> None:
        """Store a dead letter that refers to a blob, both from yesterday."""
        batch = self.about(await self.write(age_us=LONG_AGO_US))
        [dead_letter] = dead_letter_batch(batch, "broken", tries=1).dead
        await self.put_dead_letter(dead_letter)

    async def put_dead_letter(self, dead_letter: DeadLetter) -> None:
        fields: dict[Any, Any] = {dead_letter.key: msgspec.msgpack.encode(dead_letter)}
        await awaited(self.redis.hset(keys.DEAD, mapping=fields))

    async def found(self) -> list[StoredDeadLetter]:
        return [stored async for stored in self.dead_letters.find(DeadLetterFilter())]

    async def named(self) -> set[str]:
        """Return the names of the blobs that jobs and dead letters refer to."""
        named: set[str] = set()
        async for some in job_payloads(self.redis):
            named.update(*map(blobs_in, some))
        named.update(*[blobs_in(stored.dead_letter.payload) for stored in await self.found()])
        return named

    async def there(self) -> set[str]:
        space, _ = await self.queue.space()
        return set(await self.blobs.names(space))


@pytest.fixture
def desk(broker: Broker) -> Desk:
    return Desk(broker)


class BlobMachine(RuleBasedStateMachine):
    """Producers, workers and an operator, any of whom may die between two steps."""

    url: str

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = TemporaryDirectory()
        config = BrokerConfig(self.url)
        self.redis = connect(config)
        self.desk = Desk(Broker(self.redis, config, open_blob_store(self.folder.name)))
        # Dies before it deletes a blob.
        self.forgetful = LeaseQueue(self.redis, config, 3600, DOCUMENTS)
        self.run(self.redis.flushdb())
        self.under_way: list[str] = []

    def run(self, work: Coroutine[Any, Any, T] | Awaitable[T]) -> T:
        async def done() -> T:
            return await work

        return self.runner.run(done())

    def teardown(self) -> None:
        self.run(self.redis.aclose())
        self.runner.close()
        self.folder.cleanup()

    @rule()
    def begin_an_upload(self) -> None:
        self.under_way.append(self.run(self.desk.write()))

    @rule(doc_id=st.sampled_from(["same", None]))
    def queue_an_upload(self, doc_id: str | None) -> None:
        if self.under_way:
            batch = self.desk.about(self.under_way.pop(), doc_id)
            self.run(self.desk.queue.offer([batch]))

    @rule()
    def die_over_an_upload(self) -> None:
        self.run(self.desk.write(age_us=LONG_AGO_US))

    @rule()
    def add_old_dead_letter(self) -> None:
        self.run(self.desk.add_old_dead_letter())

    @rule()
    def requeue(self) -> None:
        dead_letters = self.run(self.desk.found())
        self.run(self.desk.dead_letters.requeue(dead_letters[:2], "again"))

    @rule()
    def purge(self) -> None:
        dead_letters = self.run(self.desk.found())
        self.run(self.desk.dead_letters.purge(dead_letters[:1]))

    @rule(good=st.booleans(), dies=st.booleans())
    def work(self, good: bool, dies: bool) -> None:
        leases = self.forgetful if dies else self.desk.leases
        for claim in self.run(take(leases)):
            batch = batch_of(claim)
            report = BatchReport(DocumentCounts(indexed=1), resolved=batch.versions)
            report = report if good else dead_letter_batch(batch, "broken", tries=1)
            assert self.run(finish(leases, claim, report))

    @rule()
    def clean(self) -> None:
        self.run(self.desk.garbage_collector.collect())
        there, named = self.run(self.desk.there()), self.run(self.desk.named())
        now_ms = self.run(self.desk.queue.issue_version()) // 1000
        old = {name for name in there if is_old(name, now_ms)}
        assert old <= named
        assert set(self.under_way) <= there

    @invariant()
    def what_is_named_is_there(self) -> None:
        assert self.run(self.desk.named()) <= self.run(self.desk.there())


def is_old(name: str, now_ms: int) -> bool:
    return int(name.partition("/")[2].partition("-")[0], 16) // 1000 < now_ms - GARBAGE_AGE_MS


@pytest.mark.timeout(600)
def test_blobs_in_use_are_never_collected(redis_url: str) -> None:
    machine = type("Machine", (BlobMachine,), {"url": redis_url})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=12,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


async def test_blobs_of_abandoned_uploads_are_collected(desk: Desk) -> None:
    name = await desk.write(age_us=LONG_AGO_US)
    space, now_us = await desk.queue.space()
    await desk.blobs.put(new_blob_name(space, now_us - LONG_AGO_US) + UNFINISHED, nothing())
    await desk.blobs.put(f"{space}/notes", nothing())
    assert await desk.garbage_collector.collect() == 2
    assert await desk.there() == {f"{space}/notes"}
    assert name not in await desk.there()


async def test_blobs_of_other_queues_in_the_same_store_are_kept(desk: Desk) -> None:
    theirs = await desk.write(age_us=LONG_AGO_US)
    await desk.redis.delete(keys.BLOB_SPACE)  # as in another Redis
    assert await desk.garbage_collector.collect() == 0
    assert await desk.blobs.size(theirs)


async def test_nothing_is_collected_while_a_dead_letter_cannot_be_read(desk: Desk) -> None:
    await desk.write(age_us=LONG_AGO_US)
    [dead_letter] = dead_letter_batch(desk.about(await desk.write()), "broken", tries=1).dead
    newer = msgspec.structs.replace(dead_letter, payload=b"of a version to come")
    await desk.put_dead_letter(newer)
    assert await desk.garbage_collector.collect() == 0
    await desk.dead_letters.purge(await desk.found())
    assert await desk.garbage_collector.collect() == 1


class Between:
    """Redis that runs ``step`` after the jobs have been read and before the dead letters are."""

    def __init__(self, redis: Redis, step: Callable[[], Awaitable[None]]) -> None:
        self._redis = redis
        self._step = step

    def __getattr__(self, name: str) -> Any:
        return getattr(self._redis, name)

    async def hscan_iter(self, name: str) -> AsyncIterator[Any]:
        await self._step()
        async for item in self._redis.hscan_iter(name):
            yield item


@pytest.mark.parametrize("times", [1, MAX_PASSES])
async def test_blobs_of_a_dead_letter_that_is_requeued_meanwhile_are_kept(
    desk: Desk, times: int
) -> None:
    await desk.add_old_dead_letter()
    garbage = await desk.write(age_us=LONG_AGO_US)
    steps = 0

    async def requeue() -> None:
        """Requeue the dead letter, which may have become one again since the last pass."""
        nonlocal steps
        steps += 1
        if steps <= times:
            await desk.dead_letters.requeue(await desk.found(), "again")

    async def fail() -> None:
        [claim] = await take(desk.leases)
        await finish(desk.leases, claim, dead_letter_batch(batch_of(claim), "broken", tries=1))

    async def step() -> None:
        await requeue()
        if times > 1 and steps < times:
            await fail()

    broker = desk.broker
    redis = cast(Redis, Between(broker.redis, step))
    removed = await GarbageCollector(redis, broker.config, desk.blobs).collect()
    assert removed == (1 if times < MAX_PASSES else 0)
    assert await desk.named() <= await desk.there()
    assert (garbage in await desk.there()) == (times == MAX_PASSES)
