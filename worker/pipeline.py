"""What happens to one document: the index is made equal to it, and the outcome is a value.

The pipeline knows its neighbours by what it needs of them, the Protocols below. Writes come in
an order that never loses the old version before the new one is durable: mark the document as
being written, upsert the new chunks, delete the stale ones, write the ledger entry.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Final, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from broker.contract import ChunkCounts, Document
from worker.points import ChunkPoint, LedgerEntry, chunk_id
from worker.prepare import Prepared, Unprepared

SLICE_CHUNKS: Final = 256
"""Chunks of one document that are embedded and upserted before the next are looked at: vectors in
memory are bounded by this, not by the size of the document."""


@dataclass(frozen=True)
class Indexed:
    """The index now holds this version."""

    chunks: ChunkCounts


@dataclass(frozen=True)
class Unchanged:
    """The index held this content already."""


@dataclass(frozen=True)
class Superseded:
    """The index holds a newer version."""


@dataclass(frozen=True)
class Rejected:
    """The document can never be indexed."""

    reason: str


@dataclass(frozen=True)
class Retry:
    """The document may be indexed later; ``counts`` says whether this was a try of its own."""

    reason: str
    counts: bool
    traceback: str = ""


Outcome = Indexed | Unchanged | Superseded | Rejected | Retry


class Model(Protocol):
    """Text in, vectors out; see `worker.embedding.pool.ModelPool`."""

    async def prepare(
        self, document: Document, known_hash: str | None
    ) -> Prepared | Unprepared: ...

    async def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]: ...


class Chunks(Protocol):
    """The chunks in the index; see `worker.store.QdrantStore`."""

    async def upsert(self, points: Sequence[ChunkPoint]) -> None: ...

    async def delete(self, ids: Iterable[str]) -> None: ...

    async def vectors(self, ids: Iterable[str]) -> dict[str, list[float]]: ...

    async def ids_of(self, tenant: str, doc_id: str) -> frozenset[str]: ...


class Ledger(Protocol):
    """What is indexed; see `worker.ledger.QdrantLedger`."""

    async def look_up(self, tenant: str, doc_id: str) -> LedgerEntry | None: ...

    async def write(self, entry: LedgerEntry) -> None: ...


@dataclass(frozen=True)
class Ports:
    """The pipeline's neighbours."""

    model: Model
    chunks: Chunks
    ledger: Ledger


@dataclass(frozen=True)
class _Chunk:
    id: str
    text: str
    payload: Mapping[str, Any]


Progress = Callable[[int, int], None]
"""Called with the chunks that were done and became known since the last call."""


async def ingest(document: Document, ports: Ports, progress: Progress) -> Outcome:
    """Make the index equal to ``document``, unless it holds that or a newer version already.

    May be repeated after any interruption. Raises what its neighbours raise.
    """
    entry = await ports.ledger.look_up(document.tenant, document.doc_id)
    if entry is not None and entry.version > document.version:
        return Superseded()
    known_hash = entry.content_hash if entry is not None and entry.indexed else None
    prepared = await ports.model.prepare(document, known_hash)
    if isinstance(prepared, Unprepared):
        assert entry is not None, "only a known document can be unchanged"
        if entry.version == document.version:
            # An earlier try got to the end, but its worker did not live to say so.
            return Indexed(ChunkCounts(reused=entry.chunks))
        await ports.ledger.write(msgspec.structs.replace(entry, version=document.version))
        return Unchanged()
    return await _replace(document, prepared, ports, progress, first=entry is None)


async def _replace(
    document: Document, prepared: Prepared, ports: Ports, progress: Progress, *, first: bool
) -> Indexed:
    chunks = _identify(document, prepared)
    progress(0, len(chunks))
    before = frozenset() if first else await ports.chunks.ids_of(document.tenant, document.doc_id)
    entry = LedgerEntry(
        tenant=document.tenant,
        doc_id=document.doc_id,
        source=document.source,
        version=document.version,
        content_hash=prepared.content_hash,
        chunks=len(chunks),
        state="writing",
    )
    await ports.ledger.write(entry)
    embedded = 0
    for start in range(0, len(chunks), SLICE_CHUNKS):
        part = chunks[start : start + SLICE_CHUNKS]
        embedded += await _write_slice(part, before, ports)
        progress(len(part), 0)
    stale = before - {chunk.id for chunk in chunks}
    await ports.chunks.delete(stale)
    await ports.ledger.write(msgspec.structs.replace(entry, state="indexed"))
    return Indexed(
        ChunkCounts(embedded=embedded, reused=len(chunks) - embedded, deleted=len(stale))
    )


async def _write_slice(chunks: Sequence[_Chunk], before: frozenset[str], ports: Ports) -> int:
    """Upsert ``chunks``, with the vectors they have where they have one; how many had none."""
    vectors: dict[str, Sequence[float]] = {}
    vectors.update(await ports.chunks.vectors(c.id for c in chunks if c.id in before))
    new = [chunk for chunk in chunks if chunk.id not in vectors]
    if new:
        rows = await ports.model.embed([chunk.text for chunk in new])
        vectors.update(zip((c.id for c in new), rows.tolist(), strict=True))
    await ports.chunks.upsert([ChunkPoint(c.id, vectors[c.id], c.payload) for c in chunks])
    return len(new)


def _identify(document: Document, prepared: Prepared) -> list[_Chunk]:
    """Give every chunk its id and payload."""
    title = prepared.title or PurePath(document.source).name
    metadata = {"title": title, **document.metadata, "source": document.source}
    seen: Counter[str] = Counter()
    chunks = []
    for index, text in enumerate(prepared.chunks):
        chunk_hash = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        payload = {
            "page_content": text,
            "metadata": metadata,
            "doc_id": document.doc_id,
            "source": document.source,
            "tenant": document.tenant,
            "chunk_index": index,
            "content_hash": chunk_hash,
        }
        key = chunk_id(document.tenant, document.doc_id, chunk_hash, seen[chunk_hash])
        seen[chunk_hash] += 1
        chunks.append(_Chunk(key, text, payload))
    return chunks
