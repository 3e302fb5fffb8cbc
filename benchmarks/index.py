"""Measure repeated ingestion, and searches during a rebuild: ``python -m benchmarks.index``.

Redis is embedded. Qdrant is the local one unless INGESTQ_QDRANT_URL is set; what the
benchmark writes there is deleted at the end.
"""

import asyncio
import logging
import random
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from operator import methodcaller
from pathlib import Path
from typing import Final

from rich.console import Console

from benchmarks.arguments import make_parser, parse_args
from benchmarks.ingestions import (
    command_seconds,
    ingest,
    open_index,
    rerun,
    rerun_edited,
    write_folder,
)
from benchmarks.machine import Machine, describe
from benchmarks.prose import Prose
from benchmarks.rebuild import Answer, SearchQuery, search_while_rebuilding
from benchmarks.report import Row, Target, show, summarise, write
from ingestq.app.composition import open_broker, open_qdrant
from ingestq.app.settings import Settings, load_settings
from ingestq.cli.output import configure_logging

RESULTS: Final = Path(__file__).parent / "results" / "index.json"
SEED: Final = 20
COLLECTION: Final = "ingestq-bench"
EDITED_SHARE: Final = 0.01
MIDDLE: Final = 0.5
PLACES: Final = (0.5, 0.1, 0.7, 0.3, 0.9)
"""Where large files are edited, one after the other."""
LARGE: Final = {".md": "Markdown", ".txt": "plain text"}
SMALLER_CHUNK_TOKENS: Final = 128
"""Half of the default, which is the limit of the bundled model."""


@dataclass(frozen=True)
class Plan:
    """The amount of work. ``characters`` of each small file make one to three chunks."""

    files: int = 600
    characters: tuple[int, int] = (300, 2000)
    reruns: int = 5
    commands: int = 3
    large_characters: int = 1_000_000


QUICK: Final = Plan(files=100, reruns=2, commands=1, large_characters=50_000)

Samples = defaultdict[str, list[float]]


@dataclass(frozen=True)
class Bench:
    """One run of the benchmark; ``samples`` has all values so far, by name of the row."""

    folder: Path
    settings: Settings
    plan: Plan
    samples: Samples
    console: Console

    def part(self, name: str) -> Settings:
        """Return settings for a part of the run, which has an index of its own."""
        change = {"data_dir": self.folder / name, "collection": f"{COLLECTION}-{name}"}
        return self.settings.model_copy(update=change)

    def say(self, text: str) -> None:
        self.console.print(text, highlight=False)


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


async def measure_searches(bench: Bench, query: SearchQuery) -> None:
    """Measure searches while the collection of `measure_reruns` is rebuilt."""
    bench.say("rebuilding")
    answers = await search_while_rebuilding(bench.part("small"), SMALLER_CHUNK_TOKENS, query)
    bench.samples["searches"].append(answers.total())
    bench.samples["failed"].append(answers[Answer.FAILED])
    bench.samples["incomplete"].append(answers[Answer.INCOMPLETE])


def rows(bench: Bench) -> list[Row]:
    """Return the table, with its targets."""

    def row(name: str, unit: str, key: str, target: Target | None = None) -> Row:
        return Row(name, unit, None, summarise(bench.samples[key]), target)

    def large(suffix: str) -> list[Row]:
        name = f"{bench.plan.large_characters / 1e6:g} MB {LARGE[suffix]}"
        few = Target("at most 3 each", at_most=3, of_each=True)
        return [
            row(f"{name}, first run: embedded", "chunks", f"large chunks{suffix}"),
            row(f"{name}, paragraph edited: embedded", "chunks", f"large edited{suffix}", few),
            row(f"{name}, paragraph edited: run", "s", f"large seconds{suffix}"),
        ]

    none = Target("none", at_most=0)
    return [
        row(f"first run of {bench.plan.files} files", "s", "first"),
        row("first run: embedded", "chunks", "first chunks"),
        row("unchanged rerun", "s", "unchanged"),
        row("first run / unchanged rerun", "x", "unchanged ratio", Target("100 x", at_least=100)),
        row(f"rerun with {EDITED_SHARE:.0%} edited", "s", "edited"),
        row("edited rerun: embedded", "chunks", "edited chunks"),
        row("first run / edited rerun", "x", "edited ratio", Target("30 x", at_least=30)),
        row("unchanged, the whole command", "s", "command"),
        *large(".md"),
        *large(".txt"),
        row("searches during a rebuild", "", "searches"),
        row("of them failed", "", "failed", none),
        row("of them incomplete", "", "incomplete", none),
    ]


def notes(settings: Settings) -> Sequence[str]:
    """Return how to read the table."""
    where = "a server" if settings.qdrant_url else "the local mode"
    return (
        f"Qdrant is {where}; {settings.pool_size} processes embed with {settings.model}.",
        "Runs are timed from the first look at the folder to the summary, with the model loaded; "
        "the whole command contains loading it.",
        "After each run the index was equal to the folder, and new sentences were found in it.",
        f"The rebuild cuts chunks of {SMALLER_CHUNK_TOKENS} tokens. Each search asked the alias "
        "for chunks by a vector, and for the ids of all documents.",
    )


async def clean_up(settings: Settings) -> None:
    """Delete what the run wrote to a server."""
    async with open_qdrant(settings) as qdrant:
        existing = (await qdrant.ask(lambda client: client.get_collections())).collections
        for name in (collection.name for collection in existing):
            if name.startswith(f"{COLLECTION}-"):
                await qdrant.ask(methodcaller("delete_collection", name))


async def run(bench: Bench) -> Machine:
    """Measure everything."""
    async with open_broker(bench.part("small")) as broker:
        machine = await describe(broker.redis)
    query = await measure_reruns(bench)
    await measure_searches(bench, query)
    await measure_edits(bench)
    return machine


async def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the table and write ``--output``."""
    args = parse_args(make_parser(__doc__, RESULTS), argv, RESULTS)
    configure_logging(logging.WARNING)
    settings = load_settings().model_copy(update={"redis_url": None})
    with tempfile.TemporaryDirectory(prefix="ingestq-bench-") as folder:
        plan = QUICK if args.quick else Plan()
        console = Console(stderr=True)
        bench = Bench(Path(folder), settings, plan, defaultdict(list), console)
        try:
            machine = await run(bench)
        finally:
            if settings.qdrant_url:
                await clean_up(settings)
    table = rows(bench)
    show(table, machine, notes(settings))
    if args.output is not None:
        write(args.output, table, machine, notes(settings))


if __name__ == "__main__":
    asyncio.run(main())
