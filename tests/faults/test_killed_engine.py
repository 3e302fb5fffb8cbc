"""The bundled Qdrant is killed, or loses power, while it writes: what it has answered is there."""

import asyncio
import os
import random
import shutil
import subprocess
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
from qdrant_client import AsyncQdrantClient, models
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from ingestq.core import events
from tests.engine_process import (
    ALWAYS_COMPACTING,
    NEVER_FLUSHING,
    NEVER_WRITING,
    START_SECONDS,
    STOP_SECONDS,
    UNSURE_OF_NAMES,
    client_of,
    failing_engine,
    running_engine,
    short_folder,
    start_engine,
)
from tests.waiting import eventually

DIMENSIONS: Final = 16
VECTORS: Final = models.VectorParams(size=DIMENSIONS, distance=models.Distance.COSINE)
SPARSE: Final = {"bm25": models.SparseVectorParams(modifier=models.Modifier.IDF)}
KEYWORD: Final = models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD)
NUMBER: Final = models.IntegerIndexParams(
    type=models.IntegerIndexType.INTEGER, lookup=True, range=True
)
KILLS: Final = 3
WRITERS: Final = 4
PAGE: Final = 4096
MIXTURES: Final = 3
ENDS: Final = 20

Contents = dict[int, dict[str, Any]]


def point(id_: int, version: int) -> models.PointStruct:
    rng = random.Random(id_ * 1000 + version)
    words = models.SparseVector(indices=rng.sample(range(1000), 20), values=[1.5] * 20)
    vector = [rng.random() for _ in range(DIMENSIONS)]
    text = f"Note {id_} in version {version}. " * 20
    return models.PointStruct(
        id=id_, vector={"": vector, "bm25": words}, payload={"version": version, "text": text}
    )


def not_newer(version: int) -> models.Filter:
    bounds = models.Range(lte=version)
    return models.Filter(must=[models.FieldCondition(key="version", range=bounds)])


async def create(client: AsyncQdrantClient) -> None:
    await client.create_collection("notes", VECTORS, sparse_vectors_config=SPARSE)
    await client.create_payload_index("notes", "version", NUMBER, wait=True)


async def contents(client: AsyncQdrantClient) -> Contents:
    records, following = await client.scroll("notes", limit=100_000)
    assert following is None
    read = {int(record.id): record.payload or {} for record in records}
    assert (await client.count("notes")).count == len(read)
    versions = {payload["version"] for payload in read.values()}
    for version in versions:
        counted = await client.count("notes", not_newer(version))
        assert counted.count == sum(p["version"] <= version for p in read.values())
    return read


async def write_until_killed(client: AsyncQdrantClient, writer: int, answered: Contents) -> None:
    """Write, overwrite and delete points of the writer's own; note what was answered."""
    rng = random.Random(writer)
    while True:
        ids = [writer + WRITERS * rng.randrange(200) for _ in range(10)]
        versions = {id_: answered.get(id_, {"version": 0})["version"] + 1 for id_ in ids}
        points = [point(id_, version) for id_, version in versions.items()]
        goner = rng.choice(ids)
        operations: list[models.UpdateOperation] = [
            models.UpsertOperation(
                upsert=models.PointsList(
                    points=[one], update_filter=not_newer(versions[int(one.id)])
                )
            )
            for one in points
        ]
        operations.append(
            models.SetPayloadOperation(
                set_payload=models.SetPayload(payload={"mark": versions[goner]}, points=[goner])
            )
        )
        try:
            await client.batch_update_points("notes", operations, wait=True)
        except (ResponseHandlingException, UnexpectedResponse):
            return
        answered |= {int(one.id): one.payload or {} for one in points}
        answered[goner] = answered[goner] | {"mark": versions[goner]}


