"""A watched folder: the index becomes equal to it, whatever happens to it."""

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from ingestq.app.composition import Broker
from ingestq.broker.connection import BrokerConfig, connected
from ingestq.core import events
from ingestq.core.documents import Lane
from ingestq.core.results import BatchReport, WatchedFolderStatus
from ingestq.embedded.redis import embedded_redis
from producers.files.links import LEADS_OUT
from producers.files.walk import BROKEN_LINK
from producers.watch.folder import WatchedFolder
from producers.watch.folder_watch import (
    MAX_INTERACTIVE_DOCUMENTS,
    RETRY_SECONDS,
    FolderWatch,
    WatchConfig,
)
from producers.watch.moves import MAX_EVENT_DELETIONS, Arrivals
from tests.claims import batch_of, finish, lease_queue, take
from tests.command import Ingestq
from tests.folder_changes import run_in_shell
from tests.harness import Harness
from tests.running_command import Running, serving
from tests.unsupervised import unsupervised_redis
from tests.waiting import crash, ended, eventually

Logs = Sequence[Mapping[str, Any]]

QUICK = WatchConfig(settle_seconds=0.3)


@asynccontextmanager
async def watching(
    broker: Broker,
    folder: WatchedFolder | Path,
    config: WatchConfig = QUICK,
    until: str = events.WATCH_SCANNED,
    arrivals: Arrivals | None = None,
) -> AsyncIterator[Logs]:
    """Watch a folder; yield the log once it was scanned the first time, or ``until`` an event.

    Watches between whose folders files move share their ``arrivals``.
    """
    watched = WatchedFolder(folder) if isinstance(folder, Path) else folder
    watched = replace(watched, collection=broker.collection)
    arrivals = Arrivals(broker.client) if arrivals is None else arrivals
    watch = FolderWatch(
        watched, config, broker.client, broker.dead_letters, broker.watched_folders, arrivals
    )
    with capture_logs() as logs:
        running = asyncio.create_task(watch.run())
        try:
            await logged(logs, until)
            yield logs
        finally:
            watch.stop()
            await ended(running)


async def logged(logs: Logs, event: str) -> Mapping[str, Any]:
    """Wait for an entry about ``event``, and return the first."""

    async def found() -> Logs:
        return [entry for entry in logs if entry["event"] == event]

    return (await eventually(found))[0]


async def indexed_are(harness: Harness, *names: str) -> None:
    """Wait until the index holds exactly these files."""
    wanted = [str(harness.root / name) for name in sorted(names)]

    async def ids() -> list[str]:
        return sorted(payload["doc_id"] for payload in await harness.payloads())

    await eventually(ids, lambda ids: ids == wanted)


@pytest.mark.parametrize("poll_seconds", [None, 0.2])
async def test_every_change_in_the_folder_reaches_the_index(
    harness: Harness, poll_seconds: float | None
) -> None:
    config = WatchConfig(settle_seconds=0.3, poll_seconds=poll_seconds)
    harness.write("old.txt", "sub/old.txt")
    async with watching(harness.broker, harness.root, config):
        await indexed_are(harness, "old.txt", "sub/old.txt")
        harness.write("new.txt", "deep/er/new.txt", "upload.txt.part")
        await indexed_are(harness, "old.txt", "sub/old.txt", "new.txt", "deep/er/new.txt")
        (harness.root / "upload.txt.part").rename(harness.root / "upload.txt")
        (harness.root / "old.txt").unlink()
        (harness.root / "sub").rename(harness.root / "moved")
        await indexed_are(harness, "upload.txt", "moved/old.txt", "new.txt", "deep/er/new.txt")
        (harness.root / "new.txt").write_text("It says something else now.")
        await eventually(
            harness.payloads,
            lambda chunks: any("else" in chunk["page_content"] for chunk in chunks),
        )
        shutil.rmtree(harness.root / "deep")
        (harness.root / "moved" / "old.txt").rename(harness.root / "new.txt")
        await indexed_are(harness, "upload.txt", "new.txt")
        # A job that comes too late to find a file fails until the file's deletion is finished.
        await eventually(harness.dead_letters, lambda dead_letters: dead_letters == {})


