"""Answers a search query."""

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
"""Below this a float is one whole number only; Qdrant compares ranges as floats."""
INTEGERS: Final = range(-(2**63), 2**63)
"""Those that Qdrant knows."""


def meets(where: SearchFilter) -> models.Filter | None:
    """Match points that meet every condition; None if there is none."""
    conditions: list[models.Condition] = [_metadata_is(wanted) for wanted in where.metadata]
    for field in ("source", "tenant"):
        value = getattr(where, field)
        if value is not None:
            conditions.append(is_equal(field, value))
    return models.Filter(must=conditions) if conditions else None


def _metadata_is(wanted: MetadataCondition) -> models.Filter:
    """Match a metadata value as text and, if it can be read so, as a number or boolean."""
    # Quoted, as keys may hold what is no plain path; with a dot, either may be meant.
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
    """A question in, vectors out; see `worker.embedding.pool.ModelPool`."""

    info: ModelInfo

    async def embed_query(self, text: str) -> QueryVectors: ...


async def search(
    qdrant: Qdrant, names: CollectionNames, model: QueryModel, question: SearchQuery
) -> list[SearchHit]:
    """Search for the chunks that answer ``question``, best first.

    Raises CollectionMismatch if the collection was made with another model, and WrongQuestion
    if it has no sparse vectors and nothing else may be searched.
    """
    made_with = await check_searchable(qdrant, names, model.info)
    if question.mode is Mode.SPARSE and not made_with.sparse:
        raise InvalidQuery(
            f"the collection {names.alias!r} has no sparse vectors: it was made with "
            "INGESTQ_HYBRID=false, so it can only be searched by meaning (dense)"
        )
    dense, sparse = await model.embed_query(question.text)
    return await QdrantStore(qdrant, names.chunks, made_with.vector_name).search(
        None if question.mode is Mode.SPARSE else dense,
        question.limit,
        sparse=sparse if made_with.sparse and question.mode is not Mode.DENSE else None,
        only=meets(question.where),
    )
