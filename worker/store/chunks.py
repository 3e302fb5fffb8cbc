"""Chunks in Qdrant: writing, reading and searching them. The schema is in
`worker.store.collection`."""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Final, NamedTuple, cast

import msgspec
from qdrant_client import AsyncQdrantClient, models

from worker.pipeline.points import ChunkPoint, DocumentKey, Fence, LedgerEntry, SearchHit
from worker.store.client import Qdrant, applied, ask_in_parts
from worker.store.fence import is_equal, is_exactly, is_not_newer
from worker.store.requests import pages
from worker.store.schema import SPARSE_NAME
from worker.text.parts import SparseVector

UPSERT_POINTS: Final = 128
"""Encoding a batch holds up the event loop; this many 384-float vectors take about 7 ms."""
UPSERT_BYTES: Final = 8 * 1024 * 1024
"""Well under the 32 MB that a server accepts in one request."""
PARALLEL_UPSERTS: Final = 4
"""More are not faster to a server, and what is encoded at the same time holds up the event loop
together."""
JSON_FLOAT_BYTES: Final = 22
JSON_INDEX_BYTES: Final = 11
READ_POINTS: Final = 256
FEWEST_CANDIDATES: Final = 50
"""How many chunks each half of a hybrid search proposes at least: what only one of them finds far
down may still be the best of both."""
QUANTIZED: Final = models.SearchParams(
    quantization=models.QuantizationSearchParams(rescore=True, oversampling=2.0)
)
"""Small copies of the vectors only propose, twice as many as are wanted; the vectors decide. It is
nothing to a collection that has no such copies."""


class StoredText(NamedTuple):
    """What the index holds of a document."""

    text: str
    title: str | None


class QdrantStore:
    """The chunks in the collection or alias ``name``. Every request may be sent twice.

    ``vector_name`` is the name of the dense vectors.

    Raises what `worker.store.client.Qdrant` raises.
    """

    def __init__(self, qdrant: Qdrant, name: str, vector_name: str = "") -> None:
        self._qdrant = qdrant
        self._name = name
        self._vector_name = vector_name
        self._upserts = asyncio.Semaphore(PARALLEL_UPSERTS)

    async def upsert(self, points: Sequence[ChunkPoint], fence: Fence) -> None:
        """Insert ``points``, or replace those that are not of a newer fence; durable on return.

        Their payloads carry ``fence``. If one is rejected, those before it may be written.
        """

        async def ask(batch: Sequence[ChunkPoint]) -> None:
            structs = [self._struct(point) for point in batch]
            await self._qdrant.ask(applied(partial(_upsert, self._name, structs, fence)))

        for batch in _upsert_batches(points):
            async with self._upserts:
                await ask_in_parts(batch, ask, _name_of)

    async def delete_stale(self, entry: LedgerEntry) -> int:
        """Delete a document's chunks that are not those of its ``entry``; durable on return.

        Chunks of a newer fence stay. Returns how many were deleted.
        """
        stale = _stale(entry)

        async def ask(ids: Sequence[models.ExtendedPointId]) -> None:
            await self._qdrant.ask(applied(partial(_delete, self._name, ids, stale)))

        deleted = 0
        async for page in pages(self._qdrant, self._name, stale, False, READ_POINTS):
            if page:
                await ask_in_parts([record.id for record in page], ask, "point {}".format)
                deleted += len(page)
        return deleted

    async def vectors(self, ids: Iterable[str]) -> dict[str, list[float]]:
        """Return the dense vectors of those of ``ids`` that exist."""
        found: dict[str, list[float]] = {}
        for batch in _batched(ids, READ_POINTS):
            request = partial(_retrieve_vectors, self._name, batch, self._vector_name)
            found.update({str(r.id): self._dense(r) for r in await self._qdrant.ask(request)})
        return found

    async def stored_text(self, key: DocumentKey) -> StoredText:
        """Return the text of all chunks of a document, one after the other, and its title."""
        chunks: list[tuple[int, str]] = []
        title: str | None = None
        fields = ["chunk_index", "page_content", "metadata"]
        only = models.Filter(must=_of(key))
        async for page in pages(self._qdrant, self._name, only, fields, READ_POINTS):
            for payload in (record.payload or {} for record in page):
                chunks.append((payload["chunk_index"], payload["page_content"]))
                title = payload["metadata"].get("title")
        return StoredText("\n\n".join(text for _, text in sorted(chunks)), title)

    async def sample(self, n: int) -> list[str]:
        """Return the texts of up to ``n`` chunks, at random."""
        any_chunk = models.SampleQuery(sample=models.Sample.RANDOM)
        response = await self._qdrant.ask(
            lambda client: client.query_points(
                self._name, query=any_chunk, limit=n, with_payload=["page_content"]
            )
        )
        return [(point.payload or {})["page_content"] for point in response.points]

    async def count(self) -> int:
        """Return how many chunks there are."""
        return (await self._qdrant.ask(lambda client: client.count(self._name))).count

    async def search(
        self,
        dense: Sequence[float] | None,
        limit: int,
        *,
        sparse: SparseVector | None = None,
        only: models.Filter | None = None,
    ) -> list[SearchHit]:
        """Return the ``limit`` chunks nearest to ``dense``, to ``sparse``, or to both; best first.

        Both are fused by their ranks (RRF: Cormack, Clarke and Büttcher 2009,
        https://doi.org/10.1145/1571941.1572114), as their scores cannot be compared.
        """
        candidates = limit if dense is None or sparse is None else max(limit, FEWEST_CANDIDATES)
        halves = []
        if dense is not None:
            halves.append(
                models.Prefetch(
                    query=list(dense),
                    using=self._vector_name or None,
                    filter=only,
                    params=QUANTIZED,
                    limit=candidates,
                )
            )
        if sparse is not None:
            halves.append(
                models.Prefetch(
                    query=_sparse(sparse), using=SPARSE_NAME, filter=only, limit=candidates
                )
            )
        response = await self._qdrant.ask(partial(_query, self._name, halves, limit))
        return [_hit(point) for point in response.points]

    def _struct(self, point: ChunkPoint) -> models.PointStruct:
        # Not validated, as what is right by construction: looking at every number holds up the
        # event loop for as long as encoding them does.
        return models.PointStruct.model_construct(
            id=point.id, vector=self._vectors(point), payload=dict(point.payload)
        )

    def _vectors(self, point: ChunkPoint) -> models.VectorStruct:
        if point.sparse is None and not self._vector_name:
            return list(point.vector)
        vectors: dict[str, models.Vector] = {self._vector_name: list(point.vector)}
        if point.sparse is not None:
            vectors[SPARSE_NAME] = _sparse(point.sparse)
        return vectors

    def _dense(self, record: models.Record) -> list[float]:
        vectors = record.vector
        # The unnamed vector comes without its empty name.
        dense = vectors[self._vector_name] if isinstance(vectors, dict) else vectors
        return cast(list[float], dense)


