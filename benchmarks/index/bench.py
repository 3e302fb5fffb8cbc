"""A run of the index benchmark: how much it does, and what it has measured so far."""

from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from rich.console import Console

from benchmarks.embedding.ingestions import RunningWorker, running_worker
from benchmarks.embedding.qdrant import PREFIX
from benchmarks.embedding.qdrant import open_qdrant as open_bench_qdrant
from ingestq.app.composition import open_broker, open_qdrant
from ingestq.app.settings import Settings, revealed
from worker.store.chunks import QdrantStore
from worker.store.client import Qdrant
from worker.store.collection import CollectionNames, find_collection
from worker.store.ledger import QdrantLedger

DIMENSION: Final = 384
"""Of the static model that the documents of one chunk are embedded with: that of the default
model, because the index's work depends on it."""


@dataclass(frozen=True)
class Plan:
    """The amount of work. ``characters`` of each small file make one to three chunks.

    ``one_chunk_files`` are ingested, and ``deleted_files`` of them deleted. The index is measured
    with ``sizes`` documents in ``windows`` of ``window_files``, and searched with ``search_sizes``
    documents while ``run_files`` are ingested.
    """

    files: int = 600
    characters: tuple[int, int] = (300, 2000)
    reruns: int = 5
    commands: int = 3
    large_characters: int = 1_000_000
    one_chunk_files: int = 20_000
    deleted_files: int = 15_000
    sizes: tuple[int, ...] = (1_000, 10_000, 100_000)
    windows: int = 3
    window_files: int = 2_000
    search_sizes: tuple[int, ...] = (20_000, 100_000)
    run_files: int = 6_000
    static_rounds: int = 3
    static_documents: int = 240
    static_characters: int = 50_000
    ceiling_rounds: int = 3
    ceiling_chunks: int = 900


QUICK: Final = Plan(
    files=60,
    reruns=1,
    commands=1,
    large_characters=20_000,
    one_chunk_files=300,
    deleted_files=225,
    sizes=(100, 1_000),
    windows=1,
    window_files=100,
    search_sizes=(500, 1_000),
    run_files=200,
    static_rounds=1,
    static_documents=8,
    static_characters=10_000,
    ceiling_rounds=1,
    ceiling_chunks=40,
)


@dataclass(frozen=True)
class Bench:
    """One run of the benchmark; ``samples`` has all values so far, by name of the row.

    Qdrant is the bundled one, or the server that ``settings`` name.
    """

    folder: Path
    settings: Settings
    plan: Plan
    console: Console
    samples: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    @property
    def server(self) -> str | None:
        """The URL of the Qdrant server; None for the bundled one."""
        return revealed(self.settings.qdrant_url)

    @property
    def static_model(self) -> Path:
        """The folder of the static model with `DIMENSION`."""
        return self.folder / "static-model"

    def part(self, name: str) -> Settings:
        """Return settings for a part of the run, which has an index of its own."""
        change = {"data_dir": self.folder / name, "collection": f"{PREFIX}{name}"}
        return self.settings.model_copy(update=change)

    def say(self, text: str) -> None:
        self.console.print(text, highlight=False)


@dataclass(frozen=True)
class StaticIndex:
    """An index that a worker with a static model writes to, in a process of its own.

    ``qdrant`` is this process's connection; ``engine`` is the process of the bundled Qdrant, None
    for a server.
    """

    worker: RunningWorker
    qdrant: Qdrant
    names: CollectionNames
    engine: int | None

    @property
    def chunks(self) -> QdrantStore:
        return QdrantStore(self.qdrant, self.names.chunks)

    @property
    def ledger(self) -> QdrantLedger:
        return QdrantLedger(self.qdrant, self.names.ledger)


@asynccontextmanager
async def open_static_index(bench: Bench, name: str) -> AsyncIterator[StaticIndex]:
    """Start a Qdrant, unless it is a server, and a worker with the static model."""
    settings = bench.part(name)
    change = {"INGESTQ_MODEL": str(bench.static_model)}
    async with (
        open_bench_qdrant(bench.server) as there,
        open_broker(settings) as broker,
        running_worker(broker, there, settings.data_dir, name, change) as worker,
        open_qdrant(
            settings.model_copy(update={"data_dir": there.data_dir or settings.data_dir})
        ) as qdrant,
    ):
        names = await find_collection(qdrant, worker.collection)
        assert names is not None, "the worker has opened it"
        yield StaticIndex(worker, qdrant, names, there.pid)
