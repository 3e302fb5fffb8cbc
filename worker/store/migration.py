"""Copies an index that the Qdrant client's local mode wrote to the bundled Qdrant.

``python -m worker.store.migration FOLDER SOCKET`` prints its progress as lines of JSON (see
`ingestq.app.migration`), and ends when its standard input does. Each point is read back and
compared.
"""

import asyncio
import json
import math
import os
import sqlite3
import sys
import threading
import warnings
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

from qdrant_client import AsyncQdrantClient, models

from ingestq.core.errors import (
    IngestqError,
    ServiceUnavailable,
    StoreUnavailable,
    UsageError,
    in_one_line,
)
from worker.store.client import PatientQdrant, Qdrant, QdrantConfig, applied, connect_qdrant
from worker.store.collection import create_payload_indexes

PAGE_POINTS: Final = 128
"""Points in one request: some megabytes, of the 32 that a request may have."""
TOLERANCE: Final = 1e-4
"""How much a number in a vector may differ: Qdrant keeps 32 bits of it."""


class _Progress:
    """Prints how many of all points are copied."""

    def __init__(self, of: int) -> None:
        self.points = 0
        self._of = of

    def add(self, points: int) -> None:
        self.points += points
        _say(points=self.points, of=self._of)


def _say(**said: Any) -> None:
    sys.stdout.write(json.dumps(said) + "\n")
    sys.stdout.flush()


@asynccontextmanager
async def _local_mode(folder: Path) -> AsyncIterator[AsyncQdrantClient]:
    """Open the index in ``folder``. Raises UsageError if it is damaged."""
    try:
        _check_files(folder)
        client = AsyncQdrantClient(path=str(folder))
    except RuntimeError as error:  # it is locked
        raise StoreUnavailable(
            f"an ingestq process of an earlier version uses {folder}; stop it, and start this "
            "command again"
        ) from error
    except (OSError, sqlite3.OperationalError) as error:
        raise UsageError(f"{folder} cannot be opened: {error}") from error
    except Exception as error:  # of JSON, sqlite, pickle, or of whatever the bytes mean by now
        raise UsageError(
            f"the index of an earlier version in {folder} is damaged ({in_one_line(error)}). "
            "Nothing was changed: move that directory away and index the sources again"
        ) from error
    try:
        yield client
    finally:
        await client.close()


def _check_files(folder: Path) -> None:
    """Raise ValueError if a collection has no file: local mode would create it, empty."""
    stored = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    for name in stored["collections"]:
        file = folder / "collection" / name / "storage.sqlite"
        if not file.is_file():
            raise ValueError(f"{file} is missing")


async def copy_index(local: AsyncQdrantClient, qdrant: Qdrant) -> int:
    """Copy all collections and aliases of ``local`` to ``qdrant``, which is empty; compare them.

    Returns how many points there are. Raises UsageError if one is not stored as it was, and what
    ``qdrant`` raises.
    """
    collections = [each.name for each in (await local.get_collections()).collections]
    counts = {name: (await local.count(name)).count for name in collections}
    progress = _Progress(sum(counts.values()))
    for name, count in counts.items():
        await _copy_collection(local, qdrant, name, progress)
        stored = (await qdrant.ask(partial(_count, name))).count
        _require(stored == count, f"{name} has {stored:,} points and had {count:,}")
    aliases = (await local.get_aliases()).aliases
    if aliases:
        await qdrant.ask(partial(_create_aliases, aliases))
    return progress.points


async def _copy_collection(
    local: AsyncQdrantClient, qdrant: Qdrant, name: str, progress: _Progress
) -> None:
    config = (await local.get_collection(name)).config
    await qdrant.ask(partial(_create, name, config))
    await qdrant.ask(partial(create_payload_indexes, name))
    offset: models.ExtendedPointId | None = None
    while True:
        page, offset = await local.scroll(
            name, limit=PAGE_POINTS, offset=offset, with_payload=True, with_vectors=True
        )
        if page:
            await qdrant.ask(applied(partial(_upsert, name, page)))
            stored = await qdrant.ask(partial(_retrieve, name, [point.id for point in page]))
            _compare(name, page, stored)
            progress.add(len(page))
        if offset is None:
            return


