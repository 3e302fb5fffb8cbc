"""Reads whatever meets a condition out of Qdrant, page by page."""

from collections.abc import AsyncIterator
from functools import partial

from qdrant_client import AsyncQdrantClient, models

from worker.qdrant import Qdrant

Fields = bool | list[str]
"""Which fields of the payload to read."""


async def pages(
    qdrant: Qdrant, name: str, only: models.Filter | None, fields: Fields, size: int
) -> AsyncIterator[list[models.Record]]:
    """The points of the collection ``name`` that ``only`` lets through, ``size`` at a time."""
    offset: models.ExtendedPointId | None = None
    while True:
        records, offset = await qdrant.ask(partial(_page, name, only, fields, size, offset))
        yield records
        if offset is None:
            return


async def _page(
    name: str,
    only: models.Filter | None,
    fields: Fields,
    size: int,
    offset: models.ExtendedPointId | None,
    client: AsyncQdrantClient,
) -> tuple[list[models.Record], models.ExtendedPointId | None]:
    return await client.scroll(
        name, scroll_filter=only, limit=size, offset=offset, with_payload=fields
    )
