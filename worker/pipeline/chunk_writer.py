"""Embeds and upserts the chunks of one document, segment by segment."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np

from ingestq.core.documents import Document, Lane
from worker.pipeline.points import (
    ChunkPoint,
    Digest,
    Fence,
    chunk_id,
    composed_field,
    large_integers,
)
from worker.pipeline.ports import Ports, Progress
from worker.text.parts import Chunk, Segment, SizedText, SparseVector

SLICE_CHUNKS: Final = 256
"""Chunks of a document that are embedded and upserted together. It bounds the vectors in memory,
however large the document is."""
VECTOR_DECIMALS: Final = 9
"""Decimals of the components of a unit vector in a request. A float32 hardly has more, but would be
nearly twice as long if it were written out as a double, as JSON does."""


@dataclass(frozen=True)
class _Chunk:
    id: str
    id_in_copy: str | None  # of the same chunk in the document that this one is a copy of
    text: SizedText  # what is embedded
    payload: Mapping[str, Any]
    sparse: SparseVector | None


class ChunkWriter:
    """Writes the chunks of ``document`` under ``fence``.

    Their metadata is the document's own, which may have a ``title`` and a ``source``; otherwise
    those of the document are added. LangChain and others show them as what was found. What a hook
    has ``enriched`` them with replaces fields of the same name.

    If the document was written before (``known``), chunks that still exist keep their vectors. What
    the document ``copy_of`` has, which has the same content, is not embedded again either.
    The attribute ``chunks`` counts the chunks written so far, ``embedded`` those of them that had
    no vector yet, and ``tokens`` those of their tokens; ``digest`` is the digest of all ids.
    """

    def __init__(
        self,
        lane: Lane,
        document: Document,
        fence: Fence,
        title: str,
        ports: Ports,
        progress: Progress,
        *,
        known: bool,
        copy_of: str | None = None,
        enriched: Mapping[str, Any] | None = None,
    ) -> None:
        self.chunks = 0
        self.embedded = 0
        self.tokens = 0
        self.digest = Digest()
        self._lane = lane
        self._document = document
        self._fence = fence
        own = {**document.metadata, **(enriched or {})}
        self._metadata = {"title": title, "source": document.source, **own}
        self._large_integers = large_integers(own)
        self._ports = ports
        self._progress = progress
        self._known = known
        self._copy_of = copy_of
        self._sections: Counter[str] = Counter()

    async def write(self, segment: Segment) -> None:
        """Write the next chunks of the document; they are durable on return.

        Raises what the model and the store raise.
        """
        chunks = list(self._identified(segment))
        for start in range(0, len(chunks), SLICE_CHUNKS):
            some = chunks[start : start + SLICE_CHUNKS]
            await self._write(some)
            self.chunks += len(some)
            for chunk in some:
                self.digest.add(chunk.id)
            self._progress(len(some), 0)

    async def _write(self, chunks: Sequence[_Chunk]) -> None:
        """Upsert ``chunks``; embed only those that have no vector in the index, donor or copy."""
        ports = self._ports
        vectors: dict[str, Sequence[float]] = {}
        if self._known:
            vectors.update(await ports.chunks.vectors(chunk.id for chunk in chunks))
        if ports.donor is not None:
            missing = [chunk.id for chunk in chunks if chunk.id not in vectors]
            vectors.update(await ports.donor.vectors(missing))
        if self._copy_of is not None:
            missing_chunks = [chunk for chunk in chunks if chunk.id not in vectors]
            vectors.update(await self._vectors_of_copy(missing_chunks))
        new = [chunk for chunk in chunks if chunk.id not in vectors]
        if new:
            rows = await ports.model.embed(self._lane, [chunk.text for chunk in new])
            numbers = np.round(rows.astype(np.float64), VECTOR_DECIMALS).tolist()
            vectors.update(zip((c.id for c in new), numbers, strict=True))
        points = [ChunkPoint(c.id, vectors[c.id], c.payload, c.sparse) for c in chunks]
        await ports.chunks.upsert(points, self._fence)
        self.embedded += len(new)
        self.tokens += sum(chunk.text.tokens for chunk in new)

    async def _vectors_of_copy(self, chunks: Sequence[_Chunk]) -> dict[str, Sequence[float]]:
        """Return the vectors, by id, of those ``chunks`` that the copy still has."""
        hashes = {c.id_in_copy: c.payload["content_hash"] for c in chunks if c.id_in_copy}
        vectors = await self._ports.chunks.vectors_of(hashes)
        return {c.id: vectors[c.id_in_copy] for c in chunks if c.id_in_copy in vectors}

    def _identified(self, segment: Segment) -> Iterator[_Chunk]:
        """Yield the chunks of ``segment`` with their ids and payloads."""
        document = self._document
        hashes = list(map(_hash, segment.chunks))
        section = self._section(hashes)
        seen: Counter[str] = Counter()
        for i, chunk in enumerate(segment.chunks):
            payload = {
                "page_content": chunk.body,
                "context": chunk.full_context,
                "page": chunk.page,
                "part": chunk.part,
                "metadata": self._metadata,
                **self._large_integers,
                "doc_id": document.doc_id,
                "source": document.source,
                **composed_field("source", document.source),
                "tenant": document.tenant,
                "chunk_index": self.chunks + i,
                "content_hash": hashes[i],
                **self._fence._asdict(),
            }
            place = f"{section}{seen[hashes[i]]}"
            seen[hashes[i]] += 1
            sparse = segment.sparse[i] if segment.sparse else None
            id_in = partial(chunk_id, document.tenant, chunk_hash=hashes[i], occurrence=place)
            id_in_copy = None if self._copy_of is None else id_in(self._copy_of)
            yield _Chunk(id_in(document.doc_id), id_in_copy, chunk.embedded, payload, sparse)

    def _section(self, hashes: Sequence[str]) -> str:
        """Return a name for the segment, by which equal chunks of two segments get different ids.

        It is made of the segment's first chunk. So an edit does not change the ids in other
        segments, and the chunks of a long document need not be remembered. The first segment has
        an empty name.
        """
        if not self.chunks or not hashes:
            return ""
        first = hashes[0]
        self._sections[first] += 1
        return f"{first}\0{self._sections[first]}\0"


def _hash(chunk: Chunk) -> str:
    """Return the hash of what is embedded of ``chunk``, and of where its body begins."""
    content = f"{chunk.context}\0{chunk.body}"
    return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()
