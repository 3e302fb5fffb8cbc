"""Nothing in a folder leads a walk, a watch or a move out of it, or keeps it busy for ever."""

import itertools
import json
import os
import shutil
import socket
import tempfile
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestq.app.composition import Broker
from ingestq.app.ingestion import Ingestion
from ingestq.app.schedule_entries import scheduled_entries
from ingestq.app.settings import Settings, load_settings
from ingestq.app.settings_tables import ScheduleTable
from ingestq.app.sources import off_limits_of
from ingestq.broker.connection import BrokerConfig, connected
from ingestq.broker.queue.job_queue import JobQueue
from ingestq.core import events
from ingestq.core.display import NoDisplay
from ingestq.core.documents import Document
from ingestq.core.errors import UsageError
from ingestq.core.jobs import IngestBatch
from ingestq.core.results import FailedDocument
from ingestq.embedded.redis import embedded_redis
from producers.files.off_limits import OffLimits
from producers.files.walk import FailedEntry, FoundFile, Root, ScanRecord, _inline, walk
from producers.watch.classifier import FileClassifier
from producers.watch.filing import QueuedFile, move
from producers.watch.folder import Presence, WatchedFolder, read_sidecar
from producers.watch.folder_watch import WatchConfig
from producers.watch.moves import MAX_EVENT_DELETIONS
from producers.watch.settling import FileState, SettledChange
from tests.command import SECONDS, Ingestq
from tests.harness import Harness
from tests.integration.test_hot_folder import INDEXED, holds, hot, queued, tree, work
from tests.integration.test_watch import logged, watching
from tests.running_command import serving
from tests.waiting import eventually
from tests.workers import all_indexed, working
from worker.pipeline.ingest import Outcome

OFTEN = WatchConfig(settle_seconds=0.3, rescan_seconds=1)
SWAPPED_MOVES = 200
"""Without descriptors, a few dozen moves are enough for one that goes astray."""


async def clock() -> int:
    return 1


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("place", ["done", "failed"])
async def test_a_hot_folder_waits_while_its_places_are_links(
    harness: Harness, outside: Path, place: str
) -> None:
    (harness.root / place).symlink_to(outside)
    harness.write("a.txt")
    (harness.root / "bad.txt").write_bytes(b"\0\1\2")
    async with watching(
        harness.broker, hot(harness.root), OFTEN, until=events.HOT_FOLDER_BLOCKED
    ) as logs:
        blocked = await logged(logs, events.HOT_FOLDER_BLOCKED)
        assert blocked["reason"] == f"{place} is a symbolic link; put a folder in its place"
        assert set(tree(harness.root)) == {"a.txt", "bad.txt"}
        (harness.root / place).unlink()
        await holds(harness.root, "done/a.txt", "failed/bad.txt", "failed/bad.txt.error.txt")
    assert os.listdir(outside) == []


async def test_a_place_that_becomes_a_link_while_files_are_queued_receives_none(
    broker: Broker, root: Path, outside: Path
) -> None:
    async with watching(broker, hot(root), OFTEN) as logs:
        (root / "a.txt").write_text("text")
        await queued(broker)
        (root / "done").symlink_to(outside)
        await work(broker, INDEXED)
        await logged(logs, events.HOT_FOLDER_BLOCKED)
        skipped = await logged(logs, events.WATCH_SKIPPED)
        assert "done is a symbolic link" in skipped["reason"]
        assert tree(root) == {"a.txt": "text"}
        (root / "done").unlink()
        await queued(broker)  # by the scan after that
        await work(broker, INDEXED)
        await holds(root, "done/a.txt")
    assert os.listdir(outside) == []


