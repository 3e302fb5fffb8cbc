"""Finds the neighbours of hits: the chunks before and after them in their documents."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import Struct
from qdrant_client import models

from worker.pipeline.points import DocumentKey, Fence, Neighbour, SearchHit
from worker.store.client import Qdrant
from worker.store.fence import FENCE_FIELDS, is_equal, is_exactly
from worker.store.requests import pages
from worker.store.schema import TEXT_FIELD, PointLayout

READ_POINTS: Final = 256
DOCUMENTS_PER_REQUEST: Final = 32
FIELDS: Final = ["tenant", "doc_id", *FENCE_FIELDS, "chunk_index", TEXT_FIELD]


class WrittenUnder(NamedTuple):
    """The document that a chunk is of, and the fence that it was written under.

    While a document is replaced, it has chunks of two fences. Only those of one are neighbours.
    """

    key: DocumentKey
    fence: Fence


class _Chunk(Struct, frozen=True):
    tenant: str
    doc_id: str
    version: int
    attempt: int
    epoch: int
    chunk_index: int
    page_content: str


async def with_neighbours(
    qdrant: Qdrant,
    name: str,
    layout: PointLayout,
    hits: Sequence[tuple[WrittenUnder, SearchHit]],
    around: int,
) -> list[SearchHit]:
    """Return ``hits`` with up to ``around`` neighbours before and after each, as far as they exist.

    ``layout`` is that of the points in the collection ``name``. Raises what
    `worker.store.client.Qdrant` raises.
    """
    wanted: dict[WrittenUnder, set[int]] = defaultdict(set)
    for written, hit in hits:
        wanted[written].update(_before(hit, around), _after(hit, around))
    texts: dict[tuple[WrittenUnder, int], str] = {}
    for part in _parts(wanted):
        only = models.Filter(should=[_is_one_of(*item) for item in part.items()])
        async for page in pages(qdrant, name, only, layout.keys(FIELDS), READ_POINTS):
            for chunk in filter(None, (_chunk(layout.chunk_of(one.payload)) for one in page)):
                written = WrittenUnder(
                    DocumentKey(chunk.tenant, chunk.doc_id),
                    Fence(chunk.version, chunk.attempt, chunk.epoch),
                )
                texts[written, chunk.chunk_index] = chunk.page_content

    def known(written: WrittenUnder, indexes: Iterable[int]) -> tuple[Neighbour, ...]:
        return tuple(Neighbour(i, texts[written, i]) for i in indexes if (written, i) in texts)

    return [
        replace(
            hit,
            before=known(written, _before(hit, around)),
            after=known(written, _after(hit, around)),
        )
        for written, hit in hits
    ]


def _chunk(payload: Mapping[str, Any]) -> _Chunk | None:
    try:
        return msgspec.convert(payload, _Chunk)
    except msgspec.ValidationError:  # of another program
        return None


def _before(hit: SearchHit, around: int) -> range:
    return range(max(0, hit.chunk_index - around), hit.chunk_index)


def _after(hit: SearchHit, around: int) -> range:
    return range(hit.chunk_index + 1, hit.chunk_index + 1 + around)


def _parts(
    wanted: Mapping[WrittenUnder, set[int]],
) -> Iterator[dict[WrittenUnder, set[int]]]:
    items = list(wanted.items())
    for start in range(0, len(items), DOCUMENTS_PER_REQUEST):
        yield dict(items[start : start + DOCUMENTS_PER_REQUEST])


def _is_one_of(written: WrittenUnder, indexes: set[int]) -> models.Filter:
    return models.Filter(
        must=[
            is_equal("tenant", written.key.tenant),
            is_equal("doc_id", written.key.doc_id),
            is_exactly(written.fence),
            models.FieldCondition(key="chunk_index", match=models.MatchAny(any=sorted(indexes))),
        ]
    )
