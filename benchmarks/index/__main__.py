"""Measure ingestion into the index, and searches meanwhile: ``python -m benchmarks.index``.

With ``--engine URL`` Qdrant is that server; what the benchmark writes there is deleted at the end.
Redis is embedded.

- `benchmarks.index.reruns`: a folder again after nothing, or a little, of it has changed
- `benchmarks.index.rebuild`: searches while the collection is rebuilt
- `benchmarks.index.deletion`: many documents of one chunk, and their deletion
- `benchmarks.index.growth`: ingestion, searches and memory as the index grows
- `benchmarks.index.throughput`: chunks a second, against what the model alone reaches
"""

import asyncio
import logging
import tempfile
import time
from collections.abc import Sequence
from operator import methodcaller
from pathlib import Path
from typing import Final

from pydantic import SecretStr
from rich.console import Console

from benchmarks.arguments import make_parser, parse_args
from benchmarks.embedding.measures import make_static_model
from benchmarks.embedding.qdrant import PREFIX
from benchmarks.index.bench import DIMENSION, QUICK, Bench, Plan
from benchmarks.index.deletion import measure_deletion
from benchmarks.index.growth import measure_growth
from benchmarks.index.rebuild import measure_searches
from benchmarks.index.reruns import measure_edits, measure_reruns
from benchmarks.index.table import notes, rows
from benchmarks.index.throughput import measure_throughput
from benchmarks.machine import Machine, describe
from benchmarks.report import show, write
from ingestq.app.composition import open_broker, open_qdrant
from ingestq.app.settings import Settings, load_settings
from ingestq.core.log_setup import configure_logging

RESULTS: Final = Path(__file__).parents[1] / "results" / "index.json"
BUNDLED: Final = "bundled"


async def run(bench: Bench) -> Machine:
    """Measure everything."""
    async with open_broker(bench.part("small")) as broker:
        machine = await describe(broker.redis)
    started = time.monotonic()

    def say_time() -> None:
        bench.say(f"after {time.monotonic() - started:.0f} s")

    query = await measure_reruns(bench)
    await measure_searches(bench, query)
    await measure_edits(bench)
    await make_static_model(bench.static_model, DIMENSION)
    say_time()
    await measure_deletion(bench)
    say_time()
    await measure_growth(bench)
    say_time()
    await measure_throughput(bench)
    say_time()
    return machine


async def clean_up(settings: Settings) -> None:
    """Delete what the run wrote to a server."""
    async with open_qdrant(settings) as qdrant:
        existing = (await qdrant.ask(lambda client: client.get_collections())).collections
        for name in (collection.name for collection in existing):
            if name.startswith(PREFIX):
                await qdrant.ask(methodcaller("delete_collection", name))


async def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the table and write ``--output``."""
    parser = make_parser(__doc__, RESULTS)
    parser.add_argument(
        "--engine", default=BUNDLED, metavar=f"{BUNDLED}|URL", help="the Qdrant to measure"
    )
    args = parse_args(parser, argv, RESULTS)
    if args.engine != BUNDLED and not args.engine.startswith(("http://", "https://")):
        parser.error(f"--engine {args.engine}: use {BUNDLED!r} or a URL like http://HOST:6333")
    configure_logging(logging.WARNING)
    server = None if args.engine == BUNDLED else SecretStr(args.engine)
    settings = load_settings().model_copy(update={"redis_url": None, "qdrant_url": server})
    with tempfile.TemporaryDirectory(prefix="ingestq-bench-") as folder:
        plan = QUICK if args.quick else Plan()
        bench = Bench(Path(folder), settings, plan, Console(stderr=True))
        try:
            machine = await run(bench)
        finally:
            if server is not None:
                await clean_up(settings)
    table = rows(bench)
    show(table, machine, notes(bench))
    if args.output is not None:
        write(args.output, table, machine, notes(bench))


if __name__ == "__main__":
    asyncio.run(main())
