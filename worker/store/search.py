"""Searches a collection: query and conditions in, hits out."""

from collections.abc import Iterator
from typing import Final, Protocol

import msgspec
from qdrant_client import models

from ingestq.core.errors import InvalidQuery
from ingestq.core.search_query import MetadataCondition, Mode, SearchFilter, SearchQuery
from worker.embedding.config import ModelInfo
from worker.pipeline.points import QueryVectors, SearchHit
from worker.store.chunks import QdrantStore
from worker.store.client import Qdrant
from worker.store.collection import CollectionNames, check_searchable
from worker.store.fence import is_equal

EXACT_FLOATS: Final = 2**53
"""Below this, every integer is a distinct float. Qdrant compares ranges as floats."""
INTEGERS: Final = range(-(2**63), 2**63)
"""The integers that Qdrant can compare: 64 bits."""


def to_filter(where: SearchFilter) -> models.Filter | None:
    """Return the filter for points that meet every condition; None if there are no conditions."""
    conditions: list[models.Condition] = [_metadata_is(wanted) for wanted in where.metadata]
    for field in ("source", "tenant"):
        value = getattr(where, field)
        if value is not None:
            conditions.append(is_equal(field, value))
    return models.Filter(must=conditions) if conditions else None


def _metadata_is(wanted: MetadataCondition) -> models.Filter:
    """Match a metadata value as text and, if it reads as one, as a number or boolean."""
    # Quoted, because a key may contain any character. A dot is either part of the key or a path.
    nested = ".".join(f'"{part}"' for part in wanted.key.split("."))
    paths = dict.fromkeys((f"metadata.{nested}", f'metadata."{wanted.key}"'))
    return models.Filter(
        should=[condition for path in paths for condition in _is(path, wanted.value)]
    )


def _is(path: str, text: str) -> Iterator[models.FieldCondition]:
    yield is_equal(path, text)
    try:
        value = msgspec.json.decode(text)
    except msgspec.DecodeError:
        return
    if isinstance(value, int) and value in INTEGERS:  # also true and false
        yield is_equal(path, value)
    if _is_number(value) and abs(value) < EXACT_FLOATS:
        yield models.FieldCondition(key=path, range=models.Range(gte=value, lte=value))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


class QueryModel(Protocol):
    """Turns a search query into vectors; see `worker.embedding.pool.ModelPool`."""

    info: ModelInfo

    async def embed_query(self, text: str) -> QueryVectors: ...


async def search(
    qdrant: Qdrant, names: CollectionNames, model: QueryModel, query: SearchQuery
) -> list[SearchHit]:
    """Return the chunks that match ``query`` best, best first.

    Raises CollectionMismatch if the collection was built with another model, and InvalidQuery for a
    sparse search in a collection without sparse vectors.
    """
    made_with = await check_searchable(qdrant, names, model.info)
    if query.mode is Mode.SPARSE and not made_with.sparse:
        raise InvalidQuery(
            f"the collection {names.alias!r} has no sparse vectors: it was built with "
            "INGESTQ_HYBRID=false, so only a dense search is possible"
        )
    dense, sparse = await model.embed_query(query.text)
    return await QdrantStore(qdrant, names.chunks, made_with.vector_name).search(
        None if query.mode is Mode.SPARSE else dense,
        query.limit,
        sparse=sparse if made_with.sparse and query.mode is not Mode.DENSE else None,
        only=to_filter(query.where),
    )
