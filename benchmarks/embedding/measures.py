"""Measurements of the embedding benchmark: each function measures a round of one contender."""

import asyncio
import json
import sys
from asyncio.subprocess import PIPE
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from rich.console import Console

from benchmarks.embedding import static_model
from benchmarks.embedding.agreement import Agreement, Vectors, agreement
from benchmarks.embedding.corpus import MODEL_DIR, Corpus, Query
from benchmarks.embedding.ingestions import IngestResult, ingest, running_worker
from benchmarks.embedding.pool import RawCeiling, open_embedding_processes
from benchmarks.embedding.processes import JsonProcess, open_process
from benchmarks.embedding.qdrant import BenchQdrant, remove_collections, stored_vectors
from benchmarks.embedding.resources import cpu_seconds
from benchmarks.embedding.rivals import SENTENCE_TRANSFORMERS
from benchmarks.prose import Prose
from ingestq.app.composition import Broker
from ingestq.app.settings import PREFIX, Settings, load_settings
from worker.embedding.config import Precision

RIVAL_MODULE: Final = "benchmarks.embedding.rivals"
MATRIX_MODULE: Final = "benchmarks.embedding.matrix"
RAW: Final = "raw ceiling"
INGESTQ: Final = "ingestq"
PRECISIONS: Final = (Precision.FAST,)
"""Precisions that are measured besides the default."""


@dataclass(frozen=True)
class Variant:
    """ingestq with some settings changed."""

    name: str
    change: Mapping[str, str]

    @property
    def environment(self) -> dict[str, str]:
        return {f"{PREFIX}{name.upper()}": value for name, value in self.change.items()}

    @property
    def settings(self) -> Settings:
        return load_settings().model_copy(update=dict(self.change))

    @property
    def suffix(self) -> str:
        """The suffix of the names of its rows."""
        return f", {self.name}" if self.name else ""


def variants() -> list[Variant]:
    """Return the default, and each other precision."""
    return [Variant("", {}), *(Variant(p.value, {"precision": p}) for p in PRECISIONS)]


@dataclass(frozen=True)
class Bench:
    """One run. ``rates`` has chunks/s by name of the contender, ``cpu_ms`` the CPU time of its
    processes for a chunk. ``ingested`` has the rounds by variant, ``missing`` why a contender did
    not take part."""

    folder: Path
    broker: Broker
    qdrant: BenchQdrant
    corpus: Corpus
    queries: list[Query]
    console: Console
    rates: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    cpu_ms: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    ingested: dict[str, list[IngestResult]] = field(default_factory=lambda: defaultdict(list))
    missing: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    agreements: dict[str, Agreement] = field(default_factory=dict)
    static: list[IngestResult] = field(default_factory=list)

    def add(self, name: str, chunks: int, seconds: float, cpu_seconds: float) -> None:
        rate, cpu_ms = chunks / seconds, 1e3 * cpu_seconds / chunks
        self.rates[name].append(rate)
        self.cpu_ms[name].append(cpu_ms)
        self.say(f"  {name}: {chunks} chunks in {seconds:.1f} s, {rate:.1f}/s, {cpu_ms:.1f} ms CPU")

    def say(self, text: str) -> None:
        self.console.print(text, highlight=False)

    def saved(self, name: str) -> Path:
        """Return the file for vectors of that name."""
        return self.folder / f"{name}.npy"


async def matrix_rates(cores: int) -> dict[str, dict[str, float]]:
    """Return the GFLOP/s of matrix products by type and threads: one thread, and all cores."""
    threads = [str(n) for n in sorted({1, cores})]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", MATRIX_MODULE, *threads), stdout=PIPE
    )
    out, _ = await process.communicate()
    rates: dict[str, dict[str, float]] = json.loads(out)
    return rates


async def raw_round(bench: Bench, variant: Variant, processes: RawCeiling, part: Corpus) -> None:
    """Measure the embedding processes alone: all of them on everything, one of them on a part."""
    await measure_raw(bench, variant, processes, bench.corpus, processes.count)
    await measure_raw(bench, variant, processes, part, 1)


async def measure_raw(
    bench: Bench, variant: Variant, processes: RawCeiling, corpus: Corpus, at_work: int
) -> None:
    """Measure ``at_work`` of the embedding processes alone."""
    before = cpu_seconds(*processes.pids)
    seconds = await processes.seconds(corpus.chunks, corpus.tokens, at_work)
    name = f"{RAW}{variant.suffix}, children: {at_work}"
    bench.add(name, len(corpus.chunks), seconds, cpu_seconds(*processes.pids) - before)