@pytest.mark.slow
@pytest.mark.parametrize("swapped", ["done", "done/sub", "sub"])
def test_folders_that_are_swapped_for_links_lead_no_file_out(
    root: Path, outside: Path, swapped: str
) -> None:
    """While a thread swaps a folder for a link again and again."""
    (root / "done" / "sub").mkdir(parents=True)
    (root / "sub").mkdir()
    for path in (outside / "a.txt", outside / "sub" / "a.txt"):
        path.parent.mkdir(exist_ok=True)
        path.write_text("of somebody else")
    before = tree(outside)
    ending = threading.Event()

    def swap() -> None:
        for number in itertools.count():
            if ending.is_set():
                return
            aside = root / f"aside-{number}"
            with suppress(FileExistsError):  # a move has made a new folder meanwhile
                (root / swapped).rename(aside)
                (root / swapped).symlink_to(outside)
                (root / swapped).unlink()
            with suppress(OSError):  # there is one, and it is not empty
                aside.rename(root / swapped)

    path = root / "sub" / "a.txt"
    document = Document(doc_id=str(path), version=1, source="s", path=str(path))
    queued_file = QueuedFile(path, FileState(0, 0, 0), document)
    sub = os.open(root / "sub", os.O_RDONLY)  # the folder itself, also while it is aside
    swapping = threading.Thread(target=swap)
    swapping.start()
    try:
        for number in range(SWAPPED_MOVES):
            made = os.open("a.txt", os.O_CREAT | os.O_EXCL | os.O_WRONLY, dir_fd=sub)
            os.write(made, f"content {number}".encode())
            os.close(made)
            while "a.txt" in os.listdir(sub):
                with suppress(OSError):
                    move(queued_file, WatchedFolder(root, hot=True), None)
    finally:
        ending.set()
        swapping.join()
        os.close(sub)
    assert tree(outside) == before
    wanted = sorted(f"content {number}" for number in range(SWAPPED_MOVES))
    assert sorted(tree(root).values()) == wanted


def with_own_files(folder: Path) -> None:
    """Write a note, and what looks like notes of ingestq's own."""
    (folder / "a.txt").write_text("A note.")
    for own in ("state/redis", "cache", "blobs"):
        (folder / own).mkdir(parents=True)
        (folder / own / "own.txt").write_text("An own file.")
    (folder / "link").symlink_to("state", target_is_directory=True)
    (folder / "deep").mkdir()
    (folder / "deep" / "link").symlink_to("../state/redis", target_is_directory=True)
    (folder / "deep" / "link.txt").symlink_to("../blobs/own.txt")


OWN = {"data_dir": "state", "cache_dir": "cache", "blob_url": "blobs"}


@pytest.fixture
def own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    with_own_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    for name, value in OWN.items():
        monkeypatch.setenv(f"INGESTQ_{name.upper()}", value)
    return load_settings()


@pytest.mark.slow
async def test_commands_do_not_index_their_own_files(ingestq: Ingestq) -> None:
    with_own_files(ingestq.folder)
    ingestq.settings |= OWN | {"cache_dir": os.environ["INGESTQ_CACHE_DIR"]}
    shutil.rmtree(ingestq.folder / "cache")
    for outcome in ("indexed", "unchanged"):
        documents = ingestq("run", ".", "--json").json["documents"]
        assert {kind: n for kind, n in documents.items() if n} == {outcome: 1}
    (ingestq.folder / "b.txt").write_text("Another note.")
    os.utime(ingestq.folder / "b.txt", (1, 1))  # so that the first scan takes it
    with serving(ingestq, "up", "--drop", ".") as served:

        async def scanned() -> list[str]:
            return [line for line in served.said().splitlines() if events.WATCH_SCANNED in line]

        [first, *_] = await eventually(scanned)
        async with (
            embedded_redis(ingestq.folder / "state") as url,
            connected(BrokerConfig(url)) as redis,
        ):
            await eventually(JobQueue(redis, BrokerConfig(url)).is_empty, seconds=SECONDS)
        served.stop()
    assert json.loads(first)["documents"] == 2
    verified = ingestq("verify", ".", "--json").json
    assert (verified["consistent"], verified["documents"], verified["unreadable"]) == (True, 2, 0)


def test_a_folder_is_recognised_however_it_is_reached(own_settings: Settings) -> None:
    own = off_limits_of(own_settings)
    here = Path.cwd()
    root = Root.at(here)
    assert [entry.doc_id for entry in walk(root, off_limits=own)] == [str(here / "a.txt")]
    for inside in ("state", "state/redis/own.txt", "link/redis", "deep/link/own.txt", "blobs"):
        [refused] = walk(Root.at(here / inside), off_limits=own)
        assert isinstance(refused, FailedDocument)
        assert own.holds(here / inside)
        assert own.holds(here / inside / "not" / "there")
    assert not own.holds(here / "a.txt")


@pytest.mark.parametrize("name", ["ingestq-processes-x1", "ingestq-blob-x1"])
def test_temporary_folders_of_our_processes_are_no_documents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for folder in (tmp_path / name, tmp_path / "sub" / name):
        folder.mkdir(parents=True)
        (folder / "a.txt").write_text("text")
    found = [entry.doc_id for entry in walk(Root.at(tmp_path))]
    assert found == [str(tmp_path / "sub" / name / "a.txt")]
    assert OffLimits().holds(tmp_path / name / "a.txt")


