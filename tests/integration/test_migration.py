"""The index of an earlier version: migrated whole at the first start, or left as it is."""

import asyncio
import fcntl
import json
import os
import random
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from qdrant_client import AsyncQdrantClient, models

from ingestq.app import migration
from ingestq.app.migration import has_index, migrate
from ingestq.core.durable_files import rename_durably
from ingestq.core.errors import StoreUnavailable, UsageError
from ingestq.embedded import server
from ingestq.embedded.lock_file import is_locked, open_lock, try_lock
from tests.bundled import bundled_qdrant
from tests.command import Ingestq
from tests.local_mode import (
    Content,
    content_of,
    local_mode,
    make_local_mode,
    point_alias,
)
from tests.waiting import eventually

pytestmark = pytest.mark.slow

MIGRATE = """
import asyncio, sys
from pathlib import Path
from ingestq.app.migration import migrate
asyncio.run(migrate(Path(sys.argv[1]), ()))
"""
NEVER_RENAME = """
import threading
from ingestq.app import migration
migration.rename_durably = lambda *_: threading.Event().wait()
"""
"""Before `MIGRATE`: the migration waits when it has copied everything."""
MANY_POINTS = 1000
KILLS = 12
LONGEST_SECONDS = 6.0
"""A migration of `MANY_POINTS` takes about half as long on an idle machine."""


async def write_points(client: AsyncQdrantClient, points: int) -> None:
    """Write a collection with its ledger, of the shape that ingestq gives them.

    The vectors have the length 1, and their numbers are exact in 32 bits.
    """
    dice = random.Random(points)
    await client.create_collection(
        "docs__f",
        vectors_config=models.VectorParams(size=8, distance=models.Distance.COSINE),
        sparse_vectors_config={"bm25": models.SparseVectorParams(modifier=models.Modifier.IDF)},
        metadata={"fingerprint": {"model": "m", "dimension": 8}},
    )
    await client.create_collection("docs__f__ledger", vectors_config={}, metadata={"of": "docs"})
    await client.upsert(
        "docs__f",
        [
            models.PointStruct(
                id=f"00000000-0000-4000-8000-{number:012}",
                vector={
                    "": dice.sample([0.5, -0.5, 0.5, -0.5, 0.0, 0.0, 0.0, 0.0], 8),
                    "bm25": models.SparseVector(
                        indices=[number, number + 7], values=[dice.randrange(1, 64) / 64, 2.0]
                    ),
                },
                payload={"page_content": f"Straße {number}", "metadata": {"n": number, "x": None}},
            )
            for number in range(points)
        ],
    )
    await client.upsert(
        "docs__f__ledger",
        [
            models.PointStruct(id=number, vector={}, payload={"doc_id": f"d{number}"})
            for number in range(1, 4)
        ],
    )
    await point_alias(client, "docs", "docs__f")


async def old_index(data_dir: Path, points: int = 60) -> Content:
    """Write an index as earlier versions did; return what it holds."""
    async with local_mode(data_dir / "qdrant") as client:
        await write_points(client, points)
    async with local_mode(data_dir / "qdrant") as client:
        return await content_of(client)


async def content(data_dir: Path) -> Content:
    async with bundled_qdrant(data_dir) as qdrant:
        return await qdrant.ask(content_of)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


async def test_everything_is_migrated_and_the_old_index_kept(tmp_path: Path) -> None:
    before = await old_index(tmp_path)
    old = files(tmp_path / "qdrant" / "collection")
    await asyncio.gather(*(migrate(tmp_path, ()) for _ in range(3)))  # as three commands do
    assert await content(tmp_path) == before
    kept = files(tmp_path / "qdrant-local-backup" / "collection")
    assert list(kept.values()) == list(old.values())
    assert sorted(os.listdir(tmp_path)) == ["qdrant", "qdrant-local-backup", "version.json"]
    await migrate(tmp_path, ())
    assert await content(tmp_path) == before


def test_an_earlier_version_is_taken_over_by_the_first_command(ingestq: Ingestq) -> None:
    folder = ingestq.folder / "notes"
    folder.mkdir()
    for name, text in {"tide": "The tide is high.", "moon": "The moon is full."}.items():
        (folder / f"{name}.txt").write_text(text)
    assert ingestq("run", folder).code == 0
    asyncio.run(make_local_mode(ingestq.folder / ".ingestq"))
    again = ingestq("run", folder, "--json")
    [migrated] = [json.loads(line) for line in again.err.splitlines() if "index.migrated" in line]
    assert (migrated["collections"], migrated["points"]) == (2, 4)
    assert again.json["documents"]["unchanged"] == 2
    assert again.json["chunks"]["embedded"] == 0


