"""Measure whether a worker's memory stays flat: ``python -m benchmarks.memory``.

Ingests documents until the collection has 1,000, 10,000 and 100,000 chunks, then one large file,
and samples the memory of the worker and of its child processes meanwhile. The model is a static
one, to be quick. Takes from ten minutes to more than an hour, nearly all of it for the large file.
"""

import asyncio
import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks.arguments import make_parser, parse_args
from benchmarks.embedding.ingestions import NotIndexedError, RunningWorker, ingest, running_worker
from benchmarks.embedding.measures import make_static_model
from benchmarks.embedding.qdrant import TEST_URL, BenchQdrant, open_qdrant
from benchmarks.embedding.resources import MEBIBYTE, Memory, memory
from benchmarks.machine import Machine, describe
from benchmarks.prose import Prose
from benchmarks.report import PRINTED_COLUMNS
from ingestq.app.composition import Broker
from ingestq.broker.connection import BrokerConfig, connected
from ingestq.core.log_setup import configure_logging
from ingestq.embedded.redis import embedded_redis

RESULTS: Final = Path(__file__).parent / "results" / "memory.json"
SAMPLE_SECONDS: Final = 0.5
STAGES: Final = (1_000, 10_000, 100_000)
QUICK_STAGES: Final = (200, 1_000)
LARGE_MIB: Final = 1024
QUICK_LARGE_MIB: Final = 2
FLAT: Final = 1.1
"""Memory is flat if its peak is at most this many times that of the first stage."""
FILE_CHARACTERS: Final = 50_000
CHUNK_CHARACTERS: Final = 1_100
"""Generated prose in one chunk, about."""
SEED_CHARACTERS: Final = 1_000_000
"""Prose generated for a large file; the rest of it repeats that, numbered."""


@dataclass(frozen=True)
class Stage:
    """Memory during one ingestion. ``peak`` has the highest value for the worker, and the highest
    for its child processes; ``failed`` is the reason if it was not indexed."""

    name: str
    chunks: int
    seconds: float
    peak: Memory
    end: Memory | None
    failed: str | None = None


async def stage(worker: RunningWorker, name: str, path: Path) -> Stage:
    """Ingest ``path`` and sample the worker's memory."""
    samples: list[Memory] = []
    sampling = asyncio.create_task(_sample(worker.process.pid, samples))
    try:
        done = await ingest(worker, path)
    except NotIndexedError as error:
        return Stage(name, 0, 0.0, _peak(samples), None, str(error))
    finally:
        sampling.cancel()
    return Stage(name, done.chunks, done.seconds, _peak([*samples, done.memory]), done.memory)


async def _sample(pid: int, samples: list[Memory]) -> None:
    while True:
        samples.append(await asyncio.to_thread(memory, pid))
        await asyncio.sleep(SAMPLE_SECONDS)


def _peak(samples: Sequence[Memory]) -> Memory:
    return Memory(max(s.parent for s in samples), max(s.children for s in samples))


def write_files(folder: Path, chunks: int, prose: Prose) -> None:
    """Write files with about ``chunks`` chunks in total."""
    folder.mkdir()
    for i in range(max(1, round(chunks * CHUNK_CHARACTERS / FILE_CHARACTERS))):
        text = prose.text(FILE_CHARACTERS, markdown=False)
        (folder / f"{i:05}.txt").write_text(text, encoding="utf-8")


def write_large_file(path: Path, size: int, prose: Prose) -> None:
    """Write ``size`` bytes of paragraphs, no two of them equal."""
    path.parent.mkdir()
    written = 0
    with path.open("w", encoding="utf-8") as file:
        for paragraph in _numbered(prose.text(SEED_CHARACTERS, markdown=False).split("\n\n")):
            written += file.write(paragraph)
            if written >= size:
                return


def _numbered(paragraphs: Sequence[str]) -> Iterator[str]:
    for number in count():
        words = paragraphs[number % len(paragraphs)].replace(". ", f". Of {number}: ")
        yield f"{number} {words}\n\n"


async def measure(
    folder: Path, broker: Broker, qdrant: BenchQdrant, sizes: Sequence[int], large_mib: int
) -> list[Stage]:
    """Measure all stages: one worker for the chunks, and one for the large file."""
    say, prose = Console(stderr=True), Prose(1)
    model = folder / "model"
    await make_static_model(model)
    settings = {"INGESTQ_MODEL": str(model)}
    stages: list[Stage] = []
    async with running_worker(broker, qdrant, folder, "memory", settings) as worker:
        there = 0
        for size in sizes:
            path = folder / f"until-{size}"
            await asyncio.to_thread(write_files, path, size - there, prose)
            say.print(f"until there are about {size:,} chunks", highlight=False)
            stages.append(await stage(worker, f"until {size:,} chunks", path))
            there += stages[-1].chunks
    if large_mib:
        path = folder / "large" / "large.txt"
        await asyncio.to_thread(write_large_file, path, large_mib * MEBIBYTE, prose)
        say.print(f"a text file of {large_mib:,} MiB", highlight=False)
        settings["INGESTQ_MAX_DOCUMENT_BYTES"] = str(2 * large_mib * MEBIBYTE)
        async with running_worker(broker, qdrant, folder, "large", settings) as worker:
            stages.append(await stage(worker, f"a file of {large_mib:,} MiB", path))
    return stages


def show(stages: Sequence[Stage], machine: Machine) -> None:
    """Print the table; each peak also as a multiple of the first stage's."""
    table = Table(title="memory (PSS) in MiB, peak (x that of the first)", title_justify="left")
    for heading in ("", "chunks", "s", "worker", "its children", f"within {FLAT - 1:.0%}"):
        table.add_column(heading)
    first = stages[0].peak
    for one in stages:
        parent, children = one.peak.parent / first.parent, one.peak.children / first.children
        table.add_row(
            one.name,
            f"{one.chunks:,}",
            f"{one.seconds:,.0f}",
            f"{one.peak.parent:,.0f} ({parent:.2f})",
            f"{one.peak.children:,.0f} ({children:.2f})",
            one.failed or ("yes" if max(parent, children) <= FLAT else "no"),
        )
    console = Console()
    if not console.is_terminal:
        console = Console(width=PRINTED_COLUMNS)
    console.print(f"{machine.cpu}, {machine.cores} cores, {machine.date}", highlight=False)
    console.print(table)


async def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the table and write ``--output``."""
    options = make_parser(__doc__, RESULTS)
    options.add_argument("--mebibytes", type=int, help="size of the large file; 0 leaves it out")
    args = parse_args(options, argv, RESULTS)
    sizes = QUICK_STAGES if args.quick else STAGES
    large = QUICK_LARGE_MIB if args.quick else LARGE_MIB
    large = large if args.mebibytes is None else args.mebibytes
    configure_logging(logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="ingestq-bench-") as folder:
        async with (
            embedded_redis(Path(folder)) as url,
            open_qdrant(os.environ.get(TEST_URL)) as qdrant,
        ):
            config = BrokerConfig(url)
            async with connected(config) as redis:
                machine = await describe(redis)
                broker = Broker(redis, config)
                stages = await measure(Path(folder), broker, qdrant, sizes, large)
    show(stages, machine)
    if args.output is not None:
        answer = {"machine": machine, "stages": stages}
        args.output.write_bytes(msgspec.json.format(msgspec.json.encode(answer)) + b"\n")


if __name__ == "__main__":
    asyncio.run(main())
