"""Conditions of a search, as Qdrant understands them."""

from collections.abc import Iterator
from typing import Final

import msgspec
from qdrant_client import models

from broker.question import MetadataIs, Where
from worker.fence import is_equal

EXACT_FLOATS: Final = 2**53
"""Below this a float is one whole number only; Qdrant compares ranges as floats."""
INTEGERS: Final = range(-(2**63), 2**63)
"""Those that Qdrant knows."""


def meets(where: Where) -> models.Filter | None:
    """The point meets every condition; None if there is none."""
    conditions: list[models.Condition] = [_metadata_is(wanted) for wanted in where.metadata]
    for field in ("source", "tenant"):
        value = getattr(where, field)
        if value is not None:
            conditions.append(is_equal(field, value))
    return models.Filter(must=conditions) if conditions else None


def _metadata_is(wanted: MetadataIs) -> models.Filter:
    """Whatever a value is written as, JSON knows text, numbers and booleans."""
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