async def test_what_was_answered_survives_kills() -> None:
    answered: Contents = {}
    with short_folder() as folder:
        data, socket = folder / "qdrant", folder / "socket"
        async with running_engine(data, socket) as client:
            await create(client)
        for _ in range(KILLS):
            process = start_engine(data, socket)
            async with client_of(socket, process) as client:
                parts: list[Contents] = [
                    {id_: payload for id_, payload in answered.items() if id_ % WRITERS == writer}
                    for writer in range(WRITERS)
                ]
                writing = [
                    asyncio.create_task(write_until_killed(client, writer, parts[writer]))
                    for writer in range(WRITERS)
                ]
                enough = len(answered) + 100
                await eventually(partial(_has, parts, enough))
                process.kill()
                process.wait()
                await asyncio.gather(*writing)
            answered = {id_: payload for part in parts for id_, payload in part.items()}
            async with running_engine(data, socket) as client:
                found = await contents(client)
            assert found.keys() >= answered.keys()
            for id_, payload in answered.items():
                assert found[id_]["version"] >= payload["version"]
                if found[id_]["version"] == payload["version"] and "mark" in payload:
                    assert found[id_].get("mark", 0) >= payload["mark"]
            answered = found


@pytest.mark.slow
async def test_what_was_answered_survives_a_power_failure() -> None:
    """The log is on the disk, and of the pages of all other files any."""
    rng = random.Random(18)
    with short_folder() as folder:
        data, socket = folder / "qdrant", folder / "socket"
        async with running_engine(data, socket) as client:
            await create(client)
            await client.upsert("notes", [point(i, 1) for i in range(300)], wait=True)
        shutil.copytree(data, folder / "flushed")
        process = start_engine(data, socket, NEVER_FLUSHING)  # however long this takes
        async with client_of(socket, process) as client:
            for n in range(20):
                ids = [rng.randrange(500) for _ in range(10)]
                points = [point(id_, n) for id_ in set(ids)]
                await client.upsert("notes", points, wait=True, update_filter=not_newer(n))
                gone = models.HasIdCondition(has_id=[rng.randrange(500) for _ in range(3)])
                only = models.Filter(must=[gone, *_conditions(not_newer(n - 5))])
                await client.delete("notes", models.FilterSelector(filter=only), wait=True)
                await client.set_payload("notes", {"mark": n}, not_newer(n - 10), wait=True)
            expected = await contents(client)
            process.kill()
            process.wait()
        for mixture in range(MIXTURES):
            lost = folder / f"lost-{mixture}"
            shutil.copytree(data, lost)
            for path in lost.rglob("segments/**/*"):
                before = folder / "flushed" / path.relative_to(lost)
                if path.is_file() and before.is_file():
                    share = mixture / (MIXTURES - 1)  # none, half, and all pages are new
                    path.write_bytes(mixed(before.read_bytes(), path.read_bytes(), share, rng))
            async with running_engine(lost, socket) as client:
                assert await contents(client) == expected


async def replace_until_ended(
    client: AsyncQdrantClient, dice: random.Random, there: Contents
) -> tuple[Contents, set[int]]:
    """Write points in the place of others until the engine ends.

    Return what is there by its answers, and the points of the request without an answer.
    """
    while True:
        goners = dice.sample(sorted(there), min(len(there), 40))
        kept = {id_: payload for id_, payload in there.items() if id_ not in goners}
        ids = dice.sample(sorted(set(range(1000)) - kept.keys()), 60 - len(kept))
        points = [point(id_, dice.randrange(1000)) for id_ in ids]
        try:
            await client.delete("notes", models.PointIdsList(points=[*goners]), wait=True)
            await client.upsert("notes", points, wait=True)
        except (ResponseHandlingException, UnexpectedResponse):
            return there, {*goners, *ids}
        there = kept | {int(one.id): one.payload or {} for one in points}


