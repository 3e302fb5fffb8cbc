"""Redis cannot write to its disk and refuses writes: this is reported, and work resumes later.

Run on real servers, the bundled one and the distribution's, that fail to save a snapshot.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, MutableMapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from ingestq.app.composition import Broker
from ingestq.broker import keys
from ingestq.broker.connection import BrokerConfig, connected
from ingestq.core import events
from ingestq.core.documents import Document
from ingestq.core.errors import BrokerUnavailable
from ingestq.core.jobs import IngestBatch
from ingestq.core.results import DocumentCounts, EnqueueResult
from ingestq.embedded.redis import embedded_redis
from tests.books import Totals, balanced
from tests.command import Ingestq
from tests.waiting import eventually
from tests.workers import all_indexed, working
from worker.pipeline.ingest import Outcome

JOBS = 200
LONG_LEASE_SECONDS = 120
"""Nothing is renewed while Redis refuses writes."""
REASON = "accepts no writes: it cannot write to its disk"


@dataclass(frozen=True)
class Disk:
    """The disk of a server, which saves snapshots at ``snapshot``.

    The client ``redis`` gets answers from a broken server too: unlike ours it does not ping each
    new connection, which is refused like a write.
    """

    redis: Redis
    snapshot: Path

    async def break_down(self) -> None:
        """Make saving snapshots fail, by a folder in their place."""
        self.snapshot.unlink(missing_ok=True)
        self.snapshot.mkdir()
        await self._save()
        await eventually(self._last_save, lambda status: status == "err")

    async def repair(self) -> None:
        """Let snapshots be saved again. Does nothing if they can be."""
        if self.snapshot.is_dir():
            self.snapshot.rmdir()
        await self._save()
        await eventually(self._last_save, lambda status: status == "ok")

    async def _save(self) -> None:
        await self.redis.bgsave(schedule=True)

    async def _last_save(self) -> str:
        """Return how the last snapshot has ended, when none is being saved."""
        persistence = await self.redis.info("persistence")
        if persistence["rdb_bgsave_in_progress"]:
            return "in progress"
        return str(persistence["rdb_last_bgsave_status"])


@pytest.fixture(params=["bundled", "debian"])
async def own_broker(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Broker]:
    """Yield a broker on a server of its own that refuses writes when it cannot save."""
    async with AsyncExitStack() as stack:
        if request.param == "bundled":
            url = await stack.enter_async_context(embedded_redis(tmp_path))
        else:
            url = request.getfixturevalue("debian_redis")
        config = BrokerConfig(url)
        redis = await stack.enter_async_context(connected(config))
        await redis.flushdb()
        before = await redis.config_get("save")
        await redis.config_set("save", "3600 1")
        await redis.config_set("stop-writes-on-bgsave-error", "yes")
        yield Broker(redis, config)
        await redis.config_set("save", before["save"])


@pytest.fixture
async def disk(own_broker: Broker) -> AsyncIterator[Disk]:
    async with Redis.from_url(own_broker.config.url) as redis:
        folder = (await redis.config_get("dir"))["dir"]
        name = (await redis.config_get("dbfilename"))["dbfilename"]
        disk = Disk(redis, Path(folder) / name)
        yield disk
        await disk.repair()


class HeldJobs:
    """Jobs that wait until all may end. ``began`` is set by the first, ``runs`` counts each."""

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.may_end = asyncio.Event()
        self.runs = Counter[str]()

    async def job(self, ctx: dict[str, Any], batch: IngestBatch) -> Sequence[Outcome]:
        self.runs[ctx["job_id"]] += 1
        self.began.set()
        await self.may_end.wait()
        return all_indexed(batch)


def batches(count: int) -> list[IngestBatch]:
    return [
        IngestBatch(
            "s", (Document(collection="documents", doc_id=str(i), version=1, source="s", text="t"),)
        )
        for i in range(count)
    ]


async def refused(log: Sequence[MutableMapping[str, Any]]) -> None:
    """Wait until the worker has logged why it cannot work."""

    async def said() -> list[str]:
        return [entry["error"] for entry in log if entry["event"] == events.SERVICE_UNAVAILABLE]

    reasons = await eventually(said)
    assert all(REASON in reason for reason in reasons)


async def completed(broker: Broker) -> None:
    status = await eventually(lambda: broker.queue.submission("s"), lambda status: status.complete)
    assert status.documents == DocumentCounts(indexed=JOBS)


async def test_a_producer_gets_the_reason_or_waits(own_broker: Broker, disk: Disk) -> None:
    await own_broker.queue.offer(batches(10))
    await disk.break_down()
    with pytest.raises(BrokerUnavailable, match=REASON):
        await own_broker.queue.offer(batches(20))
    assert await disk.redis.zcard(keys.QUEUE) == 10
    enqueued = asyncio.create_task(own_broker.queue.enqueue(batches(20)))
    await disk.repair()
    assert Counter(await enqueued) == {EnqueueResult.DUPLICATE: 10, EnqueueResult.ACCEPTED: 10}
    assert await balanced(own_broker.redis) == Totals(20, 0, waiting=20, dead=0)


@pytest.mark.parametrize("word", ["NOAUTH", "maxmemory"])
async def test_a_document_with_an_error_word_is_not_taken_for_an_error(
    own_broker: Broker, disk: Disk, word: str
) -> None:
    document = Document(
        collection="documents", doc_id="d", version=1, source="s", text=f"What does {word} mean?"
    )
    await disk.break_down()
    with pytest.raises(BrokerUnavailable, match=REASON):
        await own_broker.queue.offer([IngestBatch("s", (document,))])


async def test_the_command_gives_the_reason_and_queues_the_file_later(
    own_broker: Broker, disk: Disk, ingestq: Ingestq
) -> None:
    ingestq.settings["redis_url"] = own_broker.config.url
    (ingestq.folder / "note.txt").write_text("A short note.")
    await disk.break_down()
    refused = await asyncio.to_thread(ingestq, "add", "note.txt")
    refused.failed_with(3, REASON)
    await disk.repair()
    assert (await asyncio.to_thread(ingestq, "add", "note.txt")).code == 0
    assert await balanced(own_broker.redis) == Totals(1, 0, waiting=1, dead=0)


async def test_a_worker_logs_the_reason_waits_and_resumes_its_job(
    own_broker: Broker, disk: Disk
) -> None:
    """Jobs that end while nothing can be written are not run again."""
    jobs = HeldJobs()
    await own_broker.queue.offer(batches(JOBS))
    with capture_logs() as log:
        async with working(own_broker, jobs.job, lease_seconds=LONG_LEASE_SECONDS):
            await jobs.began.wait()
            await disk.break_down()
            jobs.may_end.set()
            await refused(log)
            assert await disk.redis.zcard(keys.QUEUE) == JOBS
            await disk.repair()
            await completed(own_broker)
    assert set(jobs.runs.values()) == {1}
    assert await balanced(own_broker.redis) == Totals(JOBS, JOBS, waiting=0, dead=0)


async def test_a_worker_survives_an_outage_longer_than_its_leases(
    own_broker: Broker, disk: Disk
) -> None:
    """A job may run twice then, but its documents count once."""
    jobs = HeldJobs()
    await own_broker.queue.offer(batches(JOBS))
    with capture_logs() as log:
        async with working(own_broker, jobs.job, lease_seconds=1):
            await jobs.began.wait()
            await disk.break_down()
            await eventually(lambda: disk.redis.keys(keys.LEASE + "*"), lambda left: not left)
            jobs.may_end.set()
            await refused(log)
            await disk.repair()
            await completed(own_broker)
    assert len(jobs.runs) == JOBS
    assert await balanced(own_broker.redis) == Totals(JOBS, JOBS, waiting=0, dead=0)


async def test_an_idle_worker_survives_an_outage_and_takes_new_jobs(
    own_broker: Broker, disk: Disk
) -> None:
    jobs = HeldJobs()
    jobs.may_end.set()
    await disk.break_down()
    with capture_logs() as log:
        async with working(own_broker, jobs.job):
            await refused(log)
            await disk.repair()
            await own_broker.queue.offer(batches(JOBS))
            await completed(own_broker)
    assert await balanced(own_broker.redis) == Totals(JOBS, JOBS, waiting=0, dead=0)
