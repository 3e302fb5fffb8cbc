"""A hot folder: files are queued, and moved to done or failed."""

import asyncio
import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from ingestq.app.composition import Broker
from ingestq.broker.queue.dead_letters import DeadLetterFilter
from ingestq.core import events
from ingestq.core.documents import Lane
from ingestq.core.jobs import dead_letter_batch
from ingestq.core.results import BatchReport, DocumentCounts
from producers.watch.classifier import FileClassifier
from producers.watch.folder import Presence, WatchedFolder
from producers.watch.folder_watch import WatchConfig
from producers.watch.hot_folder import HotFolder
from producers.watch.settling import SettledChange
from tests.claims import batch_of, finish, lease_queue, take
from tests.command import Ingestq
from tests.harness import Harness
from tests.integration.test_watch import Logs, logged, watching
from tests.waiting import eventually
from worker.embedding.pool import ModelPool
from worker.pipeline.points import DocumentKey
from worker.store.client import Qdrant
from worker.store.collection import CollectionNames
from worker.store.ledger import QdrantLedger

INDEXED = BatchReport(DocumentCounts(indexed=1))
NO_RESCANS = WatchConfig(settle_seconds=0.3, rescan_seconds=3600)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


def hot(root: Path) -> WatchedFolder:
    return WatchedFolder(root, hot=True)


def tree(root: Path) -> dict[str, str]:
    """Return the content of every file by its relative path."""
    return {
        str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()
    }


async def holds(root: Path, *names: str) -> dict[str, str]:
    """Wait until the folder holds exactly these files, and return their content."""

    async def look() -> dict[str, str]:
        try:
            return tree(root)
        except FileNotFoundError:  # moved at this moment
            return {}

    return await eventually(look, lambda files: sorted(files) == sorted(names))


async def test_files_are_moved_to_done_or_failed(harness: Harness) -> None:
    long = "x" * 251 + ".txt"  # leaves no room for the name of a sidecar
    harness.write("there.txt", "done/old.txt", "failed/old.txt", long)
    (harness.root / "there.txt.meta.json").write_text(json.dumps({"page": 7}))
    results = ["done/old.txt", "failed/old.txt", "done/there.txt", "done/there.txt.meta.json"]
    results.append(f"done/{long}")
    async with watching(harness.broker, hot(harness.root)):
        await holds(harness.root, *results)
        harness.write("sub/new.txt")
        (harness.root / "bad.txt").write_bytes(b"\0\1\2")
        results += ["done/sub/new.txt", "failed/bad.txt", "failed/bad.txt.error.txt"]
        files = await holds(harness.root, *results)
    assert "binary" in files["failed/bad.txt.error.txt"]
    chunks = {chunk["doc_id"]: chunk for chunk in await harness.payloads()}
    assert chunks.keys() == {
        str(harness.root / name) for name in ("there.txt", "sub/new.txt", long)
    }
    assert chunks[str(harness.root / "there.txt")]["metadata"]["page"] == 7


async def test_the_document_stays_indexed_without_its_file(harness: Harness) -> None:
    harness.write("a.txt")
    doc_id = str(harness.root / "a.txt")
    async with watching(
        harness.broker, hot(harness.root), WatchConfig(0.3, rescan_seconds=1)
    ) as logs:
        await holds(harness.root, "done/a.txt")
        scans = len([entry for entry in logs if entry["event"] == events.WATCH_SCANNED])

        async def scanned() -> int:
            return len([entry for entry in logs if entry["event"] == events.WATCH_SCANNED])

        await eventually(scanned, lambda n: n > scans)
    await eventually(harness.broker.queue.is_empty)
    assert await harness.indexed() == {doc_id}
    key = DocumentKey("", doc_id)
    entry = (await QdrantLedger(harness.qdrant, harness.names.ledger).look_up([key]))[key]
    assert (entry.document, entry.file, entry.folders) == (None, None, ())


async def test_a_moved_file_gets_a_number_if_its_name_is_taken(harness: Harness) -> None:
    async with watching(harness.broker, hot(harness.root)):
        (harness.root / "a.txt").write_text("The first.")
        await holds(harness.root, "done/a.txt")
        (harness.root / "a.txt").write_text("The second.")
        files = await holds(harness.root, "done/a.txt", "done/a-2.txt")
    assert files == {"done/a.txt": "The first.", "done/a-2.txt": "The second."}
    [chunk] = await harness.payloads()
    assert chunk["page_content"] == "The second."


async def queued(broker: Broker, count: int = 1) -> None:
    await eventually(broker.queue.depth, lambda depth: depth.ready == count)


async def work(broker: Broker, report: BatchReport | None = None) -> Sequence[str]:
    """Finish the one job like a worker, and return the ids of its documents."""
    leases = lease_queue(broker)
    [claimed] = await take(leases)
    batch = batch_of(claimed)
    assert await finish(leases, claimed, report or dead_letter_batch(batch, "broken", tries=1))
    return [document.doc_id for document in batch.documents]


async def test_a_file_that_changes_while_queued_is_queued_again(broker: Broker, root: Path) -> None:
    async with watching(broker, hot(root), NO_RESCANS):
        (root / "a.txt").write_text("The first.")
        await queued(broker)
        (root / "a.txt").write_text("The second, which is longer.")
        await work(broker, INDEXED)
        await queued(broker)
        assert tree(root) == {"a.txt": "The second, which is longer."}
        (root / "a.txt.meta.json").write_text("{}")  # says nothing new
        await work(broker, INDEXED)
        await holds(root, "done/a.txt", "done/a.txt.meta.json")