@pytest.mark.slow
async def test_what_was_answered_survives_ends_and_kills_during_compactions() -> None:
    dice = random.Random(20)
    there: Contents = {}
    with short_folder() as folder:
        data, socket = folder / "qdrant", folder / "socket"
        async with running_engine(data, socket) as client:
            await create(client)
        for _ in range(ENDS):
            compacted = compactions(data)
            process = start_engine(data, socket, ALWAYS_COMPACTING)
            async with client_of(socket, process) as client:
                writing = asyncio.create_task(replace_until_ended(client, dice, there))
                await eventually(lambda: asyncio.to_thread(compactions, data), compacted.__lt__)
                await asyncio.sleep(dice.uniform(0, 0.5))  # into whatever part of the next one
                if dice.random() < 0.7:
                    process.terminate()
                    with suppress(subprocess.TimeoutExpired):  # often it is killed while it ends
                        seconds = dice.choice([STOP_SECONDS, dice.uniform(0, 0.3)])
                        await asyncio.to_thread(process.wait, seconds)
                process.kill()
                await asyncio.to_thread(process.wait)
                there, unknown = await writing
            async with running_engine(data, socket) as client:
                found = await contents(client)
            assert {id_: payload for id_, payload in found.items() if id_ not in unknown} == {
                id_: payload for id_, payload in there.items() if id_ not in unknown
            }
            there = found
            assert len(list((data / "shards").iterdir())) == 1


def compactions(data: Path) -> int:
    """Return how often the engine on ``data`` has put a copy in the place of a shard. Blocks."""
    return (data / "qdrant.log").read_text().count(events.ENGINE_COMPACTED)


async def _has(parts: list[Contents], enough: int) -> bool:
    return sum(map(len, parts)) >= enough


def mixed(old: bytes, new: bytes, share: float, rng: random.Random) -> bytes:
    """Return ``new`` with the pages of ``old``, but for a ``share`` of them."""
    pages = range(0, len(new), PAGE)
    return b"".join(
        (new if rng.random() < share else old.ljust(len(new), b"\0"))[at : at + PAGE]
        for at in pages
    )[: len(new)]


def _conditions(only: models.Filter) -> list[models.Condition]:
    assert isinstance(only.must, list)
    return only.must


@pytest.mark.parametrize("damage", ["truncated", "garbled", "missing"])
async def test_a_damaged_shard_does_not_keep_others_from_being_served(damage: str) -> None:
    with short_folder() as folder:
        data, socket = folder / "qdrant", folder / "socket"
        async with running_engine(data, socket) as client:
            await create(client)
            await client.upsert("notes", [point(i, 1) for i in range(50)], wait=True)
            await client.create_collection("ledger", {})
            await client.upsert("ledger", [models.PointStruct(id=1, vector={})], wait=True)
        [segment] = (data / "shards" / "0" / "segments").iterdir()
        _damage(segment, damage)
        async with running_engine(data, socket) as client:
            assert (await client.count("ledger")).count == 1
            for request in (client.count("notes"), client.upsert("notes", [point(1, 1)])):
                with pytest.raises(UnexpectedResponse, match="is damaged") as refused:
                    await request
                assert refused.value.status_code == 500
                text = refused.value.content.decode()
                assert str(data / "shards" / "0") in text
                assert "ingestq verify --repair" in text
            assert events.ENGINE_COLLECTION_DAMAGED in (data / "qdrant.log").read_text()
            await client.delete_collection("notes")
            await create(client)
            assert (await client.count("notes")).count == 0


async def test_a_shard_that_was_moved_away_is_begun_anew() -> None:
    """As is said of a damaged one; then a verification repairs the collection."""
    with short_folder() as folder:
        data, socket = folder / "qdrant", folder / "socket"
        async with running_engine(data, socket) as client:
            await create(client)
            await client.upsert("notes", [point(i, 1) for i in range(50)], wait=True)
        (data / "shards" / "0").rename(folder / "away")
        async with running_engine(data, socket) as client:
            assert events.ENGINE_COLLECTION_EMPTY in (data / "qdrant.log").read_text()
            assert await contents(client) == {}
            assert (await client.get_collection("notes")).payload_schema.keys() == {"version"}
            await client.upsert("notes", [point(1, 2)], wait=True)
        async with running_engine(data, socket) as client:
            assert set(await contents(client)) == {1}


