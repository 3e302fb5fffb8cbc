"""Lists and deletes the points that a collection actually has, whoever wrote them."""

from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any, Final

from qdrant_client import AsyncQdrantClient, models

from worker.pipeline.points import DocumentKey, Fence
from worker.store.client import Qdrant, applied
from worker.store.fence import FENCE_FIELDS, has_none, is_not_newer
from worker.store.requests import pages

PAGE_CHUNKS: Final = 1000
FIELDS: Final = ["doc_id", "tenant", *FENCE_FIELDS]


@dataclass(frozen=True)
class StoredChunk:
    """A point in the collection of chunks, without its text and vectors.

    ``key`` or ``fence`` is None if the payload has none: ingestq did not write the point, or it is
    damaged.
    """

    id: models.ExtendedPointId
    key: DocumentKey | None
    fence: Fence | None


class Inventory:
    """The points in the collection ``name``. Raises what `worker.store.client.Qdrant` raises."""

    def __init__(self, qdrant: Qdrant, name: str) -> None:
        self._qdrant = qdrant
        self._name = name

    async def pages(
        self, doc_ids: Collection[str] | None = None
    ) -> AsyncIterator[Sequence[StoredChunk]]:
        """Yield all chunks, or those of the documents ``doc_ids`` in any tenant, page by page."""
        only = None if doc_ids is None else _of_documents(doc_ids)
        async for page in pages(self._qdrant, self._name, only, FIELDS, PAGE_CHUNKS):
            yield [_stored(record) for record in page]

    async def remove(self, chunks: Iterable[StoredChunk]) -> None:
        """Delete ``chunks``, except those that were written again since they were read."""
        ordered = sorted(chunks, key=lambda chunk: chunk.fence or ())
        for fence, some in groupby(ordered, key=lambda chunk: chunk.fence):
            unchanged = has_none() if fence is None else is_not_newer(fence)
            ids = [chunk.id for chunk in some]
            for start in range(0, len(ids), PAGE_CHUNKS):
                part = ids[start : start + PAGE_CHUNKS]
                await self._qdrant.ask(applied(partial(_delete, self._name, part, unchanged)))


async def _delete(
    name: str,
    ids: list[models.ExtendedPointId],
    unchanged: models.Filter,
    client: AsyncQdrantClient,
) -> models.UpdateResult:
    these = models.Filter(must=[models.HasIdCondition(has_id=ids), unchanged])
    return await client.delete(name, models.FilterSelector(filter=these), wait=True)


def _of_documents(doc_ids: Collection[str]) -> models.Filter:
    match = models.MatchAny(any=list(doc_ids))
    return models.Filter(must=[models.FieldCondition(key="doc_id", match=match)])


def _stored(record: models.Record) -> StoredChunk:
    payload = record.payload or {}
    return StoredChunk(record.id, _key(payload), _fence(payload))


def _key(payload: dict[str, Any]) -> DocumentKey | None:
    match payload:
        case {"tenant": str(tenant), "doc_id": str(doc_id)}:
            return DocumentKey(tenant, doc_id)
        case _:
            return None


def _fence(payload: dict[str, Any]) -> Fence | None:
    match payload:
        case {"version": int(version), "attempt": int(attempt), "epoch": int(epoch)}:
            return Fence(version, attempt, epoch)
        case _:
            return None
