"""Points and conditions for the tests, and what they read."""

from collections.abc import Mapping
from typing import Any, Final

from qdrant_client import AsyncQdrantClient, models

VECTOR: Final = models.VectorParams(size=4, distance=models.Distance.DOT)
ONES: Final = [1.0, 1.0, 1.0, 1.0]
SPARSE: Final = {"bm25": models.SparseVectorParams(modifier=models.Modifier.IDF)}
KEYWORD: Final = models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD)
INTEGER: Final = models.IntegerIndexParams(
    type=models.IntegerIndexType.INTEGER, lookup=True, range=True
)
BOOL: Final = models.BoolIndexParams(type=models.BoolIndexType.BOOL)
ALL: Final = 10_000
"""More points than any test writes."""

Id = models.ExtendedPointId
IndexParams = (
    models.KeywordIndexParams
    | models.IntegerIndexParams
    | models.BoolIndexParams
    | models.DatetimeIndexParams
)
Payload = Mapping[str, Any]


def point(
    id_: Id, payload: Payload | None = None, vector: models.VectorStruct | None = None
) -> models.PointStruct:
    """Return a point, by default with the vector `ONES`."""
    return models.PointStruct(
        id=id_, vector=ONES if vector is None else vector, payload=dict(payload or {})
    )


def must(*conditions: models.Condition) -> models.Filter:
    return models.Filter(must=list(conditions))


def must_not(*conditions: models.Condition) -> models.Filter:
    return models.Filter(must_not=list(conditions))


def should(*conditions: models.Condition) -> models.Filter:
    return models.Filter(should=list(conditions))


def equals(key: str, value: bool | int | str) -> models.FieldCondition:
    return models.FieldCondition(key=key, match=models.MatchValue(value=value))


def one_of(key: str, values: list[str] | list[int]) -> models.FieldCondition:
    return models.FieldCondition(key=key, match=models.MatchAny(any=values))


def none_of(key: str, values: list[str] | list[int]) -> models.FieldCondition:
    excluded = models.MatchExcept.model_validate({"except": values})
    return models.FieldCondition(key=key, match=excluded)


def within(key: str, **bounds: float) -> models.FieldCondition:
    return models.FieldCondition(key=key, range=models.Range(**bounds))


def has_id(*ids: Id) -> models.HasIdCondition:
    return models.HasIdCondition(has_id=list(ids))


def is_empty(key: str) -> models.IsEmptyCondition:
    return models.IsEmptyCondition(is_empty=models.PayloadField(key=key))


def is_null(key: str) -> models.IsNullCondition:
    return models.IsNullCondition(is_null=models.PayloadField(key=key))


async def write(client: AsyncQdrantClient, name: str, *points: models.PointStruct) -> None:
    """Upsert ``points``, and check that they are applied."""
    written = await client.upsert(name, list(points), wait=True)
    assert written.status is models.UpdateStatus.COMPLETED


async def payloads(
    client: AsyncQdrantClient, name: str, only: models.Filter | None = None
) -> dict[Id, dict[str, Any]]:
    """Return the payloads, by id, of all points that match ``only``."""
    records, following = await client.scroll(name, only, limit=ALL)
    assert following is None
    return {record.id: record.payload or {} for record in records}


async def ids(client: AsyncQdrantClient, name: str, only: models.Filter | None = None) -> set[Id]:
    """Return the ids of all points that match ``only``."""
    return set(await payloads(client, name, only))