@pytest.mark.slow
async def test_each_file_is_indexed_once_whatever_links_come_and_go(harness: Harness) -> None:
    root = harness.root
    harness.write("a.txt", "d/b.txt", ".h/c.txt", "../outside/o.txt")
    (root / "d" / "up").symlink_to(root)
    (root / "z").symlink_to("d")
    async with watching(harness.broker, root):
        await indexed_are(harness, "a.txt", "d/b.txt")
        (root / "d" / "b.txt").unlink()  # also what can be reached over a link to a parent
        await indexed_are(harness, "a.txt")
        for name, target in {"pub": ".h", "l.txt": "a.txt", "out": "../outside"}.items():
            (root / name).symlink_to(target)
        await indexed_are(harness, "a.txt", "pub/c.txt")
        (root / "also").symlink_to(".h")  # comes first
        await indexed_are(harness, "a.txt", "also/c.txt")
        (root / "also").unlink()
        await indexed_are(harness, "a.txt", "pub/c.txt")
        (root / "z").unlink()  # the system watched d by this name, too
        harness.write("d/new.txt")
        await indexed_are(harness, "a.txt", "pub/c.txt", "d/new.txt")
        (root / "pub").unlink()
        (root / "pub").symlink_to("nowhere")
        (root / "a.txt").unlink()
        (root / "a.txt").symlink_to("../outside/o.txt")
        await indexed_are(harness, "d/new.txt")
        left_out = {
            (str(root / "a.txt"), LEADS_OUT),
            (str(root / "l.txt"), LEADS_OUT),
            (str(root / "out"), LEADS_OUT),
            (str(root / "pub"), BROKEN_LINK),
        }

        async def reported() -> set[tuple[str, str]]:
            [folder] = await watched_folders(harness)
            return {(file.doc_id, file.reason) for file in folder.skipped_files}

        await eventually(reported, lambda files: files == left_out)
    assert await watched_folders(harness) == []


async def watched_folders(harness: Harness) -> Sequence[WatchedFolderStatus]:
    return (await harness.broker.queue.overview()).watched_folders


@pytest.mark.parametrize("poll_seconds", [None, 0.2])
async def test_what_takes_the_place_of_a_file_or_folder_takes_it_in_the_index(
    harness: Harness, poll_seconds: float | None
) -> None:
    root = harness.root
    harness.write("a.txt", "folder/b.txt", "folder/c.txt", "case.txt", "saved.txt")
    (root / "folder" / "up").symlink_to(root)
    config = WatchConfig(settle_seconds=0.3, poll_seconds=poll_seconds)
    async with watching(harness.broker, root, config) as logs:
        await indexed_are(harness, "a.txt", "folder/b.txt", "folder/c.txt", "case.txt", "saved.txt")
        (root / "a.txt").unlink()
        harness.write("a.txt/in.txt")
        (root / "case.txt").rename(root / "Case.txt")
        (root / "saved.txt.tmp").write_text("It was saved by an editor.")
        (root / "saved.txt.tmp").replace(root / "saved.txt")
        await indexed_are(
            harness, "a.txt/in.txt", "folder/b.txt", "folder/c.txt", "Case.txt", "saved.txt"
        )
        # In a folder that is polled, a scan decides about two files that are missing.
        scans = len([entry for entry in logs if entry["event"] == events.WATCH_SCANNED])
        assert scans == 1 or poll_seconds is not None
        await eventually(
            harness.payloads,
            lambda chunks: any("editor" in chunk["page_content"] for chunk in chunks),
        )
        os.truncate(root / "saved.txt", len("It was saved"))
        await eventually(
            harness.payloads,
            lambda chunks: not any("editor" in chunk["page_content"] for chunk in chunks),
        )
        shutil.rmtree(root / "folder")
        harness.write("folder")
        await indexed_are(harness, "a.txt/in.txt", "folder", "Case.txt", "saved.txt")


