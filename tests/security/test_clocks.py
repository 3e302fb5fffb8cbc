"""Whatever the clock of Redis does, the newest version wins, and nothing is lost or stuck."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from ingestq.app.composition import Broker
from ingestq.broker import keys
from ingestq.broker.blobs.garbage import GarbageCollector
from ingestq.broker.connection import BrokerConfig, awaited, connected
from ingestq.broker.queue.job_queue import JobQueue
from ingestq.broker.queue.leases import Claim, LeaseQueue
from ingestq.broker.queue.versions import SUPPLY, VersionSupply
from ingestq.broker.schedule.runs import EntryStatus, RunClaim, Runs
from ingestq.broker.tokens import ApiTokens
from ingestq.core.documents import Deletion, Document
from ingestq.core.errors import UploadExpired
from ingestq.core.jobs import Batch, DeleteBatch, IngestBatch, dead_letter_batch
from ingestq.core.results import BatchReport, DocumentCounts, WorkerInfo
from ingestq.core.tokens import TokenGrant
from ingestq.core.versions import LAST_ISSUED, LedgerHead
from producers.schedule.entry import Timetable
from tests.claims import DOCUMENTS, finish, lease_queue, take
from tests.command import CommandResult, Ingestq
from tests.examples import few_or_many
from tests.skewed_redis import DAY, YEAR, SkewedRedis
from tests.waiting import eventually
from worker.pipeline.points import Fence

LEASE_SECONDS = 1.0
"""Of workers that are dead."""
LONG_LEASE_SECONDS = 3600
"""Of workers that live, however long they stand still."""
AT_ONCE_SECONDS = 60
INDEXED = BatchReport(DocumentCounts(indexed=1))


def document(
    doc_id: str, version: int, *, text: str | None = "t", blob: str | None = None
) -> Document:
    return Document(
        doc_id=doc_id, version=version, source="s", collection="documents", text=text, blob=blob
    )


async def queue_one(broker: Broker, doc_id: str = "a", submission: str = "s") -> IngestBatch:
    version = await broker.queue.issue_version()
    batch = IngestBatch(submission, (document(doc_id, version),))
    await broker.queue.enqueue([batch])
    return batch


@dataclass(frozen=True)
class Shelf:
    """A folder that is indexed with the commands."""

    folder: Path
    ingestq: Ingestq

    def write(self, text: str) -> None:
        (self.folder / "note.txt").write_text(text)

    async def run(self) -> CommandResult:
        ran = await self.ingestq.ended("run", self.folder, "--json")
        assert ran.code == 0, ran.err
        return ran

    async def finds(self, text: str) -> bool:
        found = await self.ingestq.ended("search", text, "--json")
        return any(hit["text"] == text for hit in found.json["hits"])


@pytest.fixture
async def shelf(skewed: Broker, tmp_path: Path) -> Shelf:
    folder = tmp_path / "shelf"
    folder.mkdir()
    settings = {"redis_url": skewed.config.url, "pool_size": "1"}
    return Shelf(folder, Ingestq(tmp_path, settings))


OLD = "The lamp was lit at dusk."
NEW = "The harbour froze in March."
NEWEST = "Bread is baked on Fridays."


@pytest.mark.slow
async def test_edits_and_deletions_win_on_a_clock_that_was_set_back(
    shelf: Shelf, skewed_server: SkewedRedis, skewed: Broker
) -> None:
    shelf.write(OLD)
    await shelf.run()
    skewed_server.set_clock(-DAY)

    shelf.write(NEW)
    assert (await shelf.run()).json["documents"]["indexed"] == 1
    assert await shelf.finds(NEW)
    assert not await shelf.finds(OLD)

    doc_id = str(shelf.folder / "note.txt")
    deleted = await shelf.ingestq.ended("delete", doc_id)
    assert deleted.code == 0, deleted.err
    other = shelf.folder.parent / "other"
    other.mkdir()
    assert (await shelf.ingestq.ended("run", other)).code == 0
    assert not await shelf.finds(NEW)

    shelf.write(NEWEST)
    assert (await shelf.run()).json["documents"]["indexed"] == 1
    assert await shelf.finds(NEWEST)
    (shelf.folder / "note.txt").unlink()
    (shelf.folder / "other.txt").write_text("An empty folder may only be away.")
    assert (await shelf.run()).json["documents"]["deleted"] == 1
    assert not await shelf.finds(NEWEST)

    status = (await shelf.ingestq.ended("status", "--json")).json
    assert status["versions"]["ahead_seconds"] > DAY / 2


@pytest.mark.slow
async def test_edits_win_over_a_ledger_that_is_ahead_of_a_new_redis(
    shelf: Shelf, skewed_server: SkewedRedis, skewed: Broker
) -> None:
    """The edit is on the queue before a worker has seen the ledger."""
    shelf.write(OLD)
    await shelf.run()
    await skewed.redis.flushdb()
    skewed_server.set_clock(-DAY)

    shelf.write(NEW)
    added = await shelf.ingestq.ended("add", shelf.folder)
    assert added.code == 0, added.err
    other = shelf.folder.parent / "other"
    other.mkdir()
    ran = await shelf.ingestq.ended("run", other)
    assert ran.code == 0
    assert "ledger.ahead" in ran.err
    assert await shelf.finds(NEW)
    assert not await shelf.finds(OLD)

    shelf.write(NEWEST)
    assert (await shelf.run()).json["documents"]["indexed"] == 1
    assert await shelf.finds(NEWEST)


@pytest.mark.parametrize("skew", [-DAY, YEAR, 200 * YEAR, -50 * YEAR])
async def test_versions_only_grow(skewed: Broker, skewed_server: SkewedRedis, skew: int) -> None:
    before = [await skewed.queue.issue_version() for _ in range(3)]
    skewed_server.set_clock(skew)
    wrong = [await skewed.queue.issue_version() for _ in range(3)]
    skewed_server.set_clock(0)
    after = [await skewed.queue.issue_version() for _ in range(3)]
    versions = [*before, *wrong, *after]
    assert sorted(set(versions)) == versions
    assert versions[-1] <= LAST_ISSUED


async def test_a_version_is_newer_than_those_that_callers_queued(skewed: Broker) -> None:
    """A caller may use times in microseconds, and have a clock that is ahead."""
    ahead = await skewed.queue.issue_version() + DAY * 1_000_000
    await skewed.queue.enqueue([IngestBatch("s", (document("a", ahead),))])
    assert await skewed.queue.issue_version() > ahead


def shows(skew: int, now: tuple[int, int]) -> bool:
    """Return whether the time that Redis shows has this skew."""
    return abs(now[0] - time.time() - skew) < AT_ONCE_SECONDS / 2


async def test_a_limited_token_is_not_refused_for_as_long_as_the_clock_was_set_back(
    skewed: Broker, skewed_server: SkewedRedis
) -> None:
    tokens = ApiTokens(skewed.redis, skewed.config)
    created = await tokens.create(TokenGrant("t", per_minute=1))
    assert created is not None
    waits = []
    for clock in (DAY, 0, 61):
        skewed_server.set_clock(clock)
        await eventually(skewed.redis.time, partial(shows, clock))
        admission = await tokens.admit(created[1].encode())
        assert admission is not None
        assert admission.rate is not None
        waits.append(admission.rate.wait_seconds)
    assert waits == [0, pytest.approx(60, abs=5), 0]


async def test_a_version_near_the_limit_leaves_versions_to_issue(skewed: Broker) -> None:
    await skewed.queue.enqueue([IngestBatch("s", (document("a", 2**53 - 1),))])
    assert await skewed.queue.issue_version() < LAST_ISSUED


async def test_the_job_of_a_dead_worker_is_not_held_until_the_clock_catches_up(
    skewed: Broker, skewed_server: SkewedRedis
) -> None:
    skewed_server.set_clock(YEAR)
    await queue_one(skewed)
    [lost] = await take(lease_queue(skewed, LEASE_SECONDS))
    skewed_server.set_clock(0)
    leases = lease_queue(skewed, LONG_LEASE_SECONDS)
    [again] = await eventually(lambda: take(leases), seconds=AT_ONCE_SECONDS)
    assert again.job_id == lost.job_id
    assert not await finish(leases, lost, INDEXED)
    assert await finish(leases, again, INDEXED)


async def test_a_live_worker_keeps_its_job_when_the_clock_is_set_back(
    skewed: Broker, skewed_server: SkewedRedis
) -> None:
    skewed_server.set_clock(YEAR)
    await queue_one(skewed)
    leases = lease_queue(skewed, 60)
    [ours] = await take(leases)
    skewed_server.set_clock(0)
    assert await take(lease_queue(skewed, LEASE_SECONDS)) == []
    assert await leases.renew([ours]) == frozenset()
    assert await finish(leases, ours, INDEXED)


async def test_a_delay_does_not_become_longer_when_the_clock_is_set_back(
    skewed: Broker, skewed_server: SkewedRedis
) -> None:
    skewed_server.set_clock(YEAR)
    await queue_one(skewed)
    leases = lease_queue(skewed, LONG_LEASE_SECONDS)
    [claimed] = await take(leases)
    assert await leases.nack(claimed, delay_seconds=2, counts_as_try=True)
    skewed_server.set_clock(0)
    [again] = await eventually(lambda: take(leases), seconds=AT_ONCE_SECONDS)
    assert again.failures == 1


async def test_a_clock_that_leaps_costs_running_jobs_at_most_a_try(
    skewed: Broker, skewed_server: SkewedRedis
) -> None:
    """All leases expire at once; the submission is still followed to its end."""
    batch = await queue_one(skewed)
    [lost] = await take(lease_queue(skewed, LEASE_SECONDS))
    skewed_server.set_clock(YEAR)
    leases = lease_queue(skewed, LONG_LEASE_SECONDS)
    # Redis may look at its clock once more before it sees the lease as over: one lease at most.
    [again] = await eventually(lambda: take(leases), seconds=LEASE_SECONDS + AT_ONCE_SECONDS)
    assert not await finish(leases, lost, INDEXED)
    skewed_server.set_clock(0)
    status = await skewed.queue.submission(batch.submission)
    assert (status.accepted, status.complete) == (1, False)
    assert await finish(leases, again, INDEXED)
    assert (await skewed.queue.submission(batch.submission)).complete


async def test_a_dead_worker_is_forgotten_when_the_clock_is_set_back(
    skewed: Broker, skewed_server: SkewedRedis
) -> None:
    leases = lease_queue(skewed)
    skewed_server.set_clock(YEAR)
    await leases.heartbeat("dead", WorkerInfo("h", 1, 0, 0, 0))
    skewed_server.set_clock(0)
    assert await skewed.queue.workers() == []
    await leases.heartbeat("alive", WorkerInfo("h", 2, 0, 0, 0))
    [worker] = await skewed.queue.workers()
    assert (worker.id, worker.seen_seconds_ago >= 0) == ("alive", True)
    assert await awaited(skewed.redis.hkeys(keys.WORKER_INFO)) == [b"alive"]


async def test_the_gate_of_a_dead_process_opens_when_the_clock_is_set_back(
    skewed: Broker, skewed_server: SkewedRedis
) -> None:
    skewed_server.set_clock(YEAR)
    await queue_one(skewed)
    gate = keys.GATE + DOCUMENTS["documents"]
    await skewed.redis.set(gate, "", px=keys.GATE_SHUT_MS)
    skewed_server.set_clock(0)
    leases = lease_queue(skewed)
    assert await take(leases) == []
    assert await skewed.redis.pttl(gate) <= keys.GATE_SHUT_MS


HOURLY = Timetable("0 * * * *")


async def test_scheduled_runs_go_on_when_the_clock_is_set_back(
    skewed: Broker, skewed_server: SkewedRedis
) -> None:
    runs = Runs(skewed.redis, skewed.config)
    skewed_server.set_clock(YEAR)
    due_ms = await runs.begun_until("e")
    begun = await runs.begin("e", due_ms=due_ms + 1, lease_ms=int(LEASE_SECONDS * 1000))
    assert isinstance(begun, RunClaim)
    await runs.publish([EntryStatus(name="e", cron="", timezone="", action="", source="")])
    skewed_server.set_clock(0)
    assert not any(entry.live for entry in await runs.overview())
    # The process that ran it is dead: its lease ends, and the run is due again.
    assert await eventually(lambda: runs.end_lost("e"), seconds=AT_ONCE_SECONDS)
    begun_ms = await runs.begun_until("e")
    now_ms = await runs.now_ms()  # after: the hour may change in between
    next_ms = HOURLY.next_after(begun_ms)
    assert next_ms is not None
    assert next_ms - now_ms <= 3_600_000
    again = await runs.begin("e", due_ms=begun_ms + 1, lease_ms=1000)
    assert isinstance(again, RunClaim)


async def test_a_clock_that_leaps_makes_no_upload_and_no_dead_letter_old(
    skewed: Broker, skewed_server: SkewedRedis
) -> None:
    async def parts() -> AsyncIterator[bytes]:
        yield b"a report"

    blobs = skewed.blobs
    assert blobs is not None
    await queue_one(skewed)
    leases = lease_queue(skewed)
    [claimed] = await take(leases)
    batch = claimed.job().batch
    await finish(leases, claimed, dead_letter_batch(batch, "because", tries=1))
    async with skewed.client.blob_writer() as writer:
        blob = (await writer.put(parts())).name
        skewed_server.set_clock(YEAR)
        await GarbageCollector(skewed.redis, skewed.config, blobs).collect()
        assert await skewed.dead_letters.delete_expired(days=30) == 0
        skewed_server.set_clock(0)
        upload = IngestBatch("s", (document("u", 1, text=None, blob=blob),))
        # It may have been collected, so it is not accepted.
        with pytest.raises(UploadExpired):
            await skewed.queue.enqueue([upload])
        # An upload after that is queued.
        stored = await writer.put(parts())
        later = IngestBatch("s", (document("u", 1, text=None, blob=stored.name),))
        writer.mark_offered([later])
        await skewed.queue.enqueue([later])
        await GarbageCollector(skewed.redis, skewed.config, blobs).collect()
        assert await blobs.size(stored.name)


class LedgerModel:
    """A ledger that does what `worker.store.ledger.QdrantLedger` does with fences."""

    def __init__(self) -> None:
        self.held: dict[str, tuple[Fence, str | None]] = {}

    async def head(self, collection: str) -> LedgerHead:
        fences = [fence for fence, _ in self.held.values()]
        return LedgerHead(
            max((f.version for f in fences), default=0), max((f.attempt for f in fences), default=0)
        )

    @property
    def texts(self) -> dict[str, str | None]:
        return {doc_id: text for doc_id, (_, text) in self.held.items()}

    def process(self, claim: Claim) -> None:
        batch = claim.job().batch
        if claim.version_offset is not None:
            batch = claim.version_offset.added_to(batch)
        [change] = batch.documents
        fence = Fence(change.version, claim.token)
        if change.doc_id not in self.held or self.held[change.doc_id][0] < fence:
            text = change.text if isinstance(change, Document) else None
            self.held[change.doc_id] = (fence, text)


class Troubled:
    """Producers and workers on ``server``, whose clock is set, and whose data is lost.

    A ledger outlives Redis. Whatever waited in Redis is lost with it; of everything else, the last
    change of each document must win.
    """

    def __init__(self, server: SkewedRedis, redis: Redis) -> None:
        self.server = server
        self.skew = 0
        self.redis = redis
        self.config = BrokerConfig(server.url)
        self.queue = JobQueue(redis, self.config)
        self.ledger = LedgerModel()
        self.leases = self.new_leases()
        self.changes = 0
        self.claims: list[Claim] = []
        self.has_lost_claims = False
        self.expected: dict[str, str | None] = {}

    def new_leases(self) -> LeaseQueue:
        return LeaseQueue(
            self.redis,
            self.config,
            LONG_LEASE_SECONDS,
            DOCUMENTS,
            read_ledger=self.ledger.head,
        )

    def set_clock(self, skew: int) -> None:
        self.skew = skew
        self.server.set_clock(skew)

    async def step(self, name: str, detail: Any) -> None:
        match name:
            case "edit" | "delete":
                await self.change(detail, deleted=name == "delete")
            case "claim":
                self.claims += (await self.leases.claim("w", 2, bulk=2, running=0)).claims
            case "process" | "nack" if self.claims:
                claim = self.claims.pop(detail % len(self.claims))
                if name == "process":
                    self.ledger.process(claim)
                    await finish(self.leases, claim, INDEXED)
                elif not await self.leases.nack(claim, delay_seconds=0, counts_as_try=False):
                    self.has_lost_claims = True  # the clock leapt over the end of its lease
            case "work":
                await self.work()
            case "set clock":
                self.set_clock(detail)
            case "lose Redis":
                await self.redis.flushdb()
                self.set_clock(detail)
                self.claims.clear()
                self.expected = self.ledger.texts
            case "start worker":
                self.leases = self.new_leases()

    async def change(self, doc_id: str, *, deleted: bool) -> None:
        self.changes += 1
        version = await self.queue.issue_version()
        text = None if deleted else f"text {self.changes}"
        batch: Batch
        if text is None:
            deletion = Deletion(doc_id=doc_id, version=version, collection="documents")
            batch = DeleteBatch(f"s{self.changes}", (deletion,))
        else:
            batch = IngestBatch(f"s{self.changes}", (document(doc_id, version, text=text),))
        await self.queue.offer([batch])
        self.expected[doc_id] = text

    async def work(self) -> None:
        """Process everything that waits."""
        await self.step("claim", None)
        while self.claims:
            await self.step("process", 1)
            await self.step("claim", None)

    async def finish(self) -> None:
        """Process everything, at once or, if a claim was lost, when its lease is over.

        It may have ended on a clock that was set back since: then it ends once more.
        """
        await self.work()
        if self.has_lost_claims:
            self.set_clock(self.skew + 2 * LONG_LEASE_SECONDS)
            await eventually(self.has_finished, seconds=AT_ONCE_SECONDS)

    async def has_finished(self) -> bool:
        await self.work()
        return self.ledger.texts == self.expected


def steps() -> st.SearchStrategy[list[tuple[str, Any]]]:
    doc_ids, skews, which = st.sampled_from("ab"), [-DAY, DAY, -YEAR, YEAR], st.integers(0, 5)
    details: dict[str, st.SearchStrategy[Any]] = {
        "edit": doc_ids,
        "delete": doc_ids,
        "claim": st.none(),
        "process": which,
        "nack": which,
        "work": st.none(),
        "set clock": st.sampled_from([0, *skews]),
        "lose Redis": st.sampled_from([0, *skews]),
        "start worker": st.none(),
    }
    kinds = st.sampled_from([*details, "edit", "claim", "process"])
    step = kinds.flatmap(lambda kind: details[kind].map(lambda detail: (kind, detail)))
    return st.lists(step, min_size=5, max_size=25)


@pytest.mark.timeout(600)
@few_or_many(50, 250)
def test_the_last_change_wins_whatever_the_clock_does(
    skewed_server: SkewedRedis, examples: int
) -> None:
    async def play(steps: list[tuple[str, Any]]) -> None:
        skewed_server.set_clock(0)
        async with connected(BrokerConfig(skewed_server.url)) as client:
            await client.flushdb()
            troubled = Troubled(skewed_server, client)
            for name, detail in steps:
                await troubled.step(name, detail)
            await troubled.finish()
            assert troubled.ledger.texts == troubled.expected

    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    @example(
        steps=[("edit", "a"), ("claim", None), ("set clock", DAY), ("nack", 0), ("set clock", 0)]
    )
    @given(steps=steps())
    def wins(steps: list[tuple[str, Any]]) -> None:
        with asyncio.Runner() as runner:
            runner.run(play(steps))

    wins()


async def test_a_supply_of_versions_grows_like_single_ones(skewed: Broker) -> None:
    supply = VersionSupply(skewed.queue.issue_versions)
    versions = [await skewed.queue.issue_version()]
    versions += [await supply() for _ in range(3 * SUPPLY)]
    versions += [await skewed.queue.issue_version()]
    assert sorted(set(versions)) == versions