@pytest.mark.parametrize("damage", ["meta.json", "storage.sqlite", "a missing file"])
async def test_a_damaged_index_is_refused_and_not_changed(tmp_path: Path, damage: str) -> None:
    await old_index(tmp_path)
    if damage == "a missing file":
        next((tmp_path / "qdrant").rglob("storage.sqlite")).unlink()
    else:
        for path in (tmp_path / "qdrant").rglob(damage):
            path.write_bytes(b"nonsense" * 8 + path.read_bytes()[64:])
    before = files(tmp_path / "qdrant")
    with pytest.raises(UsageError, match=f"{tmp_path / 'qdrant'} is damaged .*move that directory"):
        await migrate(tmp_path, ())
    assert files(tmp_path / "qdrant") == before
    (tmp_path / "qdrant").rename(tmp_path / "away")
    assert not (tmp_path / "qdrant-local-backup").exists()
    assert await content(tmp_path) == {"aliases": {}}


async def test_what_stands_in_the_way_is_said_and_nothing_changed(tmp_path: Path) -> None:
    before = await old_index(tmp_path)
    async with local_mode(tmp_path / "qdrant"):
        with pytest.raises(StoreUnavailable, match="an ingestq process of an earlier version uses"):
            await migrate(tmp_path, ())
    (tmp_path / "qdrant-local-backup").mkdir()
    with pytest.raises(UsageError, match=r"qdrant-local-backup, which exists: move that away"):
        await migrate(tmp_path, ())
    (tmp_path / "qdrant-local-backup").rmdir()
    await migrate(tmp_path, ())
    assert await content(tmp_path) == before


async def test_a_migration_that_stopped_between_its_renames_is_finished(tmp_path: Path) -> None:
    before = await old_index(tmp_path)
    await migrate(tmp_path, ())
    (tmp_path / "qdrant-migration").mkdir()
    (tmp_path / "qdrant").rename(tmp_path / "qdrant-migration" / "qdrant")
    assert has_index(tmp_path)
    await migrate(tmp_path, ())
    assert await content(tmp_path) == before


async def test_a_migration_that_was_killed_while_it_copied_begins_anew(tmp_path: Path) -> None:
    before = await old_index(tmp_path)
    catalog = tmp_path / "qdrant-migration" / "qdrant" / "catalog.json"

    async def is_copying() -> bool:
        return await asyncio.to_thread(catalog.exists)

    script = NEVER_RENAME + MIGRATE
    migrating = await asyncio.create_subprocess_exec(sys.executable, "-c", script, tmp_path)
    await eventually(is_copying)
    migrating.kill()
    await migrating.wait()
    assert (tmp_path / "qdrant" / "meta.json").exists()
    await _migrated_in_the_end(tmp_path)
    assert await content(tmp_path) == before


async def test_what_a_server_that_does_not_end_still_writes_is_not_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "STOP_SECONDS", 1.0)
    before = await old_index(tmp_path)
    left = tmp_path / "qdrant-migration" / "qdrant"
    left.mkdir(parents=True)
    (left / "written").touch()
    with open_lock(left / "alive.lock") as alive:  # as its server does, which has no socket here
        assert try_lock(alive, fcntl.LOCK_EX)
        with pytest.raises(StoreUnavailable, match="does not end; end it"):
            await migrate(tmp_path, ())
        assert (left / "written").exists()
    await migrate(tmp_path, ())
    assert await content(tmp_path) == before


async def test_a_cancelled_migration_keeps_others_out_until_its_rename_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one would begin anew, and copy the index that is being renamed."""
    before = await old_index(tmp_path)
    renaming, going_on = threading.Event(), threading.Event()

    def slowly(source: Path, target: Path) -> None:
        renaming.set()
        going_on.wait()
        rename_durably(source, target)

    monkeypatch.setattr(migration, "rename_durably", slowly)
    migrating = asyncio.create_task(migrate(tmp_path, ()))
    try:
        await asyncio.to_thread(renaming.wait)
        migrating.cancel()
        await asyncio.wait([migrating], timeout=0.5)
        with open_lock(tmp_path / "qdrant-migration" / "migration.lock") as lock:
            assert is_locked(lock)
    finally:
        going_on.set()
    with pytest.raises(asyncio.CancelledError):
        await migrating
    await migrate(tmp_path, ())
    assert await content(tmp_path) == before


async def test_a_migration_may_be_killed_at_any_time(tmp_path: Path) -> None:
    before = await old_index(tmp_path, MANY_POINTS)
    dice = random.Random(18)
    for _ in range(KILLS):
        migrating = await asyncio.create_subprocess_exec(sys.executable, "-c", MIGRATE, tmp_path)
        try:
            await asyncio.wait_for(migrating.wait(), dice.uniform(0, LONGEST_SECONDS))
        except TimeoutError:
            with suppress(ProcessLookupError):  # it has just ended
                migrating.kill()
            await migrating.wait()
    await _migrated_in_the_end(tmp_path)
    assert await content(tmp_path) == before


async def _migrated_in_the_end(data_dir: Path) -> None:
    """Migrate, as soon as the process that copied for a killed one has ended, too."""

    async def is_migrated() -> bool:
        try:
            await migrate(data_dir, ())
        except StoreUnavailable:
            return False
        return True

    await eventually(is_migrated)
    assert "qdrant-migration" not in os.listdir(data_dir)
    with open_lock(data_dir / "qdrant" / "alive.lock") as alive:
        assert not is_locked(alive)