async def test_what_cannot_be_indexed_is_reported_until_it_can(harness: Harness) -> None:
    root = harness.root
    long = "\N{HANGUL SYLLABLE HAN}" * 83 + ".txt"  # its sidecar's name would be too long
    deep = "/".join(["x" * 200] * 5) + "/a.txt"  # its id is too long
    harness.write(long, deep, "bad.txt")
    (root / "bad.txt.meta.json").write_text("{")
    os.mkfifo(root / "pipe")
    expected = {
        str(root / deep): "doc_id",
        str(root / "bad.txt"): "bad.txt.meta.json is not valid metadata",
        str(root / "pipe"): "neither a file nor a folder",
    }
    async with watching(harness.broker, root):
        await indexed_are(harness, long)
        [folder] = await eventually(
            partial(watched_folders, harness), lambda folders: folders[0].skipped == 3
        )
        assert (folder.folder, folder.collection) == (str(root), harness.broker.collection)
        found = {file.doc_id: file.reason for file in folder.skipped_files}
        assert found.keys() == expected.keys()
        for doc_id, words in expected.items():
            assert words in found[doc_id]
        (root / "bad.txt.meta.json").unlink()
        (root / "pipe").unlink()
        await indexed_are(harness, long, "bad.txt")
        [folder] = await eventually(
            partial(watched_folders, harness), lambda folders: folders[0].skipped == 1
        )


async def test_changes_made_while_nobody_watched_are_found(harness: Harness) -> None:
    harness.write("a.txt", "b.txt", "c.txt")
    async with watching(harness.broker, harness.root):
        await indexed_are(harness, "a.txt", "b.txt", "c.txt")
    (harness.root / "a.txt").unlink()
    (harness.root / "b.txt").rename(harness.root / "d.txt")
    async with watching(harness.broker, harness.root):
        await indexed_are(harness, "c.txt", "d.txt")


async def test_a_rescan_finds_changes_without_an_event(harness: Harness) -> None:
    """There is none here because the first poll comes after the test."""
    config = WatchConfig(settle_seconds=0.3, rescan_seconds=1, poll_seconds=3600)
    async with watching(harness.broker, harness.root, config):
        harness.write("a.txt", "b.txt")
        await indexed_are(harness, "a.txt", "b.txt")
        (harness.root / "a.txt").unlink()
        await indexed_are(harness, "b.txt")


async def test_single_files_are_interactive_and_many_are_bulk(
    broker: Broker, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "there.txt").write_text("It was there before.")
    os.utime(folder / "there.txt", (1, 1))
    async with watching(broker, folder):
        claims = {one.job_id.partition("-")[0]: one for one in await take(lease_queue(broker), 2)}
        assert batch_of(claims["ingest"]).lane is Lane.BULK
        (folder / "one.txt").write_text("one")
        await eventually(broker.queue.depth, lambda depth: depth.interactive == 1)
        many = tmp_path / "many"
        many.mkdir()
        for i in range(MAX_INTERACTIVE_DOCUMENTS + 1):
            (many / f"{i}.txt").write_text(str(i))
        many.rename(folder / "many")
        await eventually(broker.queue.depth, lambda depth: depth.bulk > 2)
        assert (await broker.queue.depth()).interactive == 1


async def test_a_missing_folder_deletes_nothing(harness: Harness) -> None:
    harness.write("a.txt", "sub/b.txt")
    elsewhere = harness.root.with_name("elsewhere")

    async def reported() -> WatchedFolderStatus:
        return (await watched_folders(harness))[0]

    async with watching(harness.broker, harness.root) as logs:
        await indexed_are(harness, "a.txt", "sub/b.txt")
        harness.root.rename(elsewhere)
        await logged(logs, events.WATCH_UNAVAILABLE)
        await eventually(reported, lambda folder: "missing" in folder.unavailable)
        harness.root.mkdir()  # like the mount point of an unmounted file system
        await asyncio.sleep(2 * RETRY_SECONDS)
        assert events.WATCH_AVAILABLE not in [entry["event"] for entry in logs]
        harness.root.rmdir()
        (elsewhere / "a.txt").unlink()
        elsewhere.rename(harness.root)
        await logged(logs, events.WATCH_AVAILABLE)
        await eventually(reported, lambda folder: not folder.unavailable)
        harness.write("c.txt")
        await indexed_are(harness, "sub/b.txt", "c.txt")
        deleted = [entry["deletions"] for entry in logs if entry["event"] == events.WATCH_QUEUED]
        assert sum(deleted) == 0, "only the scan deleted"


