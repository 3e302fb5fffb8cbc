"""Points: read from requests and checked, made for the engine, and shown in answers."""

from collections.abc import Sequence
from typing import Annotated, Any, Final

import qdrant_edge as edge
from msgspec import Meta, Raw, Struct
from msgspec.json import encode

from ingestq.embedded.qdrant.errors import (
    invalid,
    malformed,
    unknown_vector,
    wrong_input,
)
from ingestq.embedded.qdrant.filters import PointId, check_ids
from ingestq.embedded.qdrant.schema import HIDDEN_VECTOR, CollectionConfig

DEEPEST_PAYLOAD: Final = 110
"""The engine accepts deeper payloads, but cannot read its log back: from 126 levels on it would
never open the shard again."""
MIXED: Final = "Wrong usage of sparse vectors"

Index = Annotated[int, Meta(ge=0, le=2**32 - 1)]
Payload = dict[str, Any]


class SparseValues(Struct, frozen=True, gc=False):
    """The numbers of a vector that are not 0."""

    indices: list[Index]
    values: list[float]


NamedVectors = dict[str, list[float] | SparseValues]


class PointStruct(Struct, frozen=True, gc=False):
    """A point of an upsert. A list is the vector without a name."""

    id: PointId
    vector: list[float] | NamedVectors
    payload: Payload | None = None


class PointVectors(Struct, frozen=True, gc=False):
    """The new vectors of a point that exists."""

    id: PointId
    vector: list[float] | NamedVectors


class PayloadSelector(Struct, frozen=True):
    """Which fields of the payload to answer with."""

    include: list[str] | None = None
    exclude: list[str] | None = None


WithPayload = bool | list[str] | PayloadSelector | None
WithVector = bool | list[str] | None


def check_form(points: Sequence[PointStruct | PointVectors]) -> None:
    """Raise Refused for points that no collection can store."""
    check_ids(point.id for point in points)
    for number, point in enumerate(points):
        if isinstance(point.vector, dict):
            for vector in point.vector.values():
                check_vector_form(vector, f"points[{number}].vector")
        if isinstance(point, PointStruct) and point.payload is not None:
            check_payload(point.payload)


def check_vector_form(vector: list[float] | SparseValues, where: str) -> None:
    """Raise Refused for a sparse vector that is none."""
    if isinstance(vector, SparseValues):
        if len(vector.indices) != len(vector.values):
            raise invalid(f"{where}.indices: must be the same length as values")
        if len(set(vector.indices)) != len(vector.indices):
            raise invalid(f"{where}.indices: must be unique")


def check_fit(points: Sequence[PointStruct | PointVectors], config: CollectionConfig) -> None:
    """Raise Refused unless the collection can store the vectors of all ``points``.

    They are checked before any is written: what the engine has logged it applies again at the next
    start, and there are things at which it never starts again.
    """
    for point in points:
        vector = point.vector
        for name, values in vector.items() if isinstance(vector, dict) else (("", vector),):
            check_vector_fit(name, values, config)


def check_vector_fit(
    name: str, vector: list[float] | SparseValues, config: CollectionConfig
) -> None:
    """Raise Refused unless ``vector`` fits the one that the collection calls ``name``."""
    if isinstance(vector, SparseValues):
        if name not in config.sparse_vectors:
            raise wrong_input(MIXED) if name in config.vectors else unknown_vector(name)
        return
    params = config.vectors.get(name)
    if params is None:
        raise wrong_input(MIXED) if name in config.sparse_vectors else unknown_vector(name)
    if len(vector) != params.size:
        text = f"expected dim: {params.size}, got {len(vector)}"
        raise wrong_input(f"Vector dimension error: {text}")


def check_payload(payload: Payload, key: str | None = None) -> None:
    """Raise Refused for a payload that is nested too deep, under ``key`` if it is given."""
    level: list[Any] = [payload]
    for _ in range(DEEPEST_PAYLOAD - (0 if key is None else key.count("."))):
        level = [
            value
            for outer in level
            for value in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(value, dict | list)
        ]
        if not level:
            return
    raise malformed("recursion limit exceeded")


def to_point(point: PointStruct) -> edge.Point:
    """Return a checked point for the engine."""
    return edge.Point(point.id, to_vectors(point.vector), point.payload)


def to_vectors(vector: list[float] | NamedVectors) -> Any:
    """Return checked vectors for the engine."""
    if isinstance(vector, list):
        return vector
    return {
        name: edge.SparseVector(values.indices, values.values)
        if isinstance(values, SparseValues)
        else values
        for name, values in vector.items()
    }


def with_payload(wanted: WithPayload, default: bool) -> Any:
    """Return the engine's choice of payload fields."""
    match wanted:
        case None:
            return default
        case PayloadSelector(include=list(fields), exclude=None):
            return edge.PayloadSelector.Include(fields)
        case PayloadSelector(include=None, exclude=list(fields)):
            return edge.PayloadSelector.Exclude(fields)
        case PayloadSelector():
            raise malformed("data did not match any variant of untagged enum WithPayloadInterface")
        case _:
            return wanted


def with_vector(wanted: WithVector, config: CollectionConfig) -> bool | list[str]:
    """Return the engine's choice of vectors; raises Refused for names that do not exist."""
    for name in wanted if isinstance(wanted, list) else ():
        if name not in config.vectors and name not in config.sparse_vectors:
            raise unknown_vector(name)
    return wanted or False


def shown_record(record: edge.Record) -> Raw:
    """Return a point as retrieve and scroll show it.

    Points are encoded one by one: encoding many at once would let no other thread run.
    """
    shown: dict[str, Any] = {"id": shown_id(record.id)}
    if (payload := record.payload) is not None:
        shown["payload"] = payload
    if (vector := record.vector) is not None:
        shown["vector"] = _shown_vectors(vector)
    if (value := record.order_value) is not None:
        shown["order_value"] = value
    return Raw(encode(shown))


def shown_hit(hit: edge.ScoredPoint, wanted: bool | list[str]) -> Raw:
    """Return a point as query shows it, with the ``wanted`` vectors.

    A query for different points also has those that it compared.
    """
    shown: dict[str, Any] = {"id": shown_id(hit.id), "version": hit.version, "score": hit.score}
    if (payload := hit.payload) is not None:
        shown["payload"] = payload
    if wanted and (vector := hit.vector) is not None:
        if isinstance(wanted, list):
            named = vector if isinstance(vector, dict) else {"": vector}
            vector = {name: named[name] for name in wanted if name in named}
        shown["vector"] = _shown_vectors(vector)
    if (value := hit.order_value) is not None:
        shown["order_value"] = value
    return Raw(encode(shown))


def shown_id(id_: Any) -> PointId:
    """Return the id of a point as Qdrant shows it."""
    return id_ if isinstance(id_, int) else str(id_)


def _shown_vectors(vectors: Any) -> Any:
    if not isinstance(vectors, dict):
        return vectors
    shown = {
        name: {"indices": vector.indices, "values": vector.values}
        if isinstance(vector, edge.SparseVector)
        else vector
        for name, vector in vectors.items()
        if name != HIDDEN_VECTOR
    }
    return shown[""] if shown.keys() == {""} else shown
