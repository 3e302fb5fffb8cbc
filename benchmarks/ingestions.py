"""Ingest a folder again and again, as ``ingestq run`` does once its model is loaded."""

import asyncio
import os
import random
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from string import ascii_lowercase
from typing import Final

import msgspec

from benchmarks.prose import Prose
from ingestq.app.composition import Broker, open_broker
from ingestq.app.ingestion import Ingestion, Summary
from ingestq.app.settings import Settings, revealed
from ingestq.app.worker import open_worker
from ingestq.core.display import NoDisplay
from ingestq.core.documents import Document, Lane
from ingestq.core.paths import guess_media_type, path_to_text
from ingestq.core.results import ChunkCounts, DocumentCounts
from producers.files.walk import ReadOptions, ScanRecord, observe
from worker.consumer.job_functions import INGESTOR, Ingestor
from worker.embedding.pool import ModelPool
from worker.store.chunks import QdrantStore
from worker.store.ledger import QdrantLedger
from worker.text.parts import PreparedDocument

SETTLED_NS: Final = 10_000_000_000
"""Age given to written files, as most files are old: one written less than 2 s before a scan is
always read."""
PARAGRAPH_BREAK: Final = "\n\n"
HITS: Final = 10
UNIQUE_WORD_LETTERS: Final = 12


@dataclass(frozen=True)
class Index:
    """A running worker: the broker it claims jobs from, its model, and the store it writes to."""

    broker: Broker
    model: ModelPool
    chunks: QdrantStore
    ledger: QdrantLedger


@dataclass(frozen=True)
class Folder:
    """Files, with the number of chunks that the index must hold for each."""

    path: Path
    chunks: dict[Path, int]


@asynccontextmanager
async def open_index(settings: Settings) -> AsyncIterator[Index]:
    """Start a worker, and stop it on leaving."""
    async with open_broker(settings) as broker, open_worker(settings, broker) as worker:
        ingestor: Ingestor = worker.ctx[INGESTOR]
        ports = ingestor.collections[settings.collection]
        assert isinstance(ports.model, ModelPool)
        assert isinstance(ports.chunks, QdrantStore)
        assert isinstance(ports.ledger, QdrantLedger)
        async with asyncio.TaskGroup() as group:
            group.create_task(worker.run_until_stopped())
            try:
                yield Index(broker, ports.model, ports.chunks, ports.ledger)
            finally:
                worker.stop()


async def run(
    broker: Broker,
    path: Path,
    *,
    allow_mass_delete: bool = False,
    queued: asyncio.Event | None = None,
) -> Summary:
    """Ingest the files under ``path`` as ``ingestq run`` does, with a worker that is running.

    ``queued`` is set when all of them are on the queue.
    """
    record = ScanRecord()
    ingestion = Ingestion(broker.client, NoDisplay())
    found = observe([path], None, broker.queue.issue_version, ReadOptions(), record)
    sweeps = partial(record.sweeps, allow_mass_delete=allow_mass_delete)

    async def produce() -> None:
        await ingestion.produce(found, sweeps)
        if queued is not None:
            queued.set()

    async with asyncio.TaskGroup() as group:
        group.create_task(produce())
        group.create_task(ingestion.follow(until_queue_is_empty=True))
    return await ingestion.summary(broker.collection)


async def ingest(index: Index, folder: Folder) -> Summary:
    """Ingest ``folder``, and check that the index is equal to it afterwards."""
    summary = await run(index.broker, folder.path)
    assert not summary.failed, summary
    assert summary.documents.total == len(folder.chunks), summary
    assert await index.ledger.count() == len(folder.chunks)
    assert await index.chunks.count() == sum(folder.chunks.values())
    return summary


async def rerun(index: Index, folder: Folder) -> Summary:
    """Ingest ``folder``, in which nothing has changed."""
    summary = await ingest(index, folder)
    assert summary.documents == DocumentCounts(unchanged=len(folder.chunks)), summary
    assert summary.chunks == ChunkCounts(), summary
    return summary


