"""A folder that is watched: the index becomes equal to it, whatever happens to it."""

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from ingestq.app.composition import Broker
from ingestq.broker.connection import BrokerConfig, connected
from ingestq.core import events
from ingestq.core.documents import Lane
from ingestq.core.results import BatchReport
from ingestq.embedded.redis import embedded_redis
from producers.watch.decisions import FEW_DELETIONS
from producers.watch.folder import WatchedFolder
from producers.watch.watched_folder import FEW_DOCUMENTS, RETRY_SECONDS, FolderWatch, WatchConfig
from tests.claims import batch_of, finish, lease_queue, take
from tests.command import Ingestq
from tests.harness import Harness
from tests.integration.test_api import Serving, serving
from tests.waiting import crash, eventually

Logs = Sequence[Mapping[str, Any]]

QUICK = WatchConfig(settle_seconds=0.3)


@asynccontextmanager
async def dropping(
    broker: Broker, folder: WatchedFolder | Path, config: WatchConfig = QUICK
) -> AsyncIterator[Logs]:
    """The folder is watched, and was scanned once; what is logged about it."""
    watched = WatchedFolder(folder) if isinstance(folder, Path) else folder
    watched = replace(watched, collection=broker.collection)
    drop = FolderWatch(watched, config, broker.client, broker.dead_letters)
    with capture_logs() as logs:
        running = asyncio.create_task(drop.run())
        try:
            await told(logs, events.DROP_SCANNED)
            yield logs
        finally:
            drop.stop()
            await asyncio.wait_for(running, 10)


async def told(logs: Logs, event: str) -> Mapping[str, Any]:
    """The first entry about ``event``, when there is one."""

    async def found() -> Logs:
        return [entry for entry in logs if entry["event"] == event]

    return (await eventually(found))[0]


async def become(harness: Harness, *names: str) -> None:
    """The index holds these files in the end, and nothing else."""
    wanted = [str(harness.root / name) for name in sorted(names)]

    async def ids() -> list[str]:
        return sorted(payload["doc_id"] for payload in await harness.payloads())

    await eventually(ids, lambda ids: ids == wanted)


@pytest.mark.parametrize("poll_seconds", [None, 0.2])
async def test_whatever_happens_in_the_folder_is_followed(
    harness: Harness, poll_seconds: float | None
) -> None:
    config = WatchConfig(settle_seconds=0.3, poll_seconds=poll_seconds)
    harness.write("old.txt", "sub/old.txt")
    async with dropping(harness.broker, harness.root, config):
        await become(harness, "old.txt", "sub/old.txt")
        harness.write("new.txt", "deep/er/new.txt", "upload.txt.part")
        await become(harness, "old.txt", "sub/old.txt", "new.txt", "deep/er/new.txt")
        (harness.root / "upload.txt.part").rename(harness.root / "upload.txt")
        (harness.root / "old.txt").unlink()
        (harness.root / "sub").rename(harness.root / "moved")
        await become(harness, "upload.txt", "moved/old.txt", "new.txt", "deep/er/new.txt")
        (harness.root / "new.txt").write_text("It says something else now.")
        await eventually(
            harness.payloads,
            lambda chunks: any("else" in chunk["page_content"] for chunk in chunks),
        )
        shutil.rmtree(harness.root / "deep")
        (harness.root / "moved" / "old.txt").rename(harness.root / "new.txt")
        await become(harness, "upload.txt", "new.txt")
    assert await harness.dead_letters() == {}


async def test_what_changed_while_nobody_watched_is_found(harness: Harness) -> None:
    harness.write("a.txt", "b.txt", "c.txt")
    async with dropping(harness.broker, harness.root):
        await become(harness, "a.txt", "b.txt", "c.txt")
    (harness.root / "a.txt").unlink()
    (harness.root / "b.txt").rename(harness.root / "d.txt")
    async with dropping(harness.broker, harness.root):
        await become(harness, "c.txt", "d.txt")


async def test_what_no_event_told_of_is_found_by_a_rescan(harness: Harness) -> None:
    """Here, because nothing is polled before the test is over."""
    config = WatchConfig(settle_seconds=0.3, rescan_seconds=1, poll_seconds=3600)
    async with dropping(harness.broker, harness.root, config):
        harness.write("a.txt")
        await become(harness, "a.txt")
        (harness.root / "a.txt").unlink()
        await become(harness)


