"""Redis behind Sentinel: its master is killed, or named by a Sentinel that is out of date."""

import asyncio
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from ingestq.app.composition import Broker
from ingestq.broker import scripts
from ingestq.broker import sentinel as sentinels
from ingestq.broker.connection import BrokerConfig, connected
from ingestq.core.documents import Document
from ingestq.core.errors import BrokerUnavailable, UsageError
from ingestq.core.jobs import IngestBatch
from ingestq.core.results import EnqueueResult
from tests.books import Totals, balanced
from tests.command import Ingestq
from tests.redis_servers import (
    HOST,
    SERVICE,
    SentinelGroup,
    free_port,
    master_and_replica,
    running,
    sentinel_group,
    sentinel_of,
)
from tests.waiting import SECONDS, ended, eventually
from tests.workers import all_indexed, working
from worker.pipeline.ingest import Outcome

JOBS = 400
AT_ONCE = 10
QUIET_PORT = 1
"""Nobody listens here."""
FAILOVER_SECONDS = 150
"""Far longer than a failover takes: Sentinels that stood still for 2 s decide nothing for 30 s."""


@pytest.fixture
async def group(redis_server: str, tmp_path: Path) -> AsyncIterator[SentinelGroup]:
    async with sentinel_group(redis_server, tmp_path) as group:
        yield group


def batches(first: int, count: int) -> list[IngestBatch]:
    return [
        IngestBatch(
            "s", (Document(collection="documents", doc_id=str(n), version=1, source="s", text="t"),)
        )
        for n in range(first, first + count)
    ]


async def index(ctx: dict[str, Any], batch: IngestBatch) -> Sequence[Outcome]:
    await asyncio.sleep(0)  # other jobs run meanwhile
    return all_indexed(batch)


@pytest.mark.slow
async def test_a_failover_under_load_loses_nothing_that_was_accepted(
    group: SentinelGroup, redis_server: str, tmp_path: Path
) -> None:
    config = BrokerConfig(group.url())
    async with connected(config) as redis:
        broker = Broker(redis, config)

        async def produce() -> list[EnqueueResult]:
            answers: list[EnqueueResult] = []
            while len(answers) < JOBS:
                # A failover may take longer than the minute that is waited out: that is an error,
                # and what it was about is sent again.
                with suppress(BrokerUnavailable):
                    answers += await broker.queue.enqueue(batches(len(answers), AT_ONCE))
            return answers

        async with working(broker, index, lease_seconds=2):
            producing = asyncio.create_task(produce())
            await eventually(
                lambda: broker.queue.submission("s"), lambda s: s.documents.indexed > 0
            )
            group.master.kill()
            await eventually(
                group.named_master, lambda port: port == group.replica.port, FAILOVER_SECONDS
            )
            await _out_of_date(group, redis_server, tmp_path)
            group.master.start()  # it becomes the replica, and producers go on
            await ended(producing, FAILOVER_SECONDS)
            status = await eventually(
                lambda: broker.queue.submission("s"), lambda status: status.complete
            )
        assert status.documents.indexed == JOBS
        assert await balanced(redis) == Totals(JOBS, JOBS, waiting=0, dead=0)


async def _out_of_date(group: SentinelGroup, binary: str, folder: Path) -> None:
    """Connect by means of a Sentinel that still names the dead master."""
    stale = sentinel_of(binary, folder / "stale", group.master)
    with running([stale]):
        await stale.answers()
        async with connected(BrokerConfig(group.url(stale))) as redis:
            assert (await redis.info("replication"))["role"] == "master"
        url = f"redis+sentinel://{stale.place}/{SERVICE}"
        with pytest.raises(BrokerUnavailable, match=rf"{HOST}:{group.master.port}|is down"):
            async with connected(BrokerConfig(url)):
                pass


