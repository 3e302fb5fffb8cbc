"""A file that moves is found under its new id only, is not embedded again, and passes the guard."""

import asyncio
import json
import resource
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ingestq.broker.keys import RESULT
from ingestq.core.results import BatchReport, ChunkCounts, DocumentCounts, JobResult
from producers.watch.moves import MAX_EVENT_DELETIONS, Arrivals
from tests.command import Ingestq
from tests.harness import Harness
from tests.integration.test_rescans import ENOUGH
from tests.integration.test_watch import indexed_are, watching
from tests.waiting import eventually

MANY = 3 * MAX_EVENT_DELETIONS
"""Files of a folder: more than may go without a scan, or without being noticed by the guard."""


def named(folder: str, count: int = MANY) -> list[str]:
    """Return the names of so many files in ``folder``."""
    return [f"{folder}/{i:02}.txt" for i in range(count)]


async def texts_by_file(harness: Harness) -> dict[str, list[str]]:
    """Return what the index has of each file, by its path in the folder."""
    found: dict[str, list[str]] = {}
    for payload in await harness.payloads():
        file = str(Path(payload["doc_id"]).relative_to(harness.root))
        found.setdefault(file, []).append(payload["page_content"])
    return found


async def embedded(harness: Harness) -> int:
    """Return how many chunks the worker has embedded."""
    results = []
    async for key in harness.broker.redis.scan_iter(RESULT + "*"):
        raw = await harness.broker.redis.get(key)
        results.append(msgspec.msgpack.decode(raw, type=JobResult).result)
    reports = [msgspec.convert(result, BatchReport) for result in results]
    return sum(report.chunks.embedded for report in reports)


async def test_a_renamed_file_keeps_its_vectors(harness: Harness) -> None:
    harness.write("birds.txt", "stays.txt")
    await harness.scan()
    (harness.root / "birds.txt").rename(harness.root / "geese.txt")
    summary = await harness.scan()
    assert summary.documents == DocumentCounts(indexed=1, unchanged=1, deleted=1)
    assert summary.chunks == ChunkCounts(embedded=0, reused=1, deleted=1)
    assert await texts_by_file(harness) == {
        "geese.txt": ["A note called birds.txt."],
        "stays.txt": ["A note called stays.txt."],
    }
    contexts = {payload["context"] for payload in await harness.payloads()}
    assert contexts == {"geese", "stays"}, "the name is shown, but not embedded"
    (harness.root / "geese.txt").rename(harness.root / "birds.txt")
    assert (await harness.scan()).chunks == ChunkCounts(embedded=0, reused=1, deleted=1)
    assert await harness.indexed_files() == {"birds.txt", "stays.txt"}


async def test_a_renamed_folder_passes_the_guard(harness: Harness) -> None:
    harness.write(*named("old"))
    await harness.scan()
    (harness.root / "old").rename(harness.root / "new")
    summary = await harness.scan()
    assert summary.documents == DocumentCounts(indexed=MANY, deleted=MANY)
    assert summary.chunks == ChunkCounts(reused=MANY, deleted=MANY)
    assert await harness.indexed_files() == set(named("new"))
    assert await harness.dead_letters() == {}


async def test_files_moved_between_folders_pass_the_guard(harness: Harness) -> None:
    harness.write(*named("one"), "two/stays.txt")
    folders = harness.root / "one", harness.root / "two"
    await harness.scan(*folders)
    for name in named("one"):
        (harness.root / name).rename(folders[1] / Path(name).name)
    summary = await harness.scan(*folders)
    assert summary.documents == DocumentCounts(indexed=MANY, unchanged=1, deleted=MANY)
    assert summary.chunks.embedded == 0
    assert await harness.indexed_files() == {*named("two"), "two/stays.txt"}


async def test_only_what_was_moved_is_no_deletion(harness: Harness) -> None:
    harness.write(*named("old"))
    await harness.scan()
    (harness.root / "old").rename(harness.root / "new")
    for name in named("new", ENOUGH):
        (harness.root / name).unlink()
    summary = await harness.scan()
    [refused] = summary.failed
    assert refused.reason.startswith(f"{MANY} of ")
    assert await harness.indexed_files() == {*named("old"), *named("new")[ENOUGH:]}


async def test_one_copy_stands_for_one_deletion(harness: Harness) -> None:
    harness.write(*named("old"), "stays.txt")
    for name in named("old"):
        (harness.root / name).write_text("The same in every file.")
    await harness.scan()
    shutil.move(harness.root / named("old")[0], harness.root / "new.txt")
    shutil.rmtree(harness.root / "old")
    summary = await harness.scan()
    [refused] = summary.failed
    assert refused.reason.startswith(f"{MANY} of ")
    assert summary.chunks.embedded == 0


async def test_a_copy_is_not_embedded_and_outlives_the_original(harness: Harness) -> None:
    harness.write("a.txt", "stays.txt")
    await harness.scan()
    shutil.copy(harness.root / "a.txt", harness.root / "b.txt")
    assert (await harness.scan()).chunks == ChunkCounts(reused=1)
    (harness.root / "a.txt").unlink()
    assert (await harness.scan()).documents == DocumentCounts(unchanged=2, deleted=1)
    assert (await texts_by_file(harness))["b.txt"] == ["A note called a.txt."]


