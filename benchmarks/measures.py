"""Measurements of the queue benchmark: each function measures one round of one contender."""

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from redis.asyncio import Redis

from benchmarks.contenders import Contender
from benchmarks.processes import worker_group
from benchmarks.queue_worker import BLOCK, NOTE, NOTHING
from ingestq.broker import keys
from ingestq.broker.connection import awaited
from ingestq.core.documents import Document

DOCUMENT_CHARACTERS: Final = 1500
EMPTY_POLL_SECONDS: Final = 0.005
"""Time between two checks whether the queue is empty: well under 1 % of a round."""
IDLE_SECONDS: Final = 1.0
"""How long workers run on an empty queue before a job's pickup is measured."""
IDLE_WORKERS: Final = 2
LONGEST_ROUND_SECONDS: Final = 120.0


@dataclass(frozen=True)
class Server:
    """The Redis server of this run. ``redis`` is a connection to inspect it, ``log`` the file to
    which workers log."""

    redis: Redis
    url: str
    log: Path

    async def flush(self) -> None:
        """Delete all data and reset all counters."""
        await awaited(self.redis.flushall())
        await awaited(self.redis.config_resetstat())


@dataclass(frozen=True)
class Throughput:
    """No-op jobs a second, and the commands and reads that each cost the server."""

    jobs_per_second: float
    commands_per_job: float
    reads_per_job: float


async def throughput(server: Server, contender: Contender, jobs: int, workers: int) -> Throughput:
    """Measure ``jobs`` no-op jobs that are on the queue before the workers start."""
    await server.flush()
    await contender.enqueue([f"job-{i}" for i in range(jobs)])
    async with worker_group(
        contender, server.url, NOTHING, workers=workers, log=server.log
    ) as running:
        await awaited(server.redis.config_resetstat())
        started = time.monotonic()
        running.go()
        looks = await _until_empty(server.redis)
        seconds = time.monotonic() - started
        commands, reads = await _served(server.redis)
    results = [key async for key in server.redis.scan_iter(keys.RESULT + "*", count=1000)]
    assert len(results) == jobs, f"{len(results)} of {jobs} jobs were finished"
    own = looks + 1  # our own checks of the queue, and the request for the counters
    return Throughput(jobs / seconds, (commands - own) / jobs, (reads - own) / jobs)


async def _until_empty(redis: Redis) -> int:
    """Wait until no job waits or runs; return the number of checks."""
    looks = 1
    async with asyncio.timeout(LONGEST_ROUND_SECONDS):
        while await redis.zcard(keys.QUEUE):
            await asyncio.sleep(EMPTY_POLL_SECONDS)
            looks += 1
    return looks


async def _served(redis: Redis) -> tuple[int, int]:
    """Return the commands run, including those in scripts, and the requests read from sockets."""
    info = await redis.info("everything")
    calls = sum(stat["calls"] for name, stat in info.items() if name.startswith("cmdstat_"))
    return calls, int(info["total_reads_processed"])


async def pickup_latencies(
    server: Server, contender: Contender, samples: int, longest_gap: float, rng: random.Random
) -> list[float]:
    """Return the milliseconds from just before a job is enqueued to its start, on idle workers,
    with random gaps of up to ``longest_gap`` seconds between jobs."""
    await server.flush()
    latencies = []
    async with worker_group(
        contender, server.url, NOTE, workers=IDLE_WORKERS, log=server.log
    ) as running:
        running.go()
        await asyncio.sleep(IDLE_SECONDS)
        for i in range(samples):
            await asyncio.sleep(rng.uniform(0.02, longest_gap))
            enqueued = time.monotonic_ns()
            await contender.enqueue([f"job-{i}"])
            async with asyncio.timeout(LONGEST_ROUND_SECONDS):
                start = await running.starts.get()
            assert start.job == f"job-{i}"
            latencies.append((start.ns - enqueued) / 1e6)
    return latencies


async def restart_seconds(
    server: Server, contender: Contender, longest_run: float, rng: random.Random
) -> float:
    """Return the seconds from SIGKILL of a worker to the start of its job in another worker.

    The kill comes when the job has run for up to ``longest_run`` seconds.
    """
    await server.flush()
    async with (
        worker_group(contender, server.url, BLOCK, workers=1, log=server.log) as victim,
        worker_group(contender, server.url, NOTE, workers=1, log=server.log) as heir,
    ):
        victim.go()
        await contender.enqueue(["orphan"])
        await victim.starts.get()
        heir.go()
        await asyncio.sleep(rng.uniform(0.2, longest_run))
        assert heir.starts.empty()
        killed = time.monotonic_ns()
        victim.kill()
        async with asyncio.timeout(LONGEST_ROUND_SECONDS):
            start = await heir.starts.get()
    return (start.ns - killed) / 1e9


def documents(n: int) -> list[Document]:
    """Return ``n`` documents with a text of 1.5 kB each."""
    words = "all of it travels in the job as it would for a small file "
    text = (words * (DOCUMENT_CHARACTERS // len(words) + 1))[: DOCUMENT_CHARACTERS - 8]
    return [
        Document(
            collection="documents",
            doc_id=f"doc-{i}",
            version=1,
            source=f"doc-{i}.txt",
            text=f"{i:08}{text}",
        )
        for i in range(n)
    ]


async def enqueue_rate(server: Server, contender: Contender, load: Sequence[Document]) -> float:
    """Return the documents a second that one producer enqueues until all are on disk in Redis."""
    await server.flush()
    started = time.monotonic()
    await contender.enqueue_documents(load)
    return len(load) / (time.monotonic() - started)
