"""Compare stock arq with the lease worker: ``python -m benchmarks.queue``, or ``make bench``.

Both use one Redis server, embedded and durable (append-only file, ``appendfsync always``, Unix
socket), which is emptied between measurements. Rounds alternate between the two. Workers are
processes of their own.
"""

import asyncio
import random
import statistics
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from arq import create_pool
from arq.connections import RedisSettings
from rich.console import Console

from benchmarks import measures
from benchmarks.arguments import make_parser, parse_args
from benchmarks.contenders import ENQUEUED_AT_ONCE, IngestqQueue, StockArq
from benchmarks.machine import describe
from benchmarks.measures import IDLE_WORKERS, Server
from benchmarks.queue_worker import MAX_JOBS
from benchmarks.report import Row, Target, show, summarise, write
from ingestq.broker.connection import BrokerConfig, connected
from ingestq.broker.queue.job_queue import JobQueue
from ingestq.embedded.redis import embedded_redis

RESULTS: Final = Path(__file__).parent / "results" / "queue.json"
SEED: Final = 20
WORKERS: Final = (1, 4)
STOCK_JOB_TIMEOUT: Final = 10.0
"""Seconds; at its default of 300 stock arq restarts a job after 310 s."""
STOCK_POLL_SECONDS: Final = 0.5
"""Longest gap between stock's samples: they spread over one of its poll intervals."""
OUR_GAP_SECONDS: Final = 0.2


@dataclass(frozen=True)
class Plan:
    """The amount of work: rounds, jobs, documents and pickups a round, leases in seconds."""

    rounds: int = 3
    stock_jobs: int = 1200
    our_jobs: int = 12_000
    stock_pickups: int = 60
    our_pickups: int = 200
    stock_documents: int = 2_000
    our_documents: int = 40_960
    stock_restarts: int = 1
    leases: tuple[float, ...] = (15.0, 5.0)


QUICK: Final = Plan(
    rounds=1,
    stock_jobs=200,
    our_jobs=1000,
    stock_pickups=10,
    our_pickups=30,
    stock_documents=300,
    our_documents=4096,
    stock_restarts=0,
    leases=(5.0,),
)

NOTES: Final = (
    f"Each worker runs {MAX_JOBS} jobs at once (arq's default). Else stock arq has its defaults.",
    "A request is one read of the server from a socket: one round trip of a client.",
    f"Pickup is measured on {IDLE_WORKERS} idle workers, from just before the call that enqueues.",
    f"Restart: stock has job_timeout={STOCK_JOB_TIMEOUT:.0f} s here, and restarts a job 10 s after "
    "that at the latest; with its default of 300 s that is 310 s.",
    "Documents have 1.5 kB. Ours: 16 a job, 32 jobs a round trip, one producer. "
    f"Stock: one a job, {ENQUEUED_AT_ONCE} calls at the same time or one after the other.",
)

Samples = defaultdict[str, list[float]]


@dataclass(frozen=True)
class Bench:
    """One run: both contenders on one server; ``samples`` has all values so far, by row name."""

    server: Server
    stock: StockArq
    ours: IngestqQueue
    plan: Plan
    samples: dict[str, Samples]
    rng: random.Random

    def add(self, contender: StockArq | IngestqQueue, row: str, value: float) -> None:
        self.samples[contender.name][row].append(value)

    @property
    def both(self) -> tuple[StockArq | IngestqQueue, ...]:
        return (self.stock, self.ours)


async def measure_throughput(bench: Bench) -> None:
    """Measure one round of no-op jobs: how many a second, and what they cost the server."""
    for workers in WORKERS:
        for contender in bench.both:
            jobs = bench.plan.stock_jobs if contender is bench.stock else bench.plan.our_jobs
            got = await measures.throughput(bench.server, contender, jobs, workers)
            bench.add(contender, f"jobs/{workers}", got.jobs_per_second)
            bench.add(contender, f"commands/{workers}", got.commands_per_job)
            bench.add(contender, f"requests/{workers}", got.reads_per_job)


async def measure_pickup(bench: Bench) -> None:
    """Measure one round of pickup latencies."""
    for contender in bench.both:
        stock = contender is bench.stock
        latencies = await measures.pickup_latencies(
            bench.server,
            contender,
            bench.plan.stock_pickups if stock else bench.plan.our_pickups,
            STOCK_POLL_SECONDS if stock else OUR_GAP_SECONDS,
            bench.rng,
        )
        cuts = statistics.quantiles(latencies, n=100, method="inclusive")
        bench.add(contender, "pickup p50", cuts[49])
        bench.add(contender, "pickup p99", cuts[98])
        bench.add(contender, "pickup max", max(latencies))