async def test_a_scan_while_the_folder_is_being_removed_deletes_nothing(harness: Harness) -> None:
    harness.write("a.txt", "b.txt")
    async with watching(harness.broker, harness.root):
        await indexed_are(harness, "a.txt", "b.txt")
    (harness.root / "a.txt").unlink()  # "rm -r" begins
    harness.write("c.txt")
    os.utime(harness.root / "c.txt", (1, 1))
    long = WatchConfig(settle_seconds=60)
    async with watching(harness.broker, harness.root, long, until=events.WATCH_STARTED) as logs:
        await indexed_are(harness, "a.txt", "b.txt", "c.txt")  # it was scanned
        harness.root.rename(harness.root.with_name("elsewhere"))
        await logged(logs, events.WATCH_UNAVAILABLE)
    await eventually(harness.broker.queue.depth, lambda depth: depth.ready + depth.in_flight == 0)
    await indexed_are(harness, "a.txt", "b.txt", "c.txt")


async def test_a_mass_deletion_needs_permission(harness: Harness) -> None:
    names = [f"{i}.txt" for i in range(MAX_EVENT_DELETIONS + 3)]
    harness.write(*names)
    async with watching(harness.broker, harness.root, WatchConfig(settle_seconds=2.0)) as logs:
        await indexed_are(harness, *names)
        for name in names[2:]:
            (harness.root / name).unlink()
        refused = await logged(logs, events.WATCH_HELD_BACK)
        assert "--allow-mass-delete" in refused["reason"]
        assert await harness.dead_letters() == {str(harness.root): refused["reason"]}
        await indexed_are(harness, *names)
    allowed = WatchConfig(settle_seconds=0.3, allow_mass_delete=True)
    async with watching(harness.broker, harness.root, allowed):
        await indexed_are(harness, *names[:2])
        assert await eventually(harness.dead_letters, lambda dead_letters: not dead_letters) == {}


@pytest.mark.parametrize("poll_seconds", [None, 0.2])
async def test_files_that_vanish_together_are_held_back_if_the_folder_is_polled(
    harness: Harness, poll_seconds: float | None
) -> None:
    """There, files that are out of sight look like deleted ones. Events tell of deleted ones."""
    harness.write("a.txt", "b.txt")
    config = WatchConfig(settle_seconds=2.0, poll_seconds=poll_seconds)
    async with watching(harness.broker, harness.root, config) as logs:
        await indexed_are(harness, "a.txt", "b.txt")
        (harness.root / "a.txt").unlink()
        (harness.root / "b.txt").unlink()
        if poll_seconds is None:
            await indexed_are(harness)
        else:
            await logged(logs, events.WATCH_HELD_BACK)
            await indexed_are(harness, "a.txt", "b.txt")


async def test_documents_have_the_name_tenant_and_metadata_of_the_folder(
    broker: Broker, tmp_path: Path
) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("a.md", "b.txt", "sub/c.md", "draft.md"):
        (tmp_path / name).write_text(name)
        os.utime(tmp_path / name, (1, 1))
    (tmp_path / "a.md.meta.json").write_text('{"year": 2024, "kind": "note"}')
    folder = WatchedFolder(
        tmp_path,
        name="notes",
        tenant="island",
        include=("*.md",),
        exclude=("draft.*",),
        metadata={"kind": "file", "shelf": 7},
    )
    async with watching(broker, folder):
        claims = await take(lease_queue(broker), 2)
    [ingest] = [one for one in claims if one.job_id.startswith("ingest")]
    documents = {document.doc_id: document for document in batch_of(ingest).documents}
    assert documents.keys() == {"notes/a.md", "notes/sub/c.md"}
    assert documents["notes/a.md"].metadata == {"year": 2024, "kind": "note", "shelf": 7}
    assert documents["notes/sub/c.md"].metadata == {"kind": "file", "shelf": 7}
    assert {document.tenant for document in documents.values()} == {"island"}


