"""Writes, reads and searches the chunks in Qdrant. The schema is in `worker.store.collection`."""

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
"""Encoding a batch blocks the event loop: for about 7 ms with this many vectors of 384 floats."""
UPSERT_BYTES: Final = 8 * 1024 * 1024
"""Well below the 32 MB that a server accepts in one request."""
PARALLEL_UPSERTS: Final = 4
"""More are not faster, and encoding more at a time would block the event loop for longer."""
JSON_FLOAT_BYTES: Final = 22
JSON_INDEX_BYTES: Final = 11
READ_POINTS: Final = 256
MIN_CANDIDATES: Final = 50
"""The least number of candidates from each part of a hybrid search: a chunk with a low rank in one
of them may still be the best in both."""
QUANTIZED: Final = models.SearchParams(
    quantization=models.QuantizationSearchParams(rescore=True, oversampling=2.0)
)
"""Takes twice as many candidates from the quantized vectors, and ranks them by the full ones.
Without quantization it has no effect."""


class StoredText(NamedTuple):
    """A document's text and title, as the index has them."""

    text: str
    title: str | None


class QdrantStore:
    """The chunks in the collection or alias ``name``. Every request may safely be sent twice.

    ``vector_name`` is the name of the dense vector; empty for Qdrant's unnamed one. Raises what
    `worker.store.client.Qdrant` raises.
    """

    def __init__(self, qdrant: Qdrant, name: str, vector_name: str = "") -> None:
        self._qdrant = qdrant
        self._name = name
        self._vector_name = vector_name
        self._upserts = asyncio.Semaphore(PARALLEL_UPSERTS)

    async def upsert(self, points: Sequence[ChunkPoint], fence: Fence) -> None:
        """Insert ``points``, or replace those whose fence is not newer; durable on return.

        The payloads of ``points`` carry ``fence``. If a point is rejected, those before it may have
        been written.
        """

        async def ask(batch: Sequence[ChunkPoint]) -> None:
            structs = [self._struct(point) for point in batch]
            await self._qdrant.ask(applied(partial(_upsert, self._name, structs, fence)))

        for batch in _upsert_batches(points):
            async with self._upserts:
                await ask_in_parts(batch, ask, _describe_point)

    async def delete_stale(self, entry: LedgerEntry) -> int:
        """Delete the document's chunks that its ``entry`` does not have; durable on return.

        Chunks with a newer fence stay. Returns how many were deleted.
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
        """Return the dense vectors, by id, of those ``ids`` that exist."""
        found: dict[str, list[float]] = {}
        for batch in _batched(ids, READ_POINTS):
            request = partial(_retrieve_vectors, self._name, batch, self._vector_name)
            found.update({str(r.id): self._dense(r) for r in await self._qdrant.ask(request)})
        return found

    async def stored_text(self, key: DocumentKey) -> StoredText:
        """Return the document's title and the text of its chunks, in order."""
        chunks: list[tuple[int, str]] = []
        title: str | None = None
        fields = ["chunk_index", "page_content", "metadata"]
        only = models.Filter(must=_is_of(key))
        async for page in pages(self._qdrant, self._name, only, fields, READ_POINTS):
            for payload in (record.payload or {} for record in page):
                chunks.append((payload["chunk_index"], payload["page_content"]))
                title = payload["metadata"].get("title")
        return StoredText("\n\n".join(text for _, text in sorted(chunks)), title)

    async def sample(self, n: int) -> list[str]:
        """Return the texts of up to ``n`` random chunks."""
        any_chunk = models.SampleQuery(sample=models.Sample.RANDOM)
        response = await self._qdrant.ask(
            lambda client: client.query_points(
                self._name, query=any_chunk, limit=n, with_payload=["page_content"]
            )
        )
        return [(point.payload or {})["page_content"] for point in response.points]

    async def count(self) -> int:
        """Return the number of chunks."""
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

        With both, the two results are fused by rank (RRF: Cormack, Clarke and Büttcher 2009,
        https://doi.org/10.1145/1571941.1572114), because their scores cannot be compared.
        """
        candidates = limit if dense is None or sparse is None else max(limit, MIN_CANDIDATES)
        prefetches = []
        if dense is not None:
            prefetches.append(
                models.Prefetch(
                    query=list(dense),
                    using=self._vector_name or None,
                    filter=only,
                    params=QUANTIZED,
                    limit=candidates,
                )
            )
        if sparse is not None:
            prefetches.append(
                models.Prefetch(
                    query=_sparse(sparse), using=SPARSE_NAME, filter=only, limit=candidates
                )
            )
        response = await self._qdrant.ask(partial(_query, self._name, prefetches, limit))
        return [_hit(point) for point in response.points]

    def _struct(self, point: ChunkPoint) -> models.PointStruct:
        # Without validation, which would check every number and block the event loop for as long as
        # encoding them does.
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
        # The unnamed vector comes without a dict.
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


def _describe_point(point: ChunkPoint) -> str:
    return f"chunk {point.payload.get('chunk_index')} (point {point.id})"


async def _retrieve_vectors(
    name: str, ids: tuple[str, ...], vector_name: str, client: AsyncQdrantClient
) -> list[models.Record]:
    return await client.retrieve(name, list(ids), with_payload=False, with_vectors=[vector_name])


async def _query(
    name: str, prefetches: list[models.Prefetch], limit: int, client: AsyncQdrantClient
) -> models.QueryResponse:
    if len(prefetches) > 1:
        fusion = models.FusionQuery(fusion=models.Fusion.RRF)
        return await client.query_points(
            name, query=fusion, prefetch=prefetches, limit=limit, with_payload=True
        )
    [single] = prefetches
    return await client.query_points(
        name,
        query=single.query,
        using=single.using,
        query_filter=single.filter,
        search_params=single.params,
        limit=limit,
        with_payload=True,
    )


def _sparse(vector: SparseVector) -> models.SparseVector:
    return models.SparseVector.model_construct(indices=vector.indices, values=vector.values)


def _is_of(key: DocumentKey) -> list[models.Condition]:
    return [is_equal("tenant", key.tenant), is_equal("doc_id", key.doc_id)]


def _stale(entry: LedgerEntry) -> models.Filter:
    current = None if entry.chunks_fence is None else is_exactly(entry.chunks_fence)
    return models.Filter(must=[*_is_of(entry.key), is_not_newer(entry.fence)], must_not=current)


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
    """Do what ``itertools.batched`` does, which Python has since 3.12."""
    rest = iter(ids)
    while batch := tuple(islice(rest, size)):
        yield batch


def _upsert_batches(points: Sequence[ChunkPoint]) -> Iterator[list[ChunkPoint]]:
    """Yield ``points`` in batches that are bounded in number and in bytes on the wire."""
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
    """Return an upper bound of a point's size on the wire, in bytes."""
    size = len(msgspec.json.encode(point.payload)) + JSON_FLOAT_BYTES * len(point.vector)
    if point.sparse is not None:
        size += (JSON_INDEX_BYTES + JSON_FLOAT_BYTES) * len(point.sparse.indices)
    return size
