"""A worker process of the queue benchmark, run as ``python -m benchmarks.queue_worker``.

It prints ``ready``, waits for a line on stdin, then works until it is killed or stdin ends. Both
kinds of worker log as their command lines do, to stderr.
"""

import argparse
import asyncio
import logging
import logging.config
import os
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any, Final

from arq import Worker, create_pool
from arq.connections import RedisSettings
from arq.logs import default_log_config
from arq.typing import WorkerCoroutine
from arq.worker import func

from ingestq.broker.connection import BrokerConfig, connected
from ingestq.broker.queue.leases import LeaseQueue
from ingestq.core.documents import DEFAULT_COLLECTION
from ingestq.core.jobs import INGEST, IngestBatch
from ingestq.core.log_setup import configure_logging
from worker.consumer.lease_worker import LeaseWorker
from worker.pipeline.ingest import Outcome, Superseded

MAX_JOBS: Final = 10
"""Jobs that one worker runs at once: arq's default, given to both."""

SERVING: Final = {DEFAULT_COLLECTION: "no collection: nothing is indexed"}

NOTHING: Final = "nothing"
NOTE: Final = "note"
BLOCK: Final = "block"
"""Kinds of jobs: do nothing; print id and start time; print them and never end."""


def note_start(job: str) -> None:
    """Print the job's name and start time, in ns of the kernel's monotonic clock."""
    os.write(1, f"{job} {time.monotonic_ns()}\n".encode())


async def block(job: str) -> None:
    note_start(job)
    await asyncio.Event().wait()


def stock_job(kind: str) -> WorkerCoroutine:
    """Return the job function for stock arq."""

    async def job(ctx: dict[str, Any], name: str) -> None:
        if kind == NOTE:
            note_start(name)
        elif kind == BLOCK:
            await block(name)

    return job


def lease_job(kind: str) -> WorkerCoroutine:
    """Return the job function for the lease worker."""

    async def job(ctx: dict[str, Any], batch: IngestBatch) -> Sequence[Outcome]:
        name = batch.documents[0].doc_id
        if kind == NOTE:
            note_start(name)
        elif kind == BLOCK:
            await block(name)
        return [Superseded()]  # the cheapest outcome: nothing to count, no dead letter to resolve

    return job


async def wait_for_start() -> None:
    """Tell the benchmark that this process is ready, and wait for its go."""
    os.write(1, b"ready\n")
    await asyncio.to_thread(sys.stdin.readline)
    threading.Thread(target=_end_with_stdin, daemon=True).start()


def _end_with_stdin() -> None:
    """End this process when the benchmark ends."""
    sys.stdin.read()
    os._exit(0)


async def work_stock(url: str, kind: str, job_timeout: float) -> None:
    """Run a stock arq worker with its defaults."""
    logging.config.dictConfig(default_log_config(verbose=False))
    pool = await create_pool(RedisSettings.from_dsn(url))
    worker = Worker(
        [func(stock_job(kind), name=INGEST)],
        redis_pool=pool,
        max_jobs=MAX_JOBS,
        job_timeout=job_timeout,
        handle_signals=False,
    )
    await wait_for_start()
    await worker.async_run()


async def work_leased(url: str, kind: str, lease_seconds: float) -> None:
    """Run a lease worker."""
    configure_logging(logging.INFO)
    config = BrokerConfig(url)
    async with connected(config) as redis:
        worker = LeaseWorker(
            functions=[func(lease_job(kind), name=INGEST)],
            leases=LeaseQueue(redis, config, lease_seconds, SERVING),
            max_jobs=MAX_JOBS,
            drain_seconds=1,
            ctx={},
        )
        await wait_for_start()
        await worker.run_until_stopped()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("job", choices=[NOTHING, NOTE, BLOCK])
    kinds = parser.add_mutually_exclusive_group(required=True)
    kinds.add_argument("--job-timeout", type=float, help="run stock arq; seconds")
    kinds.add_argument("--lease", type=float, help="run the lease worker; seconds")
    args = parser.parse_args()
    if args.lease is None:
        asyncio.run(work_stock(args.url, args.job, args.job_timeout))
    else:
        asyncio.run(work_leased(args.url, args.job, args.lease))


if __name__ == "__main__":
    main()
