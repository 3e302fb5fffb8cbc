"""Compare ingestq with its ceiling and other libraries: ``python -m benchmarks.embedding``.

Redis and Qdrant are the bundled ones, unless INGESTQ_TEST_QDRANT_URL names a Qdrant server.
LangChain and LlamaIndex take part where the ``bench`` extra is installed.
"""

import asyncio
import logging
import os
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console

from benchmarks.arguments import make_parser, parse_args
from benchmarks.embedding.corpus import real_prose
from benchmarks.embedding.figures import Conditions
from benchmarks.embedding.measures import (
    Bench,
    matrix_rates,
    measure_agreement,
    measure_static,
    open_rival,
    run_rounds,
)
from benchmarks.embedding.qdrant import TEST_URL, open_qdrant
from benchmarks.embedding.report import Report, report, show, write
from benchmarks.embedding.resources import Usage
from benchmarks.embedding.rivals import RIVALS, SENTENCE_TRANSFORMERS
from benchmarks.machine import describe
from ingestq.app.composition import Broker
from ingestq.broker.connection import BrokerConfig, connected
from ingestq.core.log_setup import configure_logging
from ingestq.embedded.redis import embedded_redis
from worker.embedding.config import cores

RESULTS: Final = Path(__file__).parents[1] / "results" / "embedding.json"


@dataclass(frozen=True)
class Plan:
    """The amount of work. Each round has all chunks for ingestq and its embedding processes, and an
    equal part of them for the slower contenders."""

    rounds: int = 3
    chunks: int = 900
    queries: int = 300
    static_rounds: int = 3
    static_documents: int = 240
    static_characters: int = 50_000


QUICK: Final = Plan(
    rounds=1, chunks=60, queries=30, static_rounds=1, static_documents=8, static_characters=10_000
)


async def run(folder: Path, plan: Plan, console: Console) -> Report:
    """Measure everything."""
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(embedded_redis(folder))
        redis = await stack.enter_async_context(connected(BrokerConfig(url)))
        qdrant = await stack.enter_async_context(open_qdrant(os.environ.get(TEST_URL)))
        machine = await describe(redis)
        console.print("matrix products", highlight=False)
        products = await matrix_rates(cores())
        corpus = real_prose(plan.chunks)
        corpus.write(folder / "corpus")
        broker = Broker(redis, BrokerConfig(url))
        bench = Bench(folder, broker, qdrant, corpus, corpus.queries(plan.queries), console)
        rivals = {name: await stack.enter_async_context(open_rival(bench, name)) for name in RIVALS}
        available = {name: rival for name, rival in rivals.items() if rival is not None}
        parts = corpus.parts(plan.rounds)
        before = Usage.now()
        await run_rounds(bench, parts, available)
        others = Usage.now().taken_by_others(before, cores())
        await measure_agreement(bench, available[SENTENCE_TRANSFORMERS], parts)
        await measure_static(
            bench, plan.static_rounds, plan.static_documents, plan.static_characters
        )
        return report(bench, Conditions(machine, cores(), products, others))


async def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the tables and write ``--output``."""
    args = parse_args(make_parser(__doc__, RESULTS), argv, RESULTS)
    configure_logging(logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="ingestq-bench-") as folder:
        plan = QUICK if args.quick else Plan()
        result = await run(Path(folder), plan, Console(stderr=True))
    show(result)
    if args.output is not None:
        write(args.output, result)


if __name__ == "__main__":
    asyncio.run(main())
