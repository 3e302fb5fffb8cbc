"""Fences in Qdrant: conditions that keep an old write from overwriting a newer one.

Every point carries the fence it was written under, and the server checks a condition and writes in
one step. Qdrant has such conditional updates since 1.16; see
https://qdrant.tech/documentation/concepts/points/#conditional-updates
"""

from qdrant_client import models

from worker.pipeline.points import Fence


def is_exactly(fence: Fence) -> models.Filter:
    """Match points that were written under this fence."""
    return models.Filter(
        must=[is_equal("version", fence.version), is_equal("attempt", fence.attempt)]
    )


def is_older(fence: Fence) -> models.Filter:
    """Match points that were written under an earlier fence."""
    return models.Filter(
        should=[
            models.FieldCondition(key="version", range=models.Range(lt=fence.version)),
            models.Filter(
                must=[
                    is_equal("version", fence.version),
                    models.FieldCondition(key="attempt", range=models.Range(lt=fence.attempt)),
                ]
            ),
        ]
    )


def is_not_newer(fence: Fence) -> models.Filter:
    """Match points that were written under this fence or an earlier one."""
    return models.Filter(should=[is_exactly(fence), is_older(fence)])


def is_equal(field: str, value: str | int) -> models.FieldCondition:
    """Match points whose ``field`` is ``value``."""
    return models.FieldCondition(key=field, match=models.MatchValue(value=value))


def has_none() -> models.Filter:
    """Match points without a fence: no worker wrote them."""
    return models.Filter(
        must_not=[
            models.Filter(
                must=[
                    models.FieldCondition(key="version", range=models.Range(gte=0)),
                    models.FieldCondition(key="attempt", range=models.Range(gte=0)),
                ]
            )
        ]
    )
