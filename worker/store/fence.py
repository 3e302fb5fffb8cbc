"""Fences in Qdrant: conditions that keep an old write from overwriting a newer one.

Every point carries the fence it was written under, and the server checks a condition and writes in
one step. Qdrant has such conditional updates since 1.16; see
https://qdrant.tech/documentation/concepts/points/#conditional-updates
"""

from collections.abc import Iterable
from typing import Final

from qdrant_client import models

from worker.pipeline.points import Fence

FENCE_FIELDS: Final = Fence._fields
"""The fields of a point that hold its fence."""


def is_exactly(fence: Fence) -> models.Filter:
    """Match points that were written under this fence."""
    return models.Filter(must=[is_equal(field, value) for field, value in fence._asdict().items()])


def is_not_newer(fence: Fence) -> models.Filter:
    """Match points that were written under this fence or an earlier one."""
    in_epoch = is_equal("epoch", fence.epoch)
    is_older = models.FieldCondition(key="version", range=models.Range(lt=fence.version))
    is_version = is_equal("version", fence.version)
    is_no_later_attempt = models.FieldCondition(
        key="attempt", range=models.Range(lte=fence.attempt)
    )
    return models.Filter(
        should=[
            models.FieldCondition(key="epoch", range=models.Range(lt=fence.epoch)),
            models.Filter(must=[in_epoch, is_older]),
            models.Filter(must=[in_epoch, is_version, is_no_later_attempt]),
        ]
    )


def is_equal(field: str, value: str | int) -> models.FieldCondition:
    """Match points whose ``field`` is ``value``."""
    return models.FieldCondition(key=field, match=models.MatchValue(value=value))


def is_one_of(field: str, values: Iterable[str]) -> models.FieldCondition:
    """Match points whose ``field`` is one of ``values``."""
    return models.FieldCondition(key=field, match=models.MatchAny(any=list(values)))


def has_none() -> models.Filter:
    """Match points without a fence: no worker wrote them."""
    return models.Filter(
        must_not=[
            models.Filter(
                must=[
                    models.FieldCondition(key=field, range=models.Range(gte=0))
                    for field in FENCE_FIELDS
                ]
            )
        ]
    )