async def test_somebody_waits_for_single_files_but_not_for_many(
    broker: Broker, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "there.txt").write_text("It was there before.")
    os.utime(folder / "there.txt", (1, 1))
    async with dropping(broker, folder):
        claims = {one.job_id.partition("-")[0]: one for one in await take(lease_queue(broker), 2)}
        assert batch_of(claims["ingest"]).lane is Lane.BULK
        (folder / "one.txt").write_text("one")
        await eventually(broker.queue.depth, lambda depth: depth.interactive == 1)
        many = tmp_path / "many"
        many.mkdir()
        for i in range(FEW_DOCUMENTS + 1):
            (many / f"{i}.txt").write_text(str(i))
        many.rename(folder / "many")
        await eventually(broker.queue.depth, lambda depth: depth.bulk > 2)
        assert (await broker.queue.depth()).interactive == 1


async def test_a_folder_that_goes_away_loses_nothing(harness: Harness) -> None:
    harness.write("a.txt", "sub/b.txt")
    elsewhere = harness.root.with_name("elsewhere")
    async with dropping(harness.broker, harness.root) as logs:
        await become(harness, "a.txt", "sub/b.txt")
        harness.root.rename(elsewhere)
        await told(logs, events.DROP_AWAY)
        harness.root.mkdir()  # as the mount point of a folder that is not mounted
        await asyncio.sleep(2 * RETRY_SECONDS)
        assert events.DROP_BACK not in [entry["event"] for entry in logs]
        harness.root.rmdir()
        (elsewhere / "a.txt").unlink()
        elsewhere.rename(harness.root)
        await told(logs, events.DROP_BACK)
        harness.write("c.txt")
        await become(harness, "sub/b.txt", "c.txt")
        deleted = [entry["deletions"] for entry in logs if entry["event"] == events.DROP_QUEUED]
        assert sum(deleted) == 0, "what was gone was found by the scan"


async def test_that_most_of_a_folder_is_gone_needs_permission(harness: Harness) -> None:
    names = [f"{i}.txt" for i in range(FEW_DELETIONS + 3)]
    harness.write(*names)
    async with dropping(harness.broker, harness.root) as logs:
        await become(harness, *names)
        for name in names[2:]:
            (harness.root / name).unlink()
        refused = await told(logs, events.DROP_REFUSED)
        assert "--allow-mass-delete" in refused["reason"]
        assert await harness.dead_letters() == {str(harness.root): refused["reason"]}
        await become(harness, *names)
    allowed = WatchConfig(settle_seconds=0.3, allow_mass_delete=True)
    async with dropping(harness.broker, harness.root, allowed):
        await become(harness, *names[:2])
        assert await eventually(harness.dead_letters, lambda dead_letters: not dead_letters) == {}


async def test_documents_are_as_the_folder_is_described(broker: Broker, tmp_path: Path) -> None:
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
    async with dropping(broker, folder):
        claims = await take(lease_queue(broker), 2)
    [ingest] = [one for one in claims if one.job_id.startswith("ingest")]
    documents = {document.doc_id: document for document in batch_of(ingest).documents}
    assert documents.keys() == {"notes/a.md", "notes/sub/c.md"}
    assert documents["notes/a.md"].metadata == {"year": 2024, "kind": "note", "shelf": 7}
    assert documents["notes/sub/c.md"].metadata == {"kind": "file", "shelf": 7}
    assert {document.tenant for document in documents.values()} == {"island"}


async def test_metadata_beside_a_file_follows_too(harness: Harness) -> None:
    harness.write("a.txt")
    sidecar = harness.root / "a.txt.meta.json"
    sidecar.write_text('{"year": 2023')

    async def years() -> list[object]:
        return [payload["metadata"].get("year") for payload in await harness.payloads()]

    async with dropping(harness.broker, harness.root) as logs:
        left_out = await told(logs, events.DROP_LEFT_OUT)
        assert left_out["path"] == str(harness.root / "a.txt")
        assert "a.txt.meta.json is not metadata" in left_out["reason"]
        sidecar.write_text('{"year": 2024}')
        await eventually(years, lambda years: years == [2024])
        sidecar.write_text('{"year": 2025}')
        await eventually(years, lambda years: years == [2025])
        sidecar.unlink()
        await eventually(years, lambda years: years == [None])