async def _upsert(
    name: str, points: list[models.PointStruct], fence: Fence, client: AsyncQdrantClient
) -> models.UpdateResult:
    return await client.upsert(name, points, update_filter=is_not_newer(fence), wait=True)


async def _delete(
    name: str,
    ids: Sequence[models.ExtendedPointId],
    only: models.Filter,
    client: AsyncQdrantClient,
) -> models.UpdateResult:
    these = models.Filter(must=[models.HasIdCondition(has_id=list(ids)), only])
    return await client.delete(name, models.FilterSelector(filter=these), wait=True)


def _name_of(point: ChunkPoint) -> str:
    return f"chunk {point.payload.get('chunk_index')} (point {point.id})"


async def _retrieve_vectors(
    name: str, ids: tuple[str, ...], vector_name: str, client: AsyncQdrantClient
) -> list[models.Record]:
    return await client.retrieve(name, list(ids), with_payload=False, with_vectors=[vector_name])


async def _query(
    name: str, halves: list[models.Prefetch], limit: int, client: AsyncQdrantClient
) -> models.QueryResponse:
    if len(halves) > 1:
        fusion = models.FusionQuery(fusion=models.Fusion.RRF)
        return await client.query_points(
            name, query=fusion, prefetch=halves, limit=limit, with_payload=True
        )
    [one] = halves
    return await client.query_points(
        name,
        query=one.query,
        using=one.using,
        query_filter=one.filter,
        search_params=one.params,
        limit=limit,
        with_payload=True,
    )


def _sparse(vector: SparseVector) -> models.SparseVector:
    return models.SparseVector.model_construct(indices=vector.indices, values=vector.values)


def _of(key: DocumentKey) -> list[models.Condition]:
    return [is_equal("tenant", key.tenant), is_equal("doc_id", key.doc_id)]


def _stale(entry: LedgerEntry) -> models.Filter:
    kept = None if entry.chunks_fence is None else is_exactly(entry.chunks_fence)
    return models.Filter(must=[*_of(entry.key), is_not_newer(entry.fence)], must_not=kept)


def _hit(point: models.ScoredPoint) -> SearchHit:
    payload = point.payload or {}
    return SearchHit(
        score=point.score,
        doc_id=payload["doc_id"],
        source=payload["source"],
        chunk_index=payload["chunk_index"],
        text=payload["page_content"],
        metadata=payload["metadata"],
    )


def _batched(ids: Iterable[str], size: int) -> Iterator[tuple[str, ...]]:
    """Do what ``itertools.batched`` does, which Python has from 3.12 on."""
    rest = iter(ids)
    while batch := tuple(islice(rest, size)):
        yield batch


def _upsert_batches(points: Sequence[ChunkPoint]) -> Iterator[list[ChunkPoint]]:
    """Cut ``points`` into batches that are bounded in number and in bytes on the wire."""
    batch: list[ChunkPoint] = []
    size = 0
    for point in points:
        point_size = _json_bytes(point)
        if batch and (len(batch) == UPSERT_POINTS or size + point_size > UPSERT_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(point)
        size += point_size
    if batch:
        yield batch


def _json_bytes(point: ChunkPoint) -> int:
    """Return a bound of the bytes that a point takes on the wire."""
    size = len(msgspec.json.encode(point.payload)) + JSON_FLOAT_BYTES * len(point.vector)
    if point.sparse is not None:
        size += (JSON_INDEX_BYTES + JSON_FLOAT_BYTES) * len(point.sparse.indices)
    return size