async def measure_enqueueing(bench: Bench) -> None:
    """Measure one round of documents enqueued a second."""
    few, many = (
        measures.documents(n) for n in (bench.plan.stock_documents, bench.plan.our_documents)
    )
    as_async_iterator = replace(bench.stock, at_once=1)
    rate = await measures.enqueue_rate(bench.server, as_async_iterator, few)
    bench.add(as_async_iterator, "documents, serial", rate)
    bench.add(bench.stock, "documents", await measures.enqueue_rate(bench.server, bench.stock, few))
    rate = await measures.enqueue_rate(bench.server, bench.ours, many)
    bench.add(bench.ours, "documents", rate)
    bench.add(bench.ours, "documents, serial", rate)


async def measure_restart(bench: Bench, round_: int) -> None:
    """Measure one round of restarts after a SIGKILL at a random moment between two renewals."""
    if round_ < bench.plan.stock_restarts:
        stock = replace(bench.stock, job_timeout=STOCK_JOB_TIMEOUT)
        seconds = await measures.restart_seconds(bench.server, stock, 1.0, bench.rng)
        for lease in bench.plan.leases:
            bench.add(stock, f"restart/{lease:.0f}", seconds)
    for lease in bench.plan.leases:
        ours = replace(bench.ours, lease=lease)
        seconds = await measures.restart_seconds(bench.server, ours, lease / 3, bench.rng)
        bench.add(ours, f"restart/{lease:.0f}", seconds)


async def run(bench: Bench) -> None:
    """Measure all rounds."""
    console = Console(stderr=True)
    for round_ in range(bench.plan.rounds):
        for name, measure in (
            ("jobs a second", measure_throughput(bench)),
            ("pickup latency", measure_pickup(bench)),
            ("documents enqueued a second", measure_enqueueing(bench)),
            ("restart after SIGKILL", measure_restart(bench, round_)),
        ):
            console.print(f"round {round_ + 1} of {bench.plan.rounds}: {name}", highlight=False)
            await measure


def rows(bench: Bench) -> list[Row]:
    """Return the table, with its targets."""

    def row(name: str, unit: str, key: str, target: Target | None = None) -> Row:
        stock, ours = (bench.samples[c.name][key] for c in bench.both)
        return Row(name, unit, summarise(stock), summarise(ours), target)

    ten_times = Target("10 x stock", at_least=10, of_ratio=True)
    many = Target("20,000", at_least=20_000)
    return [
        *(row(f"no-op jobs, workers: {n}", "jobs/s", f"jobs/{n}", ten_times) for n in WORKERS),
        *(row(f"commands, workers: {n}", "a job", f"commands/{n}") for n in WORKERS),
        *(row(f"requests, workers: {n}", "a job", f"requests/{n}") for n in WORKERS),
        row("pickup, p50", "ms", "pickup p50", Target("< 5 ms", at_most=5)),
        row("pickup, p99", "ms", "pickup p99", Target("< 20 ms", at_most=20)),
        row("pickup, longest", "ms", "pickup max"),
        *(
            row(
                f"SIGKILL to restart, lease {lease:.0f} s",
                "s",
                f"restart/{lease:.0f}",
                Target(f"< {lease + 1:.0f} s", at_most=lease + 1),
            )
            for lease in bench.plan.leases
        ),
        row(f"enqueue, stock {ENQUEUED_AT_ONCE} at once", "docs/s", "documents", many),
        row("enqueue, stock one by one", "docs/s", "documents, serial"),
    ]


@asynccontextmanager
async def open_bench(folder: Path, plan: Plan) -> AsyncIterator[Bench]:
    """Start the server under ``folder`` and connect both contenders to it."""
    async with embedded_redis(folder) as url:
        config = BrokerConfig(url)
        async with connected(config) as redis:
            pool = await create_pool(RedisSettings.from_dsn(url))
            try:
                yield Bench(
                    server=Server(redis, url, folder / "workers.log"),
                    stock=StockArq(pool),
                    ours=IngestqQueue(JobQueue(redis, config)),
                    plan=plan,
                    samples=defaultdict(lambda: defaultdict(list)),
                    rng=random.Random(SEED),  # noqa: S311 - only spreads samples
                )
            finally:
                await pool.aclose()


async def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the table and write ``--output``."""
    args = parse_args(make_parser(__doc__, RESULTS), argv, RESULTS)
    with tempfile.TemporaryDirectory(prefix="ingestq-bench-") as folder:
        async with open_bench(Path(folder), QUICK if args.quick else Plan()) as bench:
            machine = await describe(bench.server.redis)
            await run(bench)
            table = rows(bench)
    show(table, machine, NOTES)
    if args.output is not None:
        write(args.output, table, machine, NOTES)


if __name__ == "__main__":
    asyncio.run(main())