async def test_the_folder_may_be_a_link(broker: Broker, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    link = tmp_path / "link"
    link.symlink_to("real")
    async with dropping(broker, link):
        await take(lease_queue(broker))  # the sweep
        (link / "a.txt").write_text("a")
        await eventually(broker.queue.depth, lambda depth: depth.interactive == 1)
        [claimed] = await take(lease_queue(broker))
        assert batch_of(claimed).documents[0].doc_id == str(link / "a.txt")


async def test_nobody_has_to_look_at_failures_of_files_that_are_gone(harness: Harness) -> None:
    config = WatchConfig(settle_seconds=0.3, rescan_seconds=1)
    (harness.root / "a.bin").write_bytes(bytes(100))
    (harness.root / "b.bin").write_bytes(bytes(100))
    async with dropping(harness.broker, harness.root, config):
        await eventually(harness.dead_letters, lambda dead_letters: len(dead_letters) == 2)
    (harness.root / "a.bin").unlink()
    async with dropping(harness.broker, harness.root, config):
        dead_letters = await eventually(
            harness.dead_letters, lambda dead_letters: len(dead_letters) == 1
        )
        assert dead_letters.keys() == {str(harness.root / "b.bin")}


async def test_files_wait_while_redis_is_away(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    async with embedded_redis(tmp_path / "redis") as url:
        config = BrokerConfig(url)
        async with connected(config) as redis:
            broker = Broker(redis, config)
            async with dropping(broker, folder) as logs:
                await crash(redis)
                (folder / "a.txt").write_text("It was dropped while Redis was away.")
                await told(logs, events.SERVICE_AWAY)
                async with embedded_redis(tmp_path / "redis"):
                    await eventually(broker.queue.depth, lambda depth: depth.interactive == 1)


async def test_files_wait_while_the_queue_is_full(broker: Broker, tmp_path: Path) -> None:
    small = Broker(broker.redis, BrokerConfig(broker.config.url, max_queue_jobs=2))
    async with dropping(small, tmp_path):  # its sweep has taken a place
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
    """Runs a command under a limit of inotify of its own; skipped where that is not possible."""
    unshare = shutil.which("unshare")
    works = unshare and subprocess.run(
        [unshare, "-Ur", "sh", "-c", "echo 9 > /proc/sys/user/max_inotify_watches"],
        capture_output=True,
        check=False,
    )
    if not works or works.returncode:
        pytest.skip("this system lets nobody have user namespaces")

    def command(limit: str, value: int) -> list[str]:
        script = f'echo {value} > /proc/sys/user/{limit} && exec "$@"'
        return [str(unshare), "-Ur", "sh", "-c", script, "sh"]

    return command


@pytest.mark.parametrize("limit", ["max_inotify_watches", "max_inotify_instances"])
def test_a_folder_is_polled_where_the_system_cannot_watch_it(
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
            while events.DROP_SCANNED not in log:
                line = process.stderr.readline()
                assert line, log
                log += line
            process.terminate()
            log += process.communicate(timeout=60)[1]
        finally:
            process.kill()
    assert process.returncode == 0, log
    assert events.DROP_POLLING in log
    assert "sysctl fs.inotify.max_user_watches=524288" in log


@pytest.mark.parametrize(
    ("arguments", "toml", "said"),
    [
        ((), "", "pass a DIR, or add a [[drop]] table"),
        (("nowhere",), "", "nowhere cannot be watched: there is no such folder"),
        (("in", "in/sub"), "", "cannot both be watched"),
        ((), '[[drop]]\npath = "in"\nsuorce = "x"', "there is no setting 'drop.0.suorce'"),
    ],
)
def test_a_folder_that_cannot_be_watched(
    ingestq: Ingestq, arguments: tuple[str, ...], toml: str, said: str
) -> None:
    (ingestq.folder / "in" / "sub").mkdir(parents=True)
    (ingestq.folder / "ingestq.toml").write_text(toml)
    ingestq("drop", *arguments).failed_with(2, said)


async def found(served: Serving, question: str) -> list[str]:
    async with httpx.AsyncClient(base_url=served.url, timeout=60) as client:
        answer = await client.get("/search", params={"q": question, "limit": "9"})
    assert answer.status_code == 200, answer.text
    return [hit["text"] for hit in answer.json()["hits"]]


async def test_everything_in_one_process(ingestq: Ingestq) -> None:
    """With the local Qdrant: it is written and searched at the same time."""
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
        served.tell(signal.SIGTERM)
        served.ends_well()
    status = json.loads(ingestq("status", "--json").out)
    assert (status["workers"], status["queue"]["in_flight"]) == ([], 0)
    assert "drop.stopped" in served.log
    assert "worker.stopped" in served.log


async def test_if_a_part_cannot_go_on_everything_ends(ingestq: Ingestq) -> None:
    ingestq.settings["redis_url"] = "redis://127.0.0.1:1"
    ran = await ingestq.ended("up")
    ran.failed_with(3, "Redis does not answer")
    assert not re.search("worker.started|drop.started", ran.err)
