"""Reads chunks with all that is stored of them, to write them again as they are."""

from array import array
from collections.abc import AsyncIterator, Collection, Sequence
from typing import Final, cast

from qdrant_client import models

from worker.pipeline.points import ChunkPoint
from worker.store.client import Qdrant
from worker.store.fence import is_one_of
from worker.store.requests import pages
from worker.store.schema import SPARSE_NAME, PointLayout
from worker.text.parts import SparseVector

PAGE_POINTS: Final = 128
"""Points in one answer: a megabyte or two, with vectors of 384 numbers."""


class ExactChunks:
    """The chunks in the collection ``name``, with their vectors and payloads.

    ``layout`` is that of its points. Raises what `worker.store.client.Qdrant` raises.
    """

    def __init__(self, qdrant: Qdrant, name: str, layout: PointLayout) -> None:
        self._qdrant = qdrant
        self._name = name
        self._layout = layout

    async def pages(self, doc_ids: Collection[str]) -> AsyncIterator[Sequence[ChunkPoint]]:
        """Yield the chunks of the documents ``doc_ids``, of any tenant and version, page by page.

        The vectors are exact: Qdrant stores their numbers in 32 bits.
        """
        only = models.Filter(must=[is_one_of("doc_id", doc_ids)])
        found = pages(self._qdrant, self._name, only, True, PAGE_POINTS, with_vectors=True)
        async for records in found:
            chunks = map(self._chunk, records)
            yield [chunk for chunk in chunks if chunk is not None]

    def _chunk(self, record: models.Record) -> ChunkPoint | None:
        """Return the chunk in ``record``; None for a point without vector, which is none."""
        vectors = record.vector
        name = self._layout.vector_name
        named = vectors if isinstance(vectors, dict) else {name: vectors}
        dense, sparse = named.get(name), named.get(SPARSE_NAME)
        if not isinstance(dense, list):
            return None
        return ChunkPoint(
            id=str(record.id),
            vector=array("f", cast(list[float], dense)),
            payload=self._layout.chunk_of(record.payload),
            sparse=SparseVector.of(sparse.indices, sparse.values)
            if isinstance(sparse, models.SparseVector)
            else None,
        )
