"""Data directories of earlier versions, whose index is in the local mode of the Qdrant client."""

import shutil
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from qdrant_client import AsyncQdrantClient, models

from tests.bundled import bundled_qdrant

PAGE = 1000
Content = dict[str, dict[str, Any]]
"""What an index holds: of each collection its configuration and points, and the aliases."""


@asynccontextmanager
async def local_mode(folder: Path) -> AsyncIterator[AsyncQdrantClient]:
    """The index in ``folder``, as earlier versions open it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        client = AsyncQdrantClient(path=str(folder))
        try:
            yield client
        finally:
            await client.close()


async def make_local_mode(data_dir: Path) -> None:
    """Turn the index of ``data_dir`` into one that an earlier version has written."""
    old = data_dir / "old"
    async with bundled_qdrant(data_dir) as qdrant, local_mode(old) as local:

        async def copy(client: AsyncQdrantClient) -> None:
            for collection in (await client.get_collections()).collections:
                await _copy_collection(client, local, collection.name)
            for alias in (await client.get_aliases()).aliases:
                await point_alias(local, alias.alias_name, alias.collection_name)

        await qdrant.ask(copy)
    shutil.rmtree(data_dir / "qdrant")
    old.rename(data_dir / "qdrant")


async def point_alias(client: AsyncQdrantClient, alias: str, collection: str) -> None:
    create = models.CreateAlias(collection_name=collection, alias_name=alias)
    operation = models.CreateAliasOperation(create_alias=create)
    await client.update_collection_aliases([operation])


async def _copy_collection(source: AsyncQdrantClient, target: AsyncQdrantClient, name: str) -> None:
    config = (await source.get_collection(name)).config
    await target.create_collection(
        name,
        vectors_config=config.params.vectors or {},
        sparse_vectors_config=config.params.sparse_vectors,
        metadata=config.metadata,
    )
    points = await points_of(source, name)
    if points:
        await target.upsert(
            name,
            [
                models.PointStruct.model_validate(
                    {"id": point.id, "vector": point.vector or {}, "payload": point.payload}
                )
                for point in points
            ],
        )


async def points_of(client: AsyncQdrantClient, name: str) -> list[models.Record]:
    """Return all points of a collection with everything that they have."""
    points, offset = await client.scroll(name, limit=PAGE, with_payload=True, with_vectors=True)
    assert offset is None, "more than a page"
    return points


async def content_of(client: AsyncQdrantClient) -> Content:
    """Return all that an index holds."""
    content: Content = {"aliases": {}}
    for alias in (await client.get_aliases()).aliases:
        content["aliases"][alias.alias_name] = alias.collection_name
    for collection in (await client.get_collections()).collections:
        name = collection.name
        config = (await client.get_collection(name)).config
        points = {
            str(point.id): (point.payload, point.model_dump()["vector"] or {})
            for point in await points_of(client, name)
        }
        content[name] = {"metadata": config.metadata, "points": points}
    return content