async def _create(name: str, config: models.CollectionConfig, client: AsyncQdrantClient) -> bool:
    params = config.params
    return await client.create_collection(
        name,
        vectors_config=params.vectors or {},
        sparse_vectors_config=params.sparse_vectors,
        on_disk_payload=params.on_disk_payload,
        metadata=config.metadata,
    )


async def _upsert(
    name: str, page: Sequence[models.Record], client: AsyncQdrantClient
) -> models.UpdateResult:
    points = [
        models.PointStruct(id=point.id, vector=_as_sent(point), payload=point.payload)
        for point in page
    ]
    return await client.upsert(name, points, wait=True)


async def _retrieve(
    name: str, ids: Sequence[models.ExtendedPointId], client: AsyncQdrantClient
) -> list[models.Record]:
    return await client.retrieve(name, ids, with_payload=True, with_vectors=True)


async def _count(name: str, client: AsyncQdrantClient) -> models.CountResult:
    return await client.count(name, exact=True)


async def _create_aliases(
    aliases: Sequence[models.AliasDescription], client: AsyncQdrantClient
) -> bool:
    return await client.update_collection_aliases(
        [
            models.CreateAliasOperation(
                create_alias=models.CreateAlias(
                    collection_name=each.collection_name, alias_name=each.alias_name
                )
            )
            for each in aliases
        ]
    )


def _as_sent(point: models.Record) -> models.VectorStruct:
    """Return the vectors of a point that was read, for one that is written."""
    vector = point.vector or {}
    return vector if isinstance(vector, list) else dict(vector)


def _compare(name: str, page: Sequence[models.Record], stored: Sequence[models.Record]) -> None:
    found = {str(point.id): point for point in stored}
    for point in page:
        copy = found.get(str(point.id))
        same = (
            copy is not None
            and (copy.payload or {}) == (point.payload or {})
            and _is_close(_vectors(copy), _vectors(point))
        )
        _require(same, f"the point {point.id} of {name} is not as it was")


def _vectors(point: models.Record) -> dict[str, dict[int, float]]:
    """Return the numbers of each vector by their place.

    Dense ones have the length 1: Qdrant stores them so, and local mode as they were sent.
    """
    vector = point.vector or {}
    named: Mapping[str, Any] = vector if isinstance(vector, dict) else {"": vector}
    return {
        name: dict(
            zip(values.indices, values.values, strict=True)
            if isinstance(values, models.SparseVector)
            else enumerate(_unit(values))
        )
        for name, values in named.items()
    }


def _unit(vector: Sequence[float]) -> Sequence[float]:
    length = math.hypot(*vector)
    return [value / length for value in vector] if length else vector


def _is_close(one: dict[str, dict[int, float]], other: dict[str, dict[int, float]]) -> bool:
    return one.keys() == other.keys() and all(
        one[name].keys() == other[name].keys()
        and all(
            math.isclose(value, other[name][place], rel_tol=TOLERANCE, abs_tol=TOLERANCE)
            for place, value in one[name].items()
        )
        for name in one
    )


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise UsageError(
            f"the index of an earlier version cannot be migrated: {otherwise}. Nothing was "
            "changed: move that directory away and index the sources again"
        )


async def _main(folder: Path, socket: Path) -> None:
    try:
        async with (
            _local_mode(folder) as local,
            connect_qdrant(QdrantConfig(None, None, socket)) as qdrant,
        ):
            points = await copy_index(local, PatientQdrant(qdrant))
            collections = len((await local.get_collections()).collections)
    except IngestqError as error:
        _say(error=str(error), is_temporary=isinstance(error, ServiceUnavailable))
    else:
        _say(points=points, of=points, collections=collections, is_done=True)


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # of local mode, about what it is not good at
    threading.Thread(target=_end_with_parent, daemon=True).start()
    asyncio.run(_main(Path(sys.argv[1]), Path(sys.argv[2])))