async def test_a_file_whose_sidecar_changes_while_queued_is_queued_again(
    broker: Broker, root: Path
) -> None:
    async with watching(broker, hot(root), NO_RESCANS):
        (root / "a.txt").write_text("text")
        await queued(broker)
        (root / "a.txt.meta.json").write_text('{"page": 3}')
        await work(broker)
        await queued(broker)
        await work(broker, INDEXED)
        await holds(root, "done/a.txt", "done/a.txt.meta.json")


async def test_files_queued_before_a_restart_are_moved_after_it(harness: Harness) -> None:
    harness.write("a.txt", "b.txt")
    for name in ("a.txt", "b.txt"):
        os.utime(harness.root / name, (1, 1))
    broker = harness.broker
    summary = await harness.scan(harness.root / "a.txt")  # as if the watch had died after that
    assert summary.documents.indexed == 1
    async with watching(broker, hot(harness.root)):
        await holds(harness.root, "done/a.txt", "done/b.txt")
    assert len(await harness.payloads()) == 2


async def test_no_file_is_moved_if_redis_lost_its_outcome(broker: Broker, root: Path) -> None:
    (root / "a.txt").write_text("text")
    async with watching(broker, hot(root), WatchConfig(0.3, rescan_seconds=1)) as logs:
        await queued(broker)
        await broker.redis.flushdb()
        await queued(broker)  # by a later scan
        assert tree(root) == {"a.txt": "text"}
        await work(broker, INDEXED)
        await holds(root, "done/a.txt")
    assert not any(entry["event"] == events.WATCH_SKIPPED for entry in logs)


async def test_a_file_that_cannot_be_moved_is_logged_and_stays(harness: Harness) -> None:
    harness.write("done/sub", "sub/a.txt")
    async with watching(harness.broker, hot(harness.root)) as logs:
        skipped = await logged(logs, events.WATCH_SKIPPED)
        assert skipped["reason"].startswith("cannot be moved: sub is not a folder")
    assert set(tree(harness.root)) == {"sub/a.txt", "done/sub"}


def moved_to_done(logs: Logs) -> int:
    return sum(entry["done"] for entry in logs if entry["event"] == events.HOT_FOLDER_MOVED)


async def test_the_dead_letter_of_a_deleted_file_is_purged(broker: Broker, root: Path) -> None:
    for name in ("gone.txt", "bad.txt"):
        (root / name).write_text("text")
        os.utime(root / name, (1, 1))  # so that the first scan takes both
    async with watching(broker, hot(root), NO_RESCANS):
        await queued(broker)
        (root / "gone.txt").unlink()
        assert len(await work(broker)) == 2
        await holds(root, "failed/bad.txt", "failed/bad.txt.error.txt")

        async def dead_letters() -> list[str]:
            found = broker.dead_letters.find(DeadLetterFilter())
            return [Path(stored.dead_letter.doc_id).name async for stored in found]

        await eventually(dead_letters, lambda names: names == ["bad.txt"])


async def test_the_dead_letter_of_a_file_that_no_worker_found_is_purged(
    broker: Broker, qdrant: Qdrant, model: ModelPool, collection: CollectionNames, root: Path
) -> None:
    """With the dead letters that a real worker writes."""
    harness = Harness.of(broker, qdrant, collection, model, root)
    harness.write("gone.txt")
    (harness.root / "bad.txt").write_bytes(b"\0\1\2")
    for name in ("gone.txt", "bad.txt"):
        os.utime(harness.root / name, (1, 1))  # so that the first scan takes both
    async with watching(harness.broker, hot(harness.root), NO_RESCANS):
        await queued(harness.broker)
        (harness.root / "gone.txt").unlink()
        async with harness.working():
            await holds(harness.root, "failed/bad.txt", "failed/bad.txt.error.txt")
            await eventually(harness.dead_letters, lambda dead_letters: len(dead_letters) == 1)
    assert list(await harness.dead_letters()) == [str(harness.root / "bad.txt")]


async def test_a_file_found_by_scan_and_event_is_queued_once(broker: Broker, root: Path) -> None:
    (root / "a.txt").write_text("text")
    classifier = FileClassifier(hot(root), Presence(root), settle_seconds=0)
    due = {root / "a.txt": SettledChange()}
    classified = [classifier.classify(due, await broker.queue.issue_version()) for _ in range(2)]
    watched = (hot(root), broker.client, broker.dead_letters, classifier)
    hot_folder = HotFolder(*watched, lambda _: None, lambda _: None)
    counts = await asyncio.gather(*(hot_folder.queue(one, Lane.BULK) for one in classified))
    assert sorted(counts) == [0, 1]
    await queued(broker)
    (root / "a.txt").unlink()
    later = HotFolder(*watched, lambda _: None, lambda _: None)
    assert await later.queue(classified[0], Lane.BULK) == 0


@pytest.mark.slow
async def test_more_files_than_one_group_are_all_moved(harness: Harness) -> None:
    names = [f"{n}.txt" for n in range(300)]
    for name in names:
        (harness.root / name).write_text("The same in all of them.")
        os.utime(harness.root / name, (1, 1))
    async with watching(harness.broker, hot(harness.root)) as logs:

        async def moved() -> int:
            return moved_to_done(logs)

        await eventually(moved, lambda n: n == len(names))
    assert set(tree(harness.root)) == {f"done/{name}" for name in names}


def test_hot_needs_a_named_folder(ingestq: Ingestq) -> None:
    ingestq("drop", "--hot").failed_with(2, "--hot", 'mode = "hot"')
