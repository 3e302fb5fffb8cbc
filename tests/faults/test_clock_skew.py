"""Clocks that are an hour ahead or behind change nothing, because Redis tells the time.

Run as a program, this module is a worker, for tests that need one with a clock of its own.
"""

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ingestq.app.composition import Broker
from ingestq.broker import keys
from ingestq.broker.connection import BrokerConfig, awaited, connected
from ingestq.core.documents import Document
from ingestq.core.jobs import IngestBatch
from ingestq.core.results import BatchReport, DocumentCounts, JobResult
from tests.claims import DOCUMENTS, batch_of, finish, lease_queue, take
from tests.command import Ingestq
from tests.waiting import eventually
from tests.workers import all_indexed, make_worker, working
from worker.consumer import decision as retries
from worker.consumer.job_functions import CLAIM
from worker.pipeline.ingest import Outcome

HOUR = 3600
AT_ONCE_SECONDS = 60
"""More than any step here takes on a busy machine, and far less than the skew."""
LEASE_SECONDS = 6.0
"""Of the worker process; it may be held up between two renewals for four of them."""
OUR_LEASE_SECONDS = HOUR / 4
"""Nobody renews it: longer than any test, and shorter than the skew."""
DELAY_SECONDS = 2
"""Longer than an idle worker waits before it claims again."""
RUNS = "test:runs"
"""List of the times, by the clock of Redis, at which the worker process ran a job."""
HOLD = "test:hold"
"""List: the job of submission 'held' ends when something is pushed on it."""
HELD_SECONDS = 5
"""How long it waits for that at a time, less than a client waits for a reply."""
INDEXED = BatchReport(DocumentCounts(indexed=1))

both_ways = pytest.mark.parametrize(
    "skew", [HOUR, pytest.param(-HOUR, marks=pytest.mark.slow)], ids=["ahead", "behind"]
)


@dataclass(frozen=True)
class SkewedClock:
    """The environment in which a process believes that it is ``skew`` seconds later."""

    library: str
    skew: int

    @property
    def environment(self) -> Mapping[str, str]:
        return {
            "LD_PRELOAD": self.library,
            "FAKETIME": f"{self.skew:+d}s",
            # Only the wall clock is wrong: timeouts use the monotonic clock.
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",  # its name before libfaketime 0.9.9
            "NO_FAKE_STAT": "1",
        }

    def shows(self, ms: int) -> bool:
        """Return whether ``ms``, just read, is the time of this clock."""
        return abs(ms / 1000 - self.skew - time.time()) < HOUR / 2


@dataclass
class SkewedIngestq(Ingestq):
    """The installed command on a machine with a wrong clock."""

    clock: Mapping[str, str] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        return {**super().environment(), **self.clock}


@pytest.fixture
def clock(libfaketime: str, skew: int) -> SkewedClock:
    return SkewedClock(libfaketime, skew)


def batch_for(submission: str) -> IngestBatch:
    document = Document(collection="documents", doc_id=submission, version=1, source="s", text="t")
    return IngestBatch(submission, (document,))


async def add(broker: Broker, folder: Path, name: str, clock: SkewedClock | None = None) -> str:
    """Queue a file with ``ingestq add`` on a machine with that clock; return the submission."""
    (folder / name).write_text(f"A note that is called {name}.")
    environment = {} if clock is None else clock.environment
    ingestq = SkewedIngestq(folder, {"redis_url": broker.config.url}, environment)
    ran = await asyncio.to_thread(ingestq, "add", name, "--json")
    assert ran.code == 0, ran.err
    return str(ran.json["submission"])


async def completed(broker: Broker, submission: str) -> None:
    """Wait for the submission. Raises TimeoutError if it does not complete at once."""
    status = await eventually(
        lambda: broker.queue.submission(submission),
        lambda status: status.accepted > 0 and status.complete,
        seconds=AT_ONCE_SECONDS,
    )
    assert status.documents.indexed == status.accepted == 1


@both_ways
async def test_a_document_from_a_producer_an_hour_off_is_indexed_at_once(
    broker: Broker, tmp_path: Path, clock: SkewedClock
) -> None:
    seen: list[tuple[Document, int]] = []

    async def job(ctx: dict[str, Any], batch: IngestBatch) -> Sequence[Outcome]:
        seen.extend((document, ctx[CLAIM].job().enqueued_ms) for document in batch.documents)
        return all_indexed(batch)

    async with working(broker, job, serving=DOCUMENTS):
        before = await broker.queue.issue_version()
        await completed(broker, await add(broker, tmp_path, "note.txt", clock))
        after = await broker.queue.issue_version()
    [(document, enqueued_ms)] = seen
    assert clock.shows(enqueued_ms), "the producer's clock was right"
    assert before < document.version < after


