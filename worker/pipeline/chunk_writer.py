"""Embeds and upserts the chunks of one document, segment by segment."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from ingestq.core.documents import Document, Lane
from worker.pipeline.points import ChunkPoint, Digest, Fence, chunk_id
from worker.pipeline.ports import Ports, Progress
from worker.text.parts import Segment, SizedText, SparseVector

SLICE_CHUNKS: Final = 256
"""Chunks of a document that are embedded and upserted together. It bounds the vectors in memory,
however large the document is."""
VECTOR_DECIMALS: Final = 9
"""Decimals of the components of a unit vector in a request. A float32 hardly has more, but would be
nearly twice as long if it were written out as a double, as JSON does."""


@dataclass(frozen=True)
class _Chunk:
    id: str
    text: SizedText
    payload: Mapping[str, Any]
    sparse: SparseVector | None


class ChunkWriter:
    """Writes the chunks of ``document`` under ``fence``, with its ``title`` in their metadata.

    If the document was written before (``known``), chunks that still exist keep their vectors.
    The attribute ``chunks`` counts the chunks written so far, ``embedded`` those of them that had
    no vector yet; ``digest`` is the digest of their ids.
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
    ) -> None:
        self.chunks = 0
        self.embedded = 0
        self.digest = Digest()
        self._lane = lane
        self._document = document
        self._fence = fence
        self._metadata = {"title": title, **document.metadata, "source": document.source}
        self._ports = ports
        self._progress = progress
        self._known = known
        self._sections: Counter[str] = Counter()

    async def write(self, segment: Segment) -> None:
        """Write the next chunks of the document; they are durable on return.

        Raises what the model and the store raise.
        """
        self._progress(0, len(segment.chunks))
        chunks = list(self._identified(segment))
        for start in range(0, len(chunks), SLICE_CHUNKS):
            some = chunks[start : start + SLICE_CHUNKS]
            await self._write(some)
            self.chunks += len(some)
            for chunk in some:
                self.digest.add(chunk.id)
            self._progress(len(some), 0)

    async def _write(self, chunks: Sequence[_Chunk]) -> None:
        """Upsert ``chunks``; embed only those that have no vector in the index or the donor."""
        ports = self._ports
        vectors: dict[str, Sequence[float]] = {}
        if self._known:
            vectors.update(await ports.chunks.vectors(chunk.id for chunk in chunks))
        if ports.donor is not None:
            missing = [chunk.id for chunk in chunks if chunk.id not in vectors]
            vectors.update(await ports.donor.vectors(missing))
        new = [chunk for chunk in chunks if chunk.id not in vectors]
        if new:
            rows = await ports.model.embed(self._lane, [chunk.text for chunk in new])
            numbers = np.round(rows.astype(np.float64), VECTOR_DECIMALS).tolist()
            vectors.update(zip((c.id for c in new), numbers, strict=True))
        points = [ChunkPoint(c.id, vectors[c.id], c.payload, c.sparse) for c in chunks]
        await ports.chunks.upsert(points, self._fence)
        self.embedded += len(new)

    def _identified(self, part: Segment) -> Iterator[_Chunk]:
        """Yield the chunks of ``part`` with their ids and payloads."""
        document = self._document
        hashes = [_hash(text) for text in part.chunks]
        section = self._section(hashes)
        seen: Counter[str] = Counter()
        for i, text in enumerate(map(SizedText, part.chunks, part.tokens)):
            payload = {
                "page_content": text.text,
                "metadata": self._metadata,
                "doc_id": document.doc_id,
                "source": document.source,
                "tenant": document.tenant,
                "chunk_index": self.chunks + i,
                "content_hash": hashes[i],
                **self._fence._asdict(),
            }
            place = f"{section}{seen[hashes[i]]}"
            seen[hashes[i]] += 1
            key = chunk_id(document.tenant, document.doc_id, hashes[i], place)
            yield _Chunk(key, text, payload, part.sparse[i] if part.sparse else None)

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


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
