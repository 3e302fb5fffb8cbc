"""Measure one index as it grows: ingestion, searches during a run, and memory."""

import asyncio
import statistics
import time
from collections.abc import Sequence
from typing import Final

import numpy as np

from benchmarks.embedding.ingestions import IngestResult, ingest
from benchmarks.embedding.resources import memory
from benchmarks.index.bench import Bench, StaticIndex, open_static_index
from benchmarks.index.documents import Filler, random_vectors, write_files
from benchmarks.prose import Prose
from worker.text.words.bm25 import SparseEncoder

SEED: Final = 23
HITS: Final = 10
QUERY_WORDS: Final = 6
PAUSE_SECONDS: Final = 0.02
"""Between two searches."""
FEWEST_SEARCHES: Final = 10


async def measure_growth(bench: Bench) -> None:
    """Fill an index, and measure it at each size of the plan."""
    plan, prose = bench.plan, Prose(SEED)
    there = 0
    async with open_static_index(bench, "growth") as index:
        filler = Filler(index, prose)
        for size in sorted({*plan.sizes, *plan.search_sizes}):
            bench.say(f"an index of {size:,} documents")
            await filler.fill(size - there)
            there = size
            if size in plan.sizes:
                await _measure_windows(bench, index, size, prose)
                there += plan.windows * plan.window_files
            if size in plan.search_sizes:
                await _measure_searches(bench, index, size, prose)
                there += plan.run_files
        assert await index.ledger.count() == await index.chunks.count() == there


async def _measure_windows(bench: Bench, index: StaticIndex, size: int, prose: Prose) -> None:
    """Measure how fast a worker adds documents of one chunk to an index of ``size``."""
    for window in range(bench.plan.windows):
        path = bench.folder / f"window-{size}-{window}"
        await asyncio.to_thread(write_files, path, bench.plan.window_files, prose)
        done = await ingest(index.worker, path)
        assert done.chunks == bench.plan.window_files, f"{done.chunks} chunks"
        bench.samples[f"rate at {size}"].append(done.rate)
        _measure_memory(bench, index, size, done)


def _measure_memory(bench: Bench, index: StaticIndex, size: int, done: IngestResult) -> None:
    bench.samples[f"worker memory at {size}"].append(done.memory.parent)
    bench.samples[f"child memory at {size}"].append(done.memory.children)
    if index.engine is not None:
        bench.samples[f"engine memory at {size}"].append(memory(index.engine).parent)


async def _measure_searches(bench: Bench, index: StaticIndex, size: int, prose: Prose) -> None:
    """Measure hybrid searches while a worker ingests files."""
    path = bench.folder / f"searched-{size}"
    await asyncio.to_thread(write_files, path, bench.plan.run_files, prose)
    queued = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        run = group.create_task(ingest(index.worker, path, queued))
        await queued.wait()  # so that this process does little else than search
        seconds = await _search_until_done(index, run, prose)
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    bench.samples[f"searches at {size}"].append(len(seconds))
    bench.samples[f"p50 at {size}"].append(1e3 * cuts[49])
    bench.samples[f"p99 at {size}"].append(1e3 * cuts[98])


async def _search_until_done(
    index: StaticIndex, run: "asyncio.Task[IngestResult]", prose: Prose
) -> Sequence[float]:
    """Search one after the other until ``run`` ends; return how long each search took."""
    words, rng, chunks = SparseEncoder(), np.random.default_rng(SEED), index.chunks
    seconds: list[float] = []
    while not run.done() or len(seconds) < FEWEST_SEARCHES:
        [dense] = random_vectors(rng, 1)
        sparse = words.query(" ".join(prose.sentence().split()[:QUERY_WORDS]))
        started = time.perf_counter()
        hits = await chunks.search(dense, HITS, sparse=sparse)
        seconds.append(time.perf_counter() - started)
        assert len(hits) == HITS, hits
        await asyncio.sleep(PAUSE_SECONDS)
    return seconds
