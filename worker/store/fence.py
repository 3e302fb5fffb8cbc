"""Who may overwrite whom in Qdrant: conditions that the server checks in the step that writes.

Every point carries the fence of who wrote it. Qdrant has conditional updates from 1.16 on; see
https://qdrant.tech/documentation/concepts/points/#conditional-updates
"""

from qdrant_client import models

from worker.pipeline.points import Fence


def is_exactly(fence: Fence) -> models.Filter:
    """Match points that were written under this very fence."""
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
    """Match points that were written under this fence, or an earlier one."""
    return models.Filter(should=[is_exactly(fence), is_older(fence)])


def is_equal(field: str, value: str | int) -> models.FieldCondition:
    """Match points whose ``field`` is ``value``."""
    return models.FieldCondition(key=field, match=models.MatchValue(value=value))


def has_none() -> models.Filter:
    """Match points that have no fence: no worker wrote them."""
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