async def test_a_scheduled_rescan_leaves_own_files_out(own_settings: Settings) -> None:
    table = ScheduleTable(name="all", cron="0 3 * * *", path=Path())
    [entry] = scheduled_entries(own_settings.model_copy(update={"schedule": (table,)}))
    assert entry.source is not None
    found = [document async for document in entry.source.documents(clock, ScanRecord())]
    assert [document.doc_id for document in found] == [f"{own_settings.data_dir.parent}/a.txt"]


async def test_changes_of_own_files_are_not_noticed(broker: Broker, root: Path) -> None:
    """Otherwise each answer of Redis would be a change to look at, which asks Redis again."""

    async def index(ctx: dict[str, Any], batch: IngestBatch) -> Sequence[Outcome]:
        return all_indexed(batch)

    config = WatchConfig(0.3, off_limits=OffLimits((root / "state",)))
    async with working(broker, index), watching(broker, root, config) as logs:
        (root / "state").mkdir()
        for number in range(MAX_EVENT_DELETIONS + 1):
            (root / "state" / f"{number}.txt").write_text("own")
        (root / "a.txt").write_text("text")
        entry = await logged(logs, events.WATCH_QUEUED)
        for number in range(MAX_EVENT_DELETIONS + 1):  # more would ask for a scan
            (root / "state" / f"{number}.txt").unlink()
        (root / "a.txt").unlink()

        async def deleted() -> int:
            return sum(e["deletions"] for e in logs if e["event"] == events.WATCH_QUEUED)

        await eventually(deleted, bool)
    assert entry["documents"] == 1
    assert await deleted() == 1
    assert len([e for e in logs if e["event"] == events.WATCH_SCANNED]) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["run", ""], "'' names no file or folder"),
        (["add", "  "], "'  ' names no file or folder"),
        (["drop", ""], "'' names no file or folder"),
        (["up", "--drop", ""], "'' names no file or folder"),
        (["verify", ""], "'' names no file or folder"),
        (["run", ".", "--source", ""], "'' is no name"),
        (["run", "/"], "/ cannot be indexed: this is the whole file system"),
        (["add", "//"], "cannot be indexed: this is the whole file system"),
        (["drop", "/.."], "cannot be watched: this is the whole file system"),
        (["verify", "/"], "/ cannot be indexed: this is the whole file system"),
        (["run", "state"], "state cannot be indexed: ingestq keeps its own files there"),
        (["add", "deep/link/own.txt"], "ingestq keeps its own files there"),
        (["drop", "link"], "link cannot be watched: ingestq keeps its own files there"),
        (["up", "--drop", "state/redis"], "ingestq keeps its own files there"),
    ],
)
def test_a_path_that_cannot_be_meant_is_refused(
    ingestq: Ingestq, arguments: list[str], reason: str
) -> None:
    with_own_files(ingestq.folder)
    ingestq.settings |= {"data_dir": "state"}
    ended = ingestq(*arguments)
    assert ended.code == 2, ended.err
    assert reason in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs Linux")
def test_files_of_the_kernel_are_no_documents(tmp_path: Path, ingestq: Ingestq) -> None:
    (tmp_path / "environment.txt").symlink_to("/proc/self/environ")
    (tmp_path / "processes").symlink_to("/proc")
    found = list(walk(Root.at(tmp_path)))
    assert [entry.doc_id for entry in found if isinstance(entry, FailedDocument)] == [
        str(tmp_path / "environment.txt"),
        str(tmp_path / "processes"),
    ]
    ingestq("run", "/proc/self").failed_with(2, "/proc/self cannot be indexed")


@pytest.mark.parametrize(
    "toml",
    [
        'data_dir = ""',
        'cache_dir = " "',
        'blob_url = ""',
        '[[drop]]\npath = ""',
        '[[drop]]\npath = "a\\u0000b"',
        '[[schedule]]\nname = "x"\ncron = "0 3 * * *"\npath = ""',
        '[[schedule]]\nname = "x"\ncron = "0 3 * * *"\njsonl = "\\t"',
        '[[schedule]]\nname = "x"\ncron = "0 3 * * *"\nglob = ""',
    ],
)
def test_a_setting_that_names_no_path_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toml: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("INGESTQ_CACHE_DIR")
    Path("ingestq.toml").write_text(toml, encoding="utf-8")
    with pytest.raises(UsageError, match="names no file or folder"):
        load_settings()


