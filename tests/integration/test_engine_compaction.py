"""The room of deleted points is given back while requests go on, and nothing is lost."""

import asyncio
import errno
import os
import random
import shutil
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from ingestq.embedded.qdrant import collections, compaction, queries, updates
from ingestq.embedded.qdrant.catalog import write_catalog
from ingestq.embedded.qdrant.collections import OpenCollections
from ingestq.embedded.qdrant.files import LogFiles, slots
from ingestq.embedded.qdrant.schema import CreateCollection, FieldIndex
from tests import waiting
from tests.waiting import eventually

POINTS: Final = 2000
KEPT: Final = 300
CREATED: Final = {
    "vectors": {"size": 8, "distance": "Cosine"},
    "sparse_vectors": {"bm25": {"modifier": "idf"}},
}

HELD: Final = {
    "the copy of a page": (compaction.Copy, "step"),
    "the swap": (collections, "write_catalog"),
    "the removal of the old shard": (shutil, "rmtree"),
}
"""What a compaction does in threads, by its owner and name."""


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


async def contents_after_a_restart(folder: Path) -> dict[int, Any]:
    opened = await OpenCollections.open(folder)
    try:
        return await contents(opened)
    finally:
        await opened.close()


async def shards(folder: Path) -> list[str]:
    """Return the names of the folders that the shards have."""
    return await asyncio.to_thread(lambda: sorted(os.listdir(folder / "shards")))


async def full(folder: Path, monkeypatch: pytest.MonkeyPatch) -> OpenCollections:
    """Return open collections whose only one, "notes", is compacted after `delete_most`."""
    monkeypatch.setattr(compaction, "LEAST_WASTED", KEPT)
    monkeypatch.setattr(collections, "COMPACTION_SECONDS", 0.05)
    opened = await OpenCollections.open(folder)
    await opened.create("notes", msgspec.convert(CREATED, CreateCollection))
    await opened.write("notes", upsert(list(range(POINTS)), 0), is_durable=True)
    return opened


async def delete_most(opened: OpenCollections) -> None:
    goners: list[int | str] = list(range(KEPT, POINTS))
    await opened.write("notes", updates.Delete(points=goners), is_durable=True)


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
    await delete_most(opened)

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
    assert await contents_after_a_restart(tmp_path) == before


async def test_a_collection_is_deleted_while_it_is_compacted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = await full(tmp_path, monkeypatch)
    await delete_most(opened)

    async def has_begun() -> bool:
        return (tmp_path / "shards" / "1").exists()

    await eventually(has_begun)
    await opened.delete("notes")
    await opened.create("notes", msgspec.convert(CREATED, CreateCollection))
    await asyncio.sleep(0)
    assert await contents(opened) == {}
    await opened.close()
    assert await contents_after_a_restart(tmp_path) == {}


@pytest.mark.parametrize("held", HELD)
async def test_a_server_that_ends_during_a_compaction_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: str
) -> None:
    has_begun, has_ended = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def slow(call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **kwargs: Any) -> Any:
            loop.call_soon_threadsafe(has_begun.set)
            time.sleep(0.5)  # a server that does not wait for this is further by then
            try:
                return call(*args, **kwargs)
            finally:
                has_ended.set()

        return called

    owner: Any
    owner, name = HELD[held]
    opened = await full(tmp_path, monkeypatch)
    with monkeypatch.context() as patched:
        patched.setattr(owner, name, slow(getattr(owner, name)))
        await delete_most(opened)
        left = await contents(opened)
        await has_begun.wait()
        await opened.close()
        assert has_ended.is_set()
    assert await contents_after_a_restart(tmp_path) == left
    assert len(await shards(tmp_path)) == 1


async def test_a_copy_that_the_catalog_names_stays_although_the_disk_fails_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = await full(tmp_path, monkeypatch)
    sync = LogFiles.sync
    has_failed = threading.Event()

    def failing(*args: Any) -> None:
        monkeypatch.setattr(LogFiles, "sync", sync)
        has_failed.set()
        raise OSError(errno.EIO, "the disk fails")

    def naming(*args: Any) -> None:
        write_catalog(*args)
        monkeypatch.setattr(LogFiles, "sync", failing)

    monkeypatch.setattr(collections, "write_catalog", naming)
    await delete_most(opened)
    assert await asyncio.to_thread(has_failed.wait, waiting.SECONDS)
    await opened.write("notes", upsert([0], 1), is_durable=True)
    after = await contents(opened)
    assert after.keys() == set(range(KEPT))
    assert after[0]["payload"]["version"] == 1
    await opened.close()
    assert await contents_after_a_restart(tmp_path) == after
    assert len(await shards(tmp_path)) == 1


async def test_a_shard_is_compacted_when_its_points_were_updated_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its payload indexes keep old values in memory until then."""
    monkeypatch.setattr(compaction, "LEAST_UPDATES", POINTS)
    opened = await full(tmp_path, monkeypatch)
    await opened.write("notes", upsert(list(range(POINTS)), 1), is_durable=True)
    assert (tmp_path / "shards" / "0").exists()
    await opened.write("notes", upsert([0], 2), is_durable=True)
    await eventually(partial(shards, tmp_path), lambda numbers: numbers == ["1"])
    await opened.write("notes", upsert([1], 3), is_durable=True)
    versions = {id_: point["payload"]["version"] for id_, point in (await contents(opened)).items()}
    assert versions == {0: 2, 1: 3} | dict.fromkeys(range(2, POINTS), 1)
    await opened.close()
    assert await shards(tmp_path) == ["1"]


@pytest.mark.parametrize("seconds", [collections.CLOSE_SECONDS, 0.0])
async def test_an_index_of_short_commands_is_compacted_unless_that_takes_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    monkeypatch.setattr(collections, "CLOSE_SECONDS", seconds)
    opened = await full(tmp_path, monkeypatch)
    monkeypatch.setattr(compaction, "LEAST_WASTED", POINTS)
    await delete_most(opened)
    left = await contents(opened)
    await opened.close()
    monkeypatch.setattr(compaction, "LEAST_WASTED", KEPT)
    monkeypatch.setattr(collections, "COMPACTION_SECONDS", waiting.SECONDS)
    opened = await OpenCollections.open(tmp_path)
    if not seconds:
        monkeypatch.setattr(compaction.Copy, "seconds_left", lambda _: 0.1)
    await eventually(partial(shards, tmp_path), lambda numbers: numbers != ["0"])
    await opened.close()
    assert await shards(tmp_path) == ["1" if seconds else "0"]
    assert await contents_after_a_restart(tmp_path) == left
