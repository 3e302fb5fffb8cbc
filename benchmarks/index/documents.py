"""Documents of one chunk: files to ingest, and points that fill the index without a worker."""

import asyncio
import hashlib
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.index.bench import DIMENSION, StaticIndex
from benchmarks.ingestions import write_file
from benchmarks.prose import Prose
from worker.pipeline.chunk_writer import VECTOR_DECIMALS
from worker.pipeline.points import ChunkPoint, Digest, EntryState, Fence, LedgerEntry, chunk_id
from worker.text.words.bm25 import SparseEncoder

SENTENCES: Final = 4
"""Of a document: about seventy words, so that it is one chunk."""
GROUP_DOCUMENTS: Final = 1024
"""Documents that are written together when the index is filled."""
FENCE: Final = Fence(version=1, attempt=1)
TENANT: Final = ""


def write_files(folder: Path, count: int, prose: Prose) -> list[Path]:
    """Write ``count`` files of one chunk each, and return their paths."""
    paths = [folder / f"{i:05}.txt" for i in range(count)]
    for path in paths:
        write_file(path, _text(prose))
    return paths


def random_vectors(rng: np.random.Generator, count: int) -> list[list[float]]:
    """Return unit vectors of `DIMENSION`, as precise as those that a worker stores."""
    rows = rng.normal(size=(count, DIMENSION))
    units = np.round(rows / np.linalg.norm(rows, axis=1, keepdims=True), VECTOR_DECIMALS)
    vectors: list[list[float]] = units.tolist()
    return vectors


class Filler:
    """Writes documents into ``index`` as a worker leaves them, in groups, with random vectors."""

    def __init__(self, index: StaticIndex, prose: Prose) -> None:
        self._chunks = index.chunks
        self._ledger = index.ledger
        self._prose = prose
        self._words = SparseEncoder()
        self._rng = np.random.default_rng(0)
        self._written = 0

    async def fill(self, count: int) -> None:
        """Write ``count`` more documents of one chunk each."""
        end = self._written + count
        while self._written < end:
            await self._write(min(GROUP_DOCUMENTS, end - self._written))

    async def _write(self, count: int) -> None:
        numbers = range(self._written, self._written + count)
        vectors = random_vectors(self._rng, count)
        points = [self._point(*pair) for pair in zip(numbers, vectors, strict=True)]
        entries = map(_entry, points)
        await asyncio.gather(
            self._chunks.upsert(points, FENCE),
            *(self._ledger.begin(entry, None) for entry in entries),
        )
        self._written += count

    def _point(self, number: int, vector: list[float]) -> ChunkPoint:
        text = _text(self._prose)
        doc_id = f"filled/{number:06}.txt"
        content_hash = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        payload = {
            "page_content": text,
            "context": "",
            "page": None,
            "part": None,
            "metadata": {"title": doc_id, "source": doc_id},
            "doc_id": doc_id,
            "source": doc_id,
            "tenant": TENANT,
            "chunk_index": 0,
            "content_hash": content_hash,
            **FENCE._asdict(),
        }
        point_id = chunk_id(TENANT, doc_id, content_hash, "0")
        return ChunkPoint(point_id, vector, payload, self._words.document(text))


def _text(prose: Prose) -> str:
    return " ".join(prose.sentence() for _ in range(SENTENCES))


def _entry(point: ChunkPoint) -> LedgerEntry:
    """Return the ledger's entry of a document that has only this chunk."""
    digest = Digest()
    digest.add(point.id)
    return LedgerEntry(
        tenant=TENANT,
        doc_id=point.payload["doc_id"],
        source=point.payload["source"],
        version=FENCE.version,
        attempt=FENCE.attempt,
        content_hash=point.payload["content_hash"],
        chunks=1,
        state=EntryState.INDEXED,
        written_ms=0,
        chunks_fence=FENCE,
        chunks_digest=str(digest),
        bytes_hash=point.payload["content_hash"],
    )