async def test_a_collection_whose_name_may_not_be_durable_is_there_or_not() -> None:
    with short_folder() as folder:
        data, socket = folder / "qdrant", folder / "socket"
        async with failing_engine(data, socket, UNSURE_OF_NAMES) as client:
            with pytest.raises(ResponseHandlingException):
                await client.create_collection("notes", VECTORS)
        async with running_engine(data, socket) as client:
            await client.upsert("notes", [models.PointStruct(id=1, vector=[1.0] * DIMENSIONS)])
            assert (await client.count("notes")).count == 1


async def test_an_engine_that_can_write_no_more_ends() -> None:
    with short_folder() as folder:
        data, socket = folder / "qdrant", folder / "socket"
        async with failing_engine(data, socket, NEVER_WRITING) as client:
            await client.create_collection("notes", VECTORS, sparse_vectors_config=SPARSE)
            with pytest.raises(ResponseHandlingException):
                await client.upsert("notes", [point(1, 1)], wait=True)


def _damage(segment: Path, damage: str) -> None:
    state = segment / "segment.json"
    match damage:
        case "truncated":
            os.truncate(state, 10)
        case "garbled":
            mappings = segment / "mutable_id_tracker.mappings"
            mappings.write_bytes(random.Random(1).randbytes(mappings.stat().st_size))
        case _:
            state.unlink()


async def test_indexes_that_were_answered_are_there_after_a_kill() -> None:
    with short_folder() as folder:
        data, socket = folder / "qdrant", folder / "socket"
        process = start_engine(data, socket)
        async with client_of(socket, process) as client:
            await client.create_collection("notes", VECTORS)
            for field in ("doc_id", "source"):
                await client.create_payload_index("notes", field, KEYWORD, wait=True)
            process.kill()
            process.wait()
        async with running_engine(data, socket) as client:
            assert (await client.get_collection("notes")).payload_schema.keys() == {
                "doc_id",
                "source",
            }
            assert (await client.facet("notes", "source")).hits == []


async def test_a_deleted_collection_stays_deleted_after_a_kill() -> None:
    with short_folder() as folder:
        data, socket = folder / "qdrant", folder / "socket"
        process = start_engine(data, socket)
        async with client_of(socket, process) as client:
            await create(client)
            await client.delete_collection("notes")
            process.kill()
            process.wait()
        async with running_engine(data, socket) as client:
            assert not (await client.get_collections()).collections
            assert not list((data / "shards").iterdir())
            await create(client)
            assert (await client.count("notes")).count == 0


async def test_what_was_never_finished_is_removed() -> None:
    with short_folder() as folder:
        data, socket = folder / "qdrant", folder / "socket"
        async with running_engine(data, socket) as client:
            await create(client)
        unfinished = data / "shards" / "7"
        shutil.copytree(data / "shards" / "0", unfinished)
        async with running_engine(data, socket) as client:
            assert not unfinished.exists()
            assert (await client.count("notes")).count == 0


async def test_a_file_that_a_killed_engine_was_writing_stops_no_write() -> None:
    """It writes some files in a folder beside them, and then moves them into place."""
    with short_folder() as folder:
        data, socket = folder / "qdrant", folder / "socket"
        async with running_engine(data, socket) as client:
            await create(client)
            await client.upsert("notes", [point(1, 1)], wait=True)
        shard = data / "shards" / "0"
        [segment] = (shard / "segments").iterdir()
        places = [place / ".atomicwriteXy3z7Q" for place in (shard, shard / "wal", segment)]
        for place in places:
            place.mkdir()
            (place / "tmpfile.tmp").write_bytes(b"{")
        async with running_engine(data, socket) as client:
            assert not any(place.exists() for place in places)
            (shard / "wal" / ".atomicwriteA1b2C3").mkdir()  # as the engine does at any moment
            await client.upsert("notes", [point(2, 1)], wait=True)
            assert set(await contents(client)) == {1, 2}


async def test_a_damaged_catalog_is_said() -> None:
    with short_folder() as folder:
        (folder / "catalog.json").write_text('{"format": 2}')
        process = start_engine(folder, folder / "socket")
        assert await asyncio.to_thread(process.wait, START_SECONDS) == 1
        last = (folder / "qdrant.log").read_text().splitlines()[-1]
        assert "CatalogDamaged: " in last
        assert "another version" in last
