"""Ingest a folder again after nothing, or a little, of it has changed."""

import random
from typing import Final

from benchmarks.index.bench import Bench
from benchmarks.index.rebuild import SearchQuery
from benchmarks.ingestions import (
    command_seconds,
    ingest,
    open_index,
    rerun,
    rerun_edited,
    write_folder,
)
from benchmarks.prose import Prose

SEED: Final = 20
EDITED_SHARE: Final = 0.01
MIDDLE: Final = 0.5
PLACES: Final = (0.5, 0.1, 0.7, 0.3, 0.9)
"""Where large files are edited, one after the other."""
LARGE: Final = {".md": "Markdown", ".txt": "plain text"}


async def measure_reruns(bench: Bench) -> SearchQuery:
    """Measure a first run, then unchanged and edited ones in turn; return a query for the index."""
    prose, plan = Prose(SEED), bench.plan
    rng = random.Random(SEED)  # noqa: S311 - a benchmark
    settings = bench.part("small")
    async with open_index(settings) as index:
        path = bench.folder / "small-files"
        folder = await write_folder(index, path, plan.files, plan.characters, prose)
        bench.say(f"first run: {plan.files} files, {sum(folder.chunks.values())} chunks")
        first = await ingest(index, folder)
        bench.samples["first"].append(first.seconds)
        bench.samples["first chunks"].append(first.chunks.embedded)
        for i in range(plan.reruns):
            bench.say(f"reruns {i + 1} of {plan.reruns}")
            unchanged = await rerun(index, folder)
            bench.samples["unchanged"].append(unchanged.seconds)
            bench.samples["unchanged ratio"].append(first.seconds / unchanged.seconds)
            files = rng.sample(list(folder.chunks), round(EDITED_SHARE * plan.files))
            edited = await rerun_edited(index, folder, files, MIDDLE, prose)
            bench.samples["edited"].append(edited.seconds)
            bench.samples["edited ratio"].append(first.seconds / edited.seconds)
            bench.samples["edited chunks"].append(edited.chunks.embedded)
        wanted = next(iter(folder.chunks))
        query = await index.model.embed_query(wanted.read_text(encoding="utf-8"))
    for i in range(plan.commands):
        bench.say(f"whole command {i + 1} of {plan.commands}")
        bench.samples["command"].append(await command_seconds(folder, settings))
    return SearchQuery(query.dense, str(wanted), plan.files)


async def measure_edits(bench: Bench) -> None:
    """Measure how many chunks are embedded after each edit of a large file."""
    prose = Prose(SEED + 1)
    for suffix in LARGE:
        async with open_index(bench.part(f"large{suffix}")) as index:
            size = bench.plan.large_characters
            path = bench.folder / f"large-file{suffix}"
            folder = await write_folder(index, path, 1, (size, size), prose, (suffix,))
            bench.say(f"{LARGE[suffix]} of {size:,} characters")
            first = await ingest(index, folder)
            bench.samples[f"large chunks{suffix}"].append(first.chunks.embedded)
            for share in PLACES:
                edited = await rerun_edited(index, folder, list(folder.chunks), share, prose)
                bench.samples[f"large edited{suffix}"].append(edited.chunks.embedded)
                bench.samples[f"large seconds{suffix}"].append(edited.seconds)