async def test_a_change_of_a_sidecar_changes_the_metadata(harness: Harness) -> None:
    harness.write("a.txt")
    sidecar = harness.root / "a.txt.meta.json"
    sidecar.write_text('{"year": 2023')

    async def years() -> list[object]:
        return [payload["metadata"].get("year") for payload in await harness.payloads()]

    async with watching(harness.broker, harness.root) as logs:
        skipped = await logged(logs, events.WATCH_SKIPPED)
        assert skipped["path"] == str(harness.root / "a.txt")
        assert "a.txt.meta.json is not valid metadata" in skipped["reason"]
        sidecar.write_text('{"year": 2024}')
        await eventually(years, lambda years: years == [2024])
        sidecar.write_text('{"year": 2025}')
        await eventually(years, lambda years: years == [2025])
        sidecar.unlink()
        await eventually(years, lambda years: years == [None])


async def test_the_folder_may_be_a_symbolic_link(broker: Broker, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    link = tmp_path / "link"
    link.symlink_to("real")
    async with watching(broker, link):
        await take(lease_queue(broker))  # the sweep
        (link / "a.txt").write_text("a")
        await eventually(broker.queue.depth, lambda depth: depth.interactive == 1)
        [claimed] = await take(lease_queue(broker))
        [document] = batch_of(claimed).documents
        assert (document.doc_id, document.within) == (str(link / "a.txt"), str(link))


@pytest.mark.parametrize(
    "change", ["rm a.bin", "rm a.bin && mkdir a.bin", "rm a.bin && ln -s nowhere a.bin"]
)
async def test_dead_letters_of_what_is_no_document_any_more_are_purged(
    harness: Harness, change: str
) -> None:
    config = WatchConfig(settle_seconds=0.3, rescan_seconds=1)
    (harness.root / "a.bin").write_bytes(bytes(100))
    (harness.root / "b.bin").write_bytes(bytes(100))
    async with watching(harness.broker, harness.root, config):
        await eventually(harness.dead_letters, lambda dead_letters: len(dead_letters) == 2)
    run_in_shell(harness.root, change)
    async with watching(harness.broker, harness.root, config):
        dead_letters = await eventually(
            harness.dead_letters, lambda dead_letters: len(dead_letters) == 1
        )
        assert dead_letters.keys() == {str(harness.root / "b.bin")}


async def test_files_are_queued_once_redis_is_back(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    async with unsupervised_redis(tmp_path / "redis") as url:
        config = BrokerConfig(url)
        async with connected(config) as redis:
            broker = Broker(redis, config)
            async with watching(broker, folder) as logs:
                await crash(redis)
                (folder / "a.txt").write_text("Written while Redis was away.")
                await logged(logs, events.SERVICE_UNAVAILABLE)
                async with embedded_redis(tmp_path / "redis"):
                    await eventually(broker.queue.depth, lambda depth: depth.interactive == 1)


async def test_files_are_queued_once_the_queue_has_space(broker: Broker, tmp_path: Path) -> None:
    small = Broker(broker.redis, BrokerConfig(broker.config.url, max_queue_jobs=2))
    async with watching(small, tmp_path):  # its sweep takes one of the two places
        for i in range(3):
            (tmp_path / f"{i}.txt").write_text("x")
            await eventually(broker.queue.depth, lambda depth: depth.ready == 2)
        seen: set[str] = set()

        async def work() -> set[str]:
            for claimed in await take(leases, 2):
                if claimed.job_id.startswith("ingest"):
                    seen.update(document.doc_id for document in batch_of(claimed).documents)
                await finish(leases, claimed, BatchReport())
            return seen

        leases = lease_queue(broker)
        every = {str(tmp_path / f"{i}.txt") for i in range(3)}
        await eventually(work, lambda seen: seen == every)


@pytest.fixture
def limited() -> Callable[[str, int], list[str]]:
    """Return a function that wraps a command in an inotify limit of its own; skip if impossible."""
    unshare = shutil.which("unshare")
    works = unshare and subprocess.run(
        [unshare, "-Ur", "sh", "-c", "echo 9 > /proc/sys/user/max_inotify_watches"],
        capture_output=True,
        check=False,
    )
    if not works or works.returncode:
        pytest.skip("user namespaces are not allowed on this system")

    def command(limit: str, value: int) -> list[str]:
        script = f'echo {value} > /proc/sys/user/{limit} && exec "$@"'
        return [str(unshare), "-Ur", "sh", "-c", script, "sh"]

    return command


@pytest.mark.parametrize("limit", ["max_inotify_watches", "max_inotify_instances"])
def test_a_folder_is_polled_when_the_inotify_limit_is_reached(
    ingestq: Ingestq, limited: Callable[[str, int], list[str]], limit: str
) -> None:
    (ingestq.folder / "in" / "sub").mkdir(parents=True)
    (ingestq.folder / "in" / "sub" / "a.txt").write_text("a")
    value = 1 if limit == "max_inotify_watches" else 0
    with subprocess.Popen(
        [*limited(limit, value), *ingestq.command("drop", "in")],
        cwd=ingestq.folder,
        env=ingestq.environment(),
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        try:
            log = ""
            while events.WATCH_SCANNED not in log:
                line = process.stderr.readline()
                assert line, log
                log += line
            process.terminate()
            log += process.communicate(timeout=60)[1]
        finally:
            process.kill()
    assert process.returncode == 0, log
    assert events.WATCH_POLLING in log
    assert "sysctl fs.inotify.max_user_watches=524288" in log


@pytest.mark.parametrize(
    ("arguments", "toml", "message"),
    [
        ((), "", "pass a DIR, or add a [[drop]] table"),
        (("nowhere",), "", "nowhere cannot be watched: there is no such folder"),
        (("in", "in/sub"), "", "cannot both be watched"),
        ((), '[[drop]]\npath = "in"\nsuorce = "x"', "there is no setting 'drop.0.suorce'"),
    ],
)
def test_a_folder_that_cannot_be_watched_is_a_usage_error(
    ingestq: Ingestq, arguments: tuple[str, ...], toml: str, message: str
) -> None:
    (ingestq.folder / "in" / "sub").mkdir(parents=True)
    (ingestq.folder / "ingestq.toml").write_text(toml)
    ingestq("drop", *arguments).failed_with(2, message)


async def found(served: Running, query: str) -> list[str]:
    async with httpx.AsyncClient(base_url=served.url, timeout=60) as client:
        answer = await client.get("/search", params={"q": query, "limit": "9"})
    assert answer.status_code == 200, answer.text
    return [hit["text"] for hit in answer.json()["hits"]]


@pytest.mark.slow
async def test_up_indexes_and_searches_a_watched_folder(ingestq: Ingestq) -> None:
    """With the bundled Qdrant, which is written and searched at the same time."""
    (ingestq.folder / "in").mkdir()
    note = ingestq.folder / "in" / "note.txt"
    with serving(ingestq, "up", "--drop", "in", drop_settle_seconds="0.3") as served:
        assert await found(served, "birds") == []
        note.write_text("The lighthouse keeper owns two parrots.")
        await eventually(lambda: found(served, "birds"), lambda texts: texts == [note.read_text()])
        note.write_text("The boat to the mainland leaves at noon.")
        await eventually(lambda: found(served, "birds"), lambda texts: texts == [note.read_text()])
        note.unlink()
        await eventually(lambda: found(served, "birds"), lambda texts: texts == [])
        os.mkfifo(note)

        async def status_text() -> str:
            return (await asyncio.to_thread(ingestq, "status")).out

        line = f"skipped     {note}: neither a file nor a folder"
        shown = await eventually(status_text, lambda out: line in " ".join(out.split("\n")))
        assert f"watched     {note.parent} on {socket.gethostname()}: 1 skipped" in shown
        served.tell(signal.SIGTERM)
        served.ends(0)
    status = json.loads(ingestq("status", "--json").out)
    assert (status["workers"], status["queue"]["in_flight"]) == ([], 0)
    assert status["watched_folders"] == []
    assert "watch.stopped" in served.said()
    assert "worker.stopped" in served.said()


async def test_up_ends_if_one_of_its_parts_fails(ingestq: Ingestq) -> None:
    ingestq.settings["redis_url"] = "redis://127.0.0.1:1"
    ran = await ingestq.ended("up")
    ran.failed_with(3, "Redis does not answer")
    assert not re.search("worker.started|watch.started", ran.err)
