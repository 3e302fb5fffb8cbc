"""Chunks in Qdrant: writing, reading and searching them. The schema is in `worker.collection`."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Final, cast

import msgspec
from qdrant_client import AsyncQdrantClient, models

from worker.fence import is_not_newer
from worker.parts import in_parts
from worker.points import ChunkPoint, DocumentKey, Fence, Hit
from worker.qdrant import Qdrant, applied

UPSERT_POINTS: Final = 128
"""Encoding a batch holds up the event loop; this many 384-float vectors take about 7 ms."""
UPSERT_BYTES: Final = 8 * 1024 * 1024
"""Well under the 32 MB that a server accepts in one request."""
JSON_FLOAT_BYTES: Final = 22
READ_POINTS: Final = 256


class QdrantStore:
    """The chunks in the collection or alias ``name``. Every request may be sent twice.

    Raises what `worker.qdrant.Qdrant` raises.
    """

    def __init__(self, qdrant: Qdrant, name: str) -> None:
        self._qdrant = qdrant
        self._name = name

    async def upsert(self, points: Sequence[ChunkPoint], fence: Fence) -> None:
        """Insert ``points``, or replace those that are not of a newer fence; durable on return.

        Their payloads carry ``fence``. If one is rejected, those before it may be written.
        """

        async def ask(batch: Sequence[ChunkPoint]) -> None:
            structs = [
                models.PointStruct(id=p.id, vector=list(p.vector), payload=dict(p.payload))
                for p in batch
            ]
            await self._qdrant.ask(applied(partial(_upsert, self._name, structs, fence)))

        for batch in _upsert_batches(points):
            await in_parts(batch, ask, _name_of)

    async def delete(self, ids: Iterable[str], fence: Fence) -> None:
        """Delete those of ``ids`` that are not of a newer fence; durable on return."""

        async def ask(batch: Sequence[str]) -> None:
            await self._qdrant.ask(applied(partial(_delete, self._name, batch, fence)))

        for batch in _batched(ids, READ_POINTS):
            await in_parts(batch, ask, "point {}".format)

    async def vectors(self, ids: Iterable[str]) -> dict[str, list[float]]:
        """The vectors of those of ``ids`` that exist."""
        found: dict[str, list[float]] = {}
        for batch in _batched(ids, READ_POINTS):
            records = await self._qdrant.ask(partial(_retrieve_vectors, self._name, batch))
            found.update({str(r.id): cast(list[float], r.vector) for r in records})
        return found

    async def ids_of(self, key: DocumentKey) -> frozenset[str]:
        """The ids of all chunks of a document."""
        ids: set[str] = set()
        offset: models.ExtendedPointId | None = None
        while True:
            page = partial(_scroll_ids, self._name, _document(key), offset)
            records, offset = await self._qdrant.ask(page)
            ids.update(str(record.id) for record in records)
            if offset is None:
                return frozenset(ids)

    async def count(self) -> int:
        """How many chunks there are."""
        return (await self._qdrant.ask(lambda client: client.count(self._name))).count

    async def search(self, vector: Sequence[float], limit: int) -> list[Hit]:
        """The ``limit`` chunks nearest to ``vector``, best first."""
        response = await self._qdrant.ask(
            lambda client: client.query_points(
                self._name, query=list(vector), limit=limit, with_payload=True
            )
        )
        return [_hit(point) for point in response.points]


async def _upsert(
    name: str, points: list[models.PointStruct], fence: Fence, client: AsyncQdrantClient
) -> models.UpdateResult:
    return await client.upsert(name, points, update_filter=is_not_newer(fence), wait=True)


async def _delete(
    name: str, ids: Sequence[str], fence: Fence, client: AsyncQdrantClient
) -> models.UpdateResult:
    these = models.Filter(must=[models.HasIdCondition(has_id=list(ids)), is_not_newer(fence)])
    return await client.delete(name, models.FilterSelector(filter=these), wait=True)


def _name_of(point: ChunkPoint) -> str:
    return f"chunk {point.payload.get('chunk_index')} (point {point.id})"


async def _retrieve_vectors(
    name: str, ids: tuple[str, ...], client: AsyncQdrantClient
) -> list[models.Record]:
    return await client.retrieve(name, list(ids), with_payload=False, with_vectors=True)


async def _scroll_ids(
    name: str,
    of: models.Filter,
    offset: models.ExtendedPointId | None,
    client: AsyncQdrantClient,
) -> tuple[list[models.Record], models.ExtendedPointId | None]:
    return await client.scroll(
        name, scroll_filter=of, limit=READ_POINTS, offset=offset, with_payload=False
    )


def _document(key: DocumentKey) -> models.Filter:
    return models.Filter(
        must=[
            models.FieldCondition(key="tenant", match=models.MatchValue(value=key.tenant)),
            models.FieldCondition(key="doc_id", match=models.MatchValue(value=key.doc_id)),
        ]
    )


def _hit(point: models.ScoredPoint) -> Hit:
    payload = point.payload or {}
    return Hit(
        score=point.score,
        doc_id=payload["doc_id"],
        source=payload["source"],
        chunk_index=payload["chunk_index"],
        text=payload["page_content"],
        metadata=payload["metadata"],
    )


def _batched(ids: Iterable[str], size: int) -> Iterator[tuple[str, ...]]:
    """``itertools.batched``, which Python has from 3.12 on."""
    rest = iter(ids)
    while batch := tuple(islice(rest, size)):
        yield batch


def _upsert_batches(points: Sequence[ChunkPoint]) -> Iterator[list[ChunkPoint]]:
    """Cut ``points`` into batches that are bounded in number and in bytes on the wire."""
    batch: list[ChunkPoint] = []
    size = 0
    for point in points:
        point_size = len(msgspec.json.encode(point.payload)) + JSON_FLOAT_BYTES * len(point.vector)
        if batch and (len(batch) == UPSERT_POINTS or size + point_size > UPSERT_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(point)
        size += point_size
    if batch:
        yield batch