async def test_no_receipt_is_given_before_a_replica_has_the_documents(
    redis_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scripts, "REPLICAS_MS", 300)
    master, replica = master_and_replica(redis_server, tmp_path)
    config = BrokerConfig(f"redis://{master.place}", replicas=1)
    with running([master]):
        await master.answers()
        with running([replica]):
            async with connected(config) as redis, connected(config) as other:
                await Broker(redis, config).queue.enqueue(batches(0, 1))  # until it is connected
                assert replica.process is not None
                replica.process.send_signal(signal.SIGSTOP)
                try:
                    # Also if another connection has queued them, so that this one writes nothing.
                    for client in (redis, other):
                        with pytest.raises(BrokerUnavailable, match="0 replicas of Redis"):
                            await Broker(client, config).queue.offer(batches(1, 1))
                finally:
                    replica.process.send_signal(signal.SIGCONT)
                again = await Broker(other, config).queue.enqueue(batches(1, 1))
                assert again == [EnqueueResult.DUPLICATE]


async def test_what_is_wrong_with_a_sentinel_url_is_said(
    ingestq: Ingestq, redis_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sentinels, "SENTINEL_SECONDS", SECONDS)  # all answer, if they run
    master, _ = master_and_replica(redis_server, tmp_path)
    sentinel = sentinel_of(redis_server, tmp_path / "sentinel", master, "requirepass hush-hush")
    with running([master]):
        await master.answers()
        with running([sentinel]):
            await sentinel.answers()

            async def said(url: str) -> str:
                with pytest.raises(BrokerUnavailable) as refused:
                    async with connected(BrokerConfig(url)):
                        pass
                return str(refused.value)

            own = f"{sentinel.place},{HOST}:{QUIET_PORT}"
            unknown = await said(f"redis+sentinel://{own}/other?sentinel_password=hush-hush")
            assert f"knows no service 'other', but {SERVICE}" in unknown
            assert f"{HOST}:{QUIET_PORT}" in unknown
            assert "hush" not in unknown
            assert "sentinel_password" in await said(f"redis+sentinel://{own}/{SERVICE}")
            ingestq.settings["redis_url"] = (
                f"redis+sentinel://{own}/{SERVICE}/0?sentinel_password=hush-hush"
            )
            ingestq.settings["redis_replicas"] = "0"
            (ingestq.folder / "note.txt").write_text("A short note.")

            async def added() -> bool:  # a command waits for a Sentinel for a second only
                return (await ingestq.ended("add", "note.txt")).code == 0

            await eventually(added)


@pytest.mark.slow  # it loads the model
async def test_doctor_says_what_a_failover_could_lose(
    ingestq: Ingestq, redis_server: str, tmp_path: Path
) -> None:
    master, _ = master_and_replica(redis_server, tmp_path)
    sentinel = sentinel_of(redis_server, tmp_path / "sentinel", master)
    with running([master]):
        await master.answers()
        with running([sentinel]):
            await sentinel.answers()
            ingestq.settings["redis_url"] = f"redis+sentinel://{sentinel.place}/{SERVICE}/0"
            ran = await ingestq.ended("doctor", "--json")
    said = [f["detail"] for f in ran.json["findings"] if f["result"] == "warning"]
    assert any("set min-replicas-to-write 1" in detail for detail in said)
    assert any("it has 0 replicas" in detail for detail in said)


async def test_a_redis_cluster_is_refused(redis_server: str, tmp_path: Path) -> None:
    node, _ = master_and_replica(redis_server, tmp_path)
    # By default its port plus 10,000, which may be taken, or be no port at all.
    node.config = ("cluster-enabled yes", f"cluster-port {free_port()}")
    with running([node]):
        await node.answers()
        async with Redis(host=HOST, port=node.port) as redis:
            await redis.cluster("ADDSLOTSRANGE", 0, 16383)
        with pytest.raises(UsageError, match="is a Redis Cluster"):
            async with connected(BrokerConfig(f"redis://{node.place}")):
                pass