@pytest.mark.timeout(20)
async def test_what_is_no_file_is_never_opened(tmp_path: Path) -> None:
    """Opening a FIFO would wait for somebody who writes to it."""
    os.mkfifo(tmp_path / "fifo.txt")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket.txt"))
    found = {entry.doc_id: entry for entry in walk(Root.at(tmp_path))}
    assert found.keys() == {str(tmp_path / name) for name in ("fifo.txt", "socket.txt")}
    for entry in found.values():
        assert isinstance(entry, FailedEntry)
        assert entry.reason == "neither a file nor a folder"
    note = tmp_path / "note.txt"
    note.write_text("text")
    [observed] = [entry for entry in walk(Root.at(note)) if isinstance(entry, FoundFile)]
    note.unlink()
    os.mkfifo(note)  # between the walk and the read
    failed = await _inline(observed, version=1)
    assert isinstance(failed, FailedDocument)
    for kind in ("fifo", "link"):
        sidecar = tmp_path / f"{kind}.meta.json"
        os.mkfifo(sidecar) if kind == "fifo" else sidecar.symlink_to(tmp_path / "secrets.json")
        with pytest.raises(ValueError, match="not a regular file"):
            read_sidecar(tmp_path / kind)


@given(st.sets(st.integers(0, 99)), st.integers(1, 9))
def test_large_folders_are_sorted_in_parts(numbers: set[int], part: int) -> None:
    with TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr("producers.files.walk.SORTED_NAMES", part)
        for number in numbers:
            (Path(name) / str(number)).touch()
        found = [Path(entry.doc_id).name for entry in walk(Root.at(Path(name)))]
    assert sorted(found) == sorted(map(str, numbers))
    assert all(sorted(found[i : i + part]) == found[i : i + part] for i in range(0, 99, part))


async def test_unreadable_files_without_end_are_counted_and_not_kept(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ingestq.app.ingestion.LISTED", 3)

    async def found() -> AsyncIterator[FailedDocument]:
        for number in range(10):
            yield FailedDocument(f"fifo-{number}", "neither a file nor a folder")

    ingestion = Ingestion(broker.client, NoDisplay())
    await ingestion.produce(found(), list)
    summary = await ingestion.summary("documents")
    assert (summary.documents.rejected, len(summary.failed)) == (10, 3)


async def test_a_folder_with_too_many_files_to_poll_is_left_to_scans(
    broker: Broker, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("producers.watch.classifier.MAX_POLLED_FILES", 3)
    config = WatchConfig(settle_seconds=0.3, rescan_seconds=1, poll_seconds=0.1)
    for number in range(5):
        (root / f"{number}.txt").write_text("text")
    async with watching(broker, hot(root), config) as logs:
        polling = await logged(logs, events.WATCH_POLLING)
        assert "changes are found by scans" in polling["reason"]
        (root / "new.txt").write_text("text")

        async def queued_files() -> int:
            queueing = (events.WATCH_SCANNED, events.WATCH_QUEUED)
            return sum(entry["documents"] for entry in logs if entry["event"] in queueing)

        await eventually(queued_files, lambda n: n == 6)


async def test_more_folders_than_are_remembered_cause_a_scan_when_they_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("producers.watch.classifier.MAX_FOLDERS", 2)
    for number in range(5):
        (tmp_path / f"{number}").mkdir()
    classifier = FileClassifier(WatchedFolder(tmp_path), Presence(tmp_path), settle_seconds=0)
    async for _ in classifier.scan(clock, ScanRecord()):
        pass
    for number in range(5):
        (tmp_path / f"{number}").rmdir()
        assert classifier.classify({tmp_path / f"{number}": SettledChange()}, 1).needs_scan


@pytest.fixture
def odd(root: Path) -> Path:
    """A folder in ``root`` whose name is not valid UTF-8, and others beside and in it."""
    folder = root / os.fsdecode(b"\xff")
    folder.mkdir()
    os.mkfifo(folder / "fifo.txt")
    (root / f"{folder.name}-link.txt").symlink_to("/etc/passwd")
    return folder


async def test_names_that_are_not_utf8_stop_no_watch(broker: Broker, root: Path, odd: Path) -> None:
    for path in (odd / "a.txt", root / "b.txt"):
        path.write_text("text")
        os.utime(path, (1, 1))  # so that the first scan takes it
    config = WatchConfig(settle_seconds=0.3, rescan_seconds=3600)
    async with watching(broker, hot(root), config) as logs:
        assert (await logged(logs, events.WATCH_SCANNED))["documents"] == 2
        assert "is not valid UTF-8" in (await logged(logs, events.WATCH_POLLING))["reason"]
        (odd / "new.txt").write_text("text")
        assert (await logged(logs, events.WATCH_QUEUED))["documents"] == 1
