"""The room of deleted points is given back while requests go on, and nothing is lost."""

import asyncio
import random
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from ingestq.embedded.qdrant import collections, compaction, queries, updates
from ingestq.embedded.qdrant.collections import OpenCollections
from ingestq.embedded.qdrant.files import slots
from ingestq.embedded.qdrant.schema import CreateCollection, FieldIndex
from tests.waiting import eventually

POINTS: Final = 2000
KEPT: Final = 300
CREATED: Final = {
    "vectors": {"size": 8, "distance": "Cosine"},
    "sparse_vectors": {"bm25": {"modifier": "idf"}},
}


def upsert(ids: list[int], version: int, *, has_vectors: bool = True) -> updates.Upsert:
    points = [
        {
            "id": id_,
            "vector": {
                "": [1.0, id_, version, 0, 0, 0, 0, 0],
                "bm25": {"indices": [id_], "values": [1.0]},
            }
            if has_vectors
            else {},
            "payload": {"version": version, "even": id_ % 2 == 0},
        }
        for id_ in ids
    ]
    return msgspec.json.decode(msgspec.json.encode({"points": points}), type=updates.Upsert)


async def contents(opened: OpenCollections) -> dict[int, Any]:
    wanted = queries.ScrollRequest(limit=10 * POINTS, with_vector=True)
    read = await opened.read("notes", queries.scroll, wanted)
    page = msgspec.json.decode(msgspec.json.encode(read))
    assert page["next_page_offset"] is None
    return {point["id"]: point for point in page["points"]}


@pytest.mark.parametrize("vectors", [CREATED, {}], ids=["chunks", "ledger"])
async def test_a_shard_is_compacted_while_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vectors: dict[str, Any]
) -> None:
    monkeypatch.setattr(compaction, "LEAST_WASTED", KEPT)
    monkeypatch.setattr(collections, "COMPACTION_SECONDS", 0.05)
    rng = random.Random(4)
    opened = await OpenCollections.open(tmp_path)
    await opened.create("notes", msgspec.convert(vectors, CreateCollection))
    await opened.create_index("notes", FieldIndex("version", "integer"))

    async def write(ids: list[int], version: int) -> None:
        update = upsert(ids, version, has_vectors=bool(vectors))
        await opened.write("notes", update, is_durable=True)

    await write(list(range(POINTS)), 0)
    old = tmp_path / "shards" / "0"
    goners: list[int | str] = list(range(KEPT, POINTS))
    await opened.write("notes", updates.Delete(points=goners), is_durable=True)

    async def is_flushed() -> bool:
        return slots(old) == POINTS

    await eventually(is_flushed)
    version = 0
    while old.exists():
        version += 1
        await write([rng.randrange(2 * KEPT) for _ in range(5)], version)
        gone: list[int | str] = [rng.randrange(2 * KEPT)]
        await opened.write("notes", updates.Delete(points=gone), is_durable=True)
    [new] = (tmp_path / "shards").iterdir()
    assert slots(new) <= 2 * KEPT
    before = await contents(opened)
    assert max(point["payload"]["version"] for point in before.values()) == version
    assert list((await opened.describe("notes"))["payload_schema"]) == ["version"]
    even = msgspec.convert(
        {"filter": {"must": [{"key": "even", "match": {"value": True}}]}}, queries.CountRequest
    )
    counted = await opened.read("notes", queries.count, even)
    assert counted["count"] == sum(id_ % 2 == 0 for id_ in before)
    await opened.close()
    reopened = await OpenCollections.open(tmp_path)
    assert await contents(reopened) == before
    await reopened.close()


async def test_a_collection_is_deleted_while_it_is_compacted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "LEAST_WASTED", KEPT)
    monkeypatch.setattr(collections, "COMPACTION_SECONDS", 0.05)
    opened = await OpenCollections.open(tmp_path)
    await opened.create("notes", msgspec.convert(CREATED, CreateCollection))
    await opened.write("notes", upsert(list(range(POINTS)), 0), is_durable=True)
    goners: list[int | str] = list(range(KEPT, POINTS))
    await opened.write("notes", updates.Delete(points=goners), is_durable=True)

    async def has_begun() -> bool:
        return (tmp_path / "shards" / "1").exists()

    await eventually(has_begun)
    await opened.delete("notes")
    await opened.create("notes", msgspec.convert(CREATED, CreateCollection))
    await asyncio.sleep(0)
    assert await contents(opened) == {}
    await opened.close()
    reopened = await OpenCollections.open(tmp_path)
    assert await contents(reopened) == {}
    await reopened.close()