async def test_two_files_swap_their_names(harness: Harness) -> None:
    harness.write("a.txt", "b.txt")
    await harness.scan()
    first, second, between = (harness.root / name for name in ("a.txt", "b.txt", "c.txt"))
    first.rename(between)
    second.rename(first)
    between.rename(second)
    summary = await harness.scan()
    assert summary.documents == DocumentCounts(indexed=2)
    assert await texts_by_file(harness) == {
        "a.txt": ["A note called b.txt."],
        "b.txt": ["A note called a.txt."],
    }


async def test_a_file_that_is_renamed_and_edited_is_embedded(harness: Harness) -> None:
    harness.write("a.txt", "stays.txt")
    await harness.scan()
    (harness.root / "a.txt").unlink()
    (harness.root / "b.txt").write_text("It says something else now.")
    summary = await harness.scan()
    assert summary.chunks == ChunkCounts(embedded=1, deleted=1)
    assert (await texts_by_file(harness))["b.txt"] == ["It says something else now."]


async def test_other_tenants_give_no_vectors(harness: Harness) -> None:
    for tenant, chunks in (("x", ChunkCounts(embedded=1)), ("y", ChunkCounts(embedded=1))):
        receipt = await harness.client.submit("a", text="A letter.", source="a", tenant=tenant)
        assert (await harness.client.wait(receipt.submission)).chunks == chunks


async def test_a_file_renamed_under_a_watch_is_never_missing(harness: Harness) -> None:
    harness.write("a.txt", "stays.txt")
    seen: list[list[str]] = []

    async def files(names: Sequence[str]) -> bool:
        seen.append([payload["page_content"] for payload in await harness.payloads()])
        return sorted(await texts_by_file(harness)) == names

    async with watching(harness.broker, harness.root):
        await indexed_are(harness, "a.txt", "stays.txt")
        (harness.root / "a.txt").rename(harness.root / "b.txt")
        await eventually(lambda: files(["b.txt", "stays.txt"]))
    assert all("A note called a.txt." in texts for texts in seen)
    assert await embedded(harness) == 2


async def test_a_folder_renamed_under_a_watch_passes_the_guard(harness: Harness) -> None:
    harness.write(*named("old"), "stays.txt")
    async with watching(harness.broker, harness.root):
        await indexed_are(harness, *named("old"), "stays.txt")
        (harness.root / "old").rename(harness.root / "new")
        await indexed_are(harness, *named("new"), "stays.txt")
    assert await embedded(harness) == MANY + 1
    await eventually(harness.dead_letters, lambda dead_letters: dead_letters == {})


async def test_files_move_between_two_watched_folders(harness: Harness) -> None:
    harness.write(*named("one/deep"), "one/a.txt", "two/stays.txt")
    one, two = harness.root / "one", harness.root / "two"
    arrivals = Arrivals(harness.client)
    async with (
        watching(harness.broker, one, arrivals=arrivals),
        watching(harness.broker, two, arrivals=arrivals),
    ):
        await indexed_are(harness, *named("one/deep"), "one/a.txt", "two/stays.txt")
        (one / "a.txt").rename(two / "a.txt")
        await indexed_are(harness, *named("one/deep"), "two/a.txt", "two/stays.txt")
        (one / "deep").rename(two / "deep")
        await indexed_are(harness, *named("two/deep"), "two/a.txt", "two/stays.txt")
    (two / "deep").rename(one / "deep")  # while nobody watches
    async with (
        watching(harness.broker, one, arrivals=arrivals),
        watching(harness.broker, two, arrivals=arrivals),
    ):
        await indexed_are(harness, *named("one/deep"), "two/a.txt", "two/stays.txt")
    assert await embedded(harness) == MANY + 2
    await eventually(harness.dead_letters, lambda dead_letters: dead_letters == {})


async def test_a_file_that_comes_back_at_once_stays(harness: Harness) -> None:
    harness.write("a.txt", "b.txt")
    async with watching(harness.broker, harness.root):
        await indexed_are(harness, "a.txt", "b.txt")
        (harness.root / "a.txt").rename(harness.root / ".hidden")
        (harness.root / "b.txt").unlink()
        await asyncio.sleep(0.7)  # it is noticed to be gone, but not deleted yet
        (harness.root / ".hidden").rename(harness.root / "a.txt")
        await indexed_are(harness, "a.txt")


def cpu_seconds() -> float:
    """Return the processor time of all commands that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_thousand_files_move_within_seconds(ingestq: Ingestq) -> None:
    folder = ingestq.folder / "in"
    (folder / "old").mkdir(parents=True)
    for i in range(1000):
        (folder / "old" / f"{i}.txt").write_text(f"Letter {i} tells of harbour {i * 7}.\n")

    def run() -> Any:
        with ingestq.start("run", "in", "--json") as process:
            return json.loads(process.communicate(timeout=400)[0])

    assert run()["chunks"]["embedded"] == 1000
    (folder / "old").rename(folder / "new")
    before = cpu_seconds()
    moved = run()
    used = cpu_seconds() - before
    assert moved["documents"]["indexed"] == moved["documents"]["deleted"] == 1000
    assert moved["chunks"] == {"embedded": 0, "reused": 1000, "deleted": 1000}
    assert used < 2 * 20, "20 seconds on two cores, however busy they are with other things"
    assert ingestq("verify", "--json").json["consistent"]
