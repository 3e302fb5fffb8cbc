"""Ingest many documents of one chunk, then delete most of them."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks.embedding.ingestions import ingest
from benchmarks.index.bench import Bench, open_static_index
from benchmarks.index.documents import write_files
from benchmarks.ingestions import run
from benchmarks.prose import Prose
from ingestq.core.results import DocumentCounts

SEED: Final = 22


async def measure_deletion(bench: Bench) -> None:
    """Measure a first run of files of one chunk, and a run after most of them were deleted."""
    plan = bench.plan
    path = bench.folder / "one-chunk-files"
    files = await asyncio.to_thread(write_files, path, plan.one_chunk_files, Prose(SEED))
    async with open_static_index(bench, "one-chunk") as index:
        bench.say(f"{plan.one_chunk_files:,} files of one chunk")
        done = await ingest(index.worker, path)
        assert done.chunks == plan.one_chunk_files, f"{done.chunks} chunks"
        bench.samples["one chunk"].append(done.rate)
        bench.say(f"deleting {plan.deleted_files:,} of them")
        await asyncio.to_thread(_delete, files[: plan.deleted_files])
        summary = await run(index.worker.broker, path, allow_mass_delete=True)
        left = plan.one_chunk_files - plan.deleted_files
        expected = DocumentCounts(unchanged=left, deleted=plan.deleted_files)
        assert summary.documents == expected, summary
        assert await index.ledger.count() == await index.chunks.count() == left
        bench.samples["deletion"].append(summary.seconds)


def _delete(files: Sequence[Path]) -> None:
    for file in files:
        file.unlink()