async def rerun_edited(
    index: Index, folder: Folder, files: Sequence[Path], share: float, prose: Prose
) -> Summary:
    """Edit ``files``, ingest ``folder``, and check that searches find the new text."""
    new = {path: _edit(path, share, prose) for path in files}
    folder.chunks.update({path: await _count_chunks(index, path) for path in files})
    summary = await ingest(index, folder)
    unchanged = len(folder.chunks) - len(files)
    assert summary.documents == DocumentCounts(indexed=len(files), unchanged=unchanged), summary
    for path, sentence in new.items():
        query = await index.model.embed_query(sentence)
        hits = await index.chunks.search(query.dense, HITS, sparse=query.sparse)
        assert any(hit.doc_id == str(path) and sentence in hit.text for hit in hits), path
    return summary


async def write_folder(
    index: Index,
    path: Path,
    files: int,
    characters: tuple[int, int],
    prose: Prose,
    suffixes: Sequence[str] = (".md", ".txt"),
) -> Folder:
    """Write ``files`` files of prose, of ``characters`` each, with ``suffixes`` in turn."""
    sizes = random.Random(files)  # noqa: S311 - a benchmark
    folder = Folder(path, {})
    for i in range(files):
        suffix = suffixes[i % len(suffixes)]
        file = path / f"{i:04}{suffix}"
        write_file(file, prose.text(sizes.randint(*characters), markdown=suffix == ".md"))
        folder.chunks[file] = await _count_chunks(index, file)
    return folder


def write_file(path: Path, text: str) -> None:
    """Write a file with an older modification time."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    settled = time.time_ns() - SETTLED_NS
    os.utime(path, ns=(settled, settled))


async def command_seconds(folder: Folder, settings: Settings) -> float:
    """Return the wall time of the command ``ingestq run`` on an unchanged folder, in seconds."""
    environment = os.environ | {
        "INGESTQ_DATA_DIR": str(settings.data_dir),
        "INGESTQ_COLLECTION": settings.collection,
        "INGESTQ_REDIS_URL": "",
        "INGESTQ_QDRANT_URL": revealed(settings.qdrant_url) or "",
    }
    command = (sys.executable, "-m", "ingestq", "run", str(folder.path), "--json")
    pipe, nowhere = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    started = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        *command, stdout=pipe, stderr=nowhere, env=environment
    )
    out, _ = await process.communicate()
    seconds = time.monotonic() - started
    assert msgspec.json.decode(out)["documents"]["unchanged"] == len(folder.chunks), out
    return seconds


def _edit(path: Path, share: float, prose: Prose) -> str:
    """Replace the paragraph at ``share`` of a file; return the new one's first sentence."""
    paragraphs = path.read_text(encoding="utf-8").split(PARAGRAPH_BREAK)
    at = int(share * len(paragraphs))
    at += paragraphs[at].startswith("#")  # a heading stands before a paragraph
    # Prose has few words, so a sentence may be found elsewhere: this one has a unique word.
    unique = random.Random(paragraphs[at]).choices(ascii_lowercase, k=UNIQUE_WORD_LETTERS)  # noqa: S311
    sentence = f"{prose.sentence()[:-1]} {''.join(unique)}."
    paragraphs[at] = f"{sentence} {prose.paragraph()}"
    write_file(path, PARAGRAPH_BREAK.join(paragraphs))
    return sentence


async def _count_chunks(index: Index, path: Path) -> int:
    document = Document(
        doc_id="counted",
        version=1,
        source=path_to_text(path),
        path=path_to_text(path),
        media_type=guess_media_type(path.name),
    )
    prepared = await index.model.prepare(Lane.BULK, document, None)
    assert isinstance(prepared, PreparedDocument)
    return len(prepared.first.chunks)