async def ingestq_round(bench: Bench, variant: Variant) -> None:
    """Measure ingestq end to end with a new worker; save the vectors of the first round."""
    name = f"{INGESTQ}{variant.suffix}"
    change = variant.environment
    async with running_worker(
        bench.broker, bench.qdrant, bench.folder, "ingestq", change
    ) as worker:
        done = await ingest(worker, bench.folder / "corpus")
        assert done.chunks == len(bench.corpus.chunks), f"{done.chunks} chunks were embedded"
        bench.add(name, done.chunks, done.seconds, done.worker_cpu + done.children_cpu)
        bench.ingested[name].append(done)
        if not bench.saved(name).exists():
            url, texts = bench.qdrant.url, bench.corpus.chunks
            np.save(bench.saved(name), await stored_vectors(url, worker.collection, texts))
            queries = [query.text for query in bench.queries]
            path = str(bench.saved(f"{name}-queries"))
            await worker.process.ask(queries=queries, save=path)
    await remove_collections(bench.qdrant.url)


async def rival_round(
    bench: Bench, name: str, rival: JsonProcess, part: Corpus, number: int
) -> None:
    """Measure another library on a part; save the vectors of sentence-transformers."""
    save = str(bench.saved(f"reference-{number}")) if name == SENTENCE_TRANSFORMERS else None
    collection = bench.qdrant.new_collection("rival")
    before = cpu_seconds(rival.pid)
    answer = await rival.ask(put=part.chunks, collection=collection, save=save)
    assert answer["stored"] == len(part.chunks), answer
    bench.add(name, len(part.chunks), answer["seconds"], cpu_seconds(rival.pid) - before)
    await remove_collections(bench.qdrant.url)


@asynccontextmanager
async def open_rival(bench: Bench, name: str) -> AsyncIterator[JsonProcess | None]:
    """Start the process of a rival; yield None, and record why, if it is not installed."""
    bench.say(f"starting {name}")
    arguments = (name, str(MODEL_DIR), bench.qdrant.url)
    async with open_process(RIVAL_MODULE, *arguments, log=bench.folder / "rivals.log") as process:
        if "missing" in process.first:
            bench.missing[name] = process.first["missing"]
            yield None
        else:
            bench.versions.update(process.first["versions"])
            yield process


async def measure_agreement(bench: Bench, reference: JsonProcess, parts: list[Corpus]) -> None:
    """Compare the vectors that ingestq stored with those of sentence-transformers."""
    texts = [query.text for query in bench.queries]
    path = bench.saved("reference-queries")
    await reference.ask(embed=texts, save=str(path))
    rows = {
        chunk: row
        for number, part in enumerate(parts)
        for chunk, row in zip(part.chunks, np.load(bench.saved(f"reference-{number}")), strict=True)
    }
    chunks = np.asarray([rows[chunk] for chunk in bench.corpus.chunks])
    expected = Vectors(chunks, np.load(path))
    for name in bench.ingested:
        stored = Vectors(np.load(bench.saved(name)), np.load(bench.saved(f"{name}-queries")))
        known = [query.chunk for query in bench.queries]
        bench.agreements[name] = agreement(expected, stored, known)


async def make_static_model(folder: Path, dimension: int = static_model.DIMENSION) -> None:
    """Make a static model in a process of its own, see `static_model.make`."""
    command = (sys.executable, "-m", static_model.MODULE, str(folder), str(dimension))
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
    assert await process.wait() == 0, "the static model could not be made"


async def measure_static(bench: Bench, rounds: int, documents: int, characters: int) -> None:
    """Measure the pipeline with a static model, which costs nothing, on generated prose."""
    model, prose = bench.folder / "static-model", Prose(1)
    bench.say("with a static model")
    await make_static_model(model)
    texts = bench.folder / "generated"
    texts.mkdir()
    for i in range(documents):
        (texts / f"{i:04}.txt").write_text(prose.text(characters, markdown=False), encoding="utf-8")
    settings = {"INGESTQ_MODEL": str(model)}
    for _ in range(rounds):
        async with running_worker(
            bench.broker, bench.qdrant, bench.folder, "static", settings
        ) as worker:
            done = await ingest(worker, texts)
        await remove_collections(bench.qdrant.url)
        bench.static.append(done)
        bench.say(f"  {done.chunks} chunks in {done.seconds:.1f} s, {done.rate:.0f} a second")


async def run_rounds(bench: Bench, parts: list[Corpus], rivals: Mapping[str, JsonProcess]) -> None:
    """Measure all contenders in turn, one round for each part."""
    for number, part in enumerate(parts):
        bench.say(f"round {number + 1} of {len(parts)}")
        for variant in variants():
            # Started anew each time, so that its memory is free for the others.
            async with open_embedding_processes(variant.settings) as processes:
                await raw_round(bench, variant, processes, part)
            await ingestq_round(bench, variant)
        for name, rival in rivals.items():
            await rival_round(bench, name, rival, part, number)