async def test_jobs_run_in_order_of_arrival_whatever_the_clocks(
    broker: Broker, tmp_path: Path, libfaketime: str
) -> None:
    """By the clocks of their producers, the first came last."""
    await add(broker, tmp_path, "first", SkewedClock(libfaketime, HOUR))
    await add(broker, tmp_path, "second")
    await add(broker, tmp_path, "third", SkewedClock(libfaketime, -HOUR))
    depth = await broker.queue.depth()
    assert (depth.ready, depth.deferred) == (3, 0)
    assert depth.oldest_ready_seconds < HOUR / 2
    claims = await take(lease_queue(broker, serving=DOCUMENTS), 3)
    sources = [batch_of(claim).documents[0].source for claim in claims]
    assert [Path(source).name for source in sources] == ["first", "second", "third"]


@both_ways
async def test_a_worker_an_hour_off_claims_no_running_job(
    broker: Broker, clock: SkewedClock
) -> None:
    await broker.queue.offer([batch_for("ours")])
    leases = lease_queue(broker, OUR_LEASE_SECONDS)
    [ours] = await take(leases, worker="we")
    async with worker_process(broker, clock):
        for i in range(3):  # it claims each time
            await broker.queue.offer([batch_for(f"theirs-{i}")])
            await completed(broker, f"theirs-{i}")
        assert (await broker.queue.depth()).in_flight == 1
        assert await finish(leases, ours, INDEXED)
    await completed(broker, "ours")


@both_ways
async def test_no_worker_claims_the_job_of_a_worker_an_hour_off(
    broker: Broker, clock: SkewedClock
) -> None:
    held = batch_for("held")
    async with worker_process(broker, clock):
        await broker.queue.offer([held])
        renewed_ms = int(LEASE_SECONDS * 1000)
        for _ in range(2):  # renewed: it lasts longer than a single lease
            await eventually(lambda: left_ms(broker, held), lambda ms: 0 < ms < 0.8 * renewed_ms)
            assert await take(lease_queue(broker)) == []
            await eventually(lambda: left_ms(broker, held), lambda ms: ms > 0.9 * renewed_ms)
        [sign] = await broker.queue.workers()
        assert (sign.running, sign.seen_seconds_ago < AT_ONCE_SECONDS) == (1, True)
        await awaited(broker.redis.rpush(HOLD, "go on"))
        await completed(broker, "held")
    assert await awaited(broker.redis.llen(RUNS)) == 1
    raw = await broker.redis.get(keys.RESULT + held.job_id)
    result = msgspec.msgpack.decode(raw, type=JobResult)
    assert clock.shows(result.started_ms), "the worker's clock was right"


@pytest.mark.slow
@both_ways
async def test_a_delay_set_by_a_worker_an_hour_off_has_the_right_length(
    broker: Broker, clock: SkewedClock
) -> None:
    async with worker_process(broker, clock):
        await broker.queue.offer([batch_for("delayed")])
        await completed(broker, "delayed")
    first, second = map(float, await awaited(broker.redis.lrange(RUNS, 0, -1)))
    assert DELAY_SECONDS <= second - first < AT_ONCE_SECONDS


async def left_ms(broker: Broker, batch: IngestBatch) -> int:
    """Return in how many ms the lease of a job expires."""
    return int(await broker.redis.pttl(keys.LEASE + batch.job_id))


def start_worker(url: str, clock: SkewedClock) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", __name__, url],
        cwd=Path(__file__).parents[2],
        env={**Ingestq(Path()).environment(), **clock.environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@asynccontextmanager
async def worker_process(broker: Broker, clock: SkewedClock) -> AsyncIterator[None]:
    """Run a worker in a process with that clock; stop it on leaving."""
    process = start_worker(broker.config.url, clock)
    try:
        await eventually(broker.queue.workers)
        yield
    finally:
        try:  # it stops when its stdin is closed
            log, _ = await asyncio.to_thread(process.communicate, timeout=60)
        finally:
            process.kill()
        assert process.returncode == 0, log


async def as_submission_says(ctx: dict[str, Any], batch: IngestBatch) -> Sequence[Outcome]:
    """Run the job of the worker process."""
    seconds, microseconds = await ctx["redis"].time()
    await ctx["redis"].rpush(RUNS, f"{seconds}.{microseconds:06d}")
    if batch.submission == "held":
        while await ctx["redis"].blpop(HOLD, timeout=HELD_SECONDS) is None:
            pass
    if batch.submission == "delayed" and ctx["job_try"] == 1:
        raise RuntimeError("a passing fault")
    return all_indexed(batch)


async def work(url: str) -> None:
    """Run a worker until stdin is closed."""
    config = BrokerConfig(url)
    retries.FIRST_BACKOFF_SECONDS = DELAY_SECONDS / 0.75  # type: ignore[misc]  # it is spread
    async with connected(config) as redis:
        worker = make_worker(Broker(redis, config), as_submission_says, lease_seconds=LEASE_SECONDS)
        worker.ctx["redis"] = redis
        running = asyncio.create_task(worker.run_until_stopped())
        await asyncio.to_thread(sys.stdin.read)
        worker.stop()
        await running


if __name__ == "__main__":
    asyncio.run(work(sys.argv[1]))
