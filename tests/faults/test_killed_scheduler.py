"""A scheduler or Redis is killed during a run: the run is begun again, or goes on."""

import asyncio
import signal
import subprocess
from pathlib import Path
from typing import Any, cast

import pytest

from ingestq.app.schedule_actions import Rescan
from ingestq.broker import keys
from ingestq.broker.connection import BrokerConfig, awaited, connected
from ingestq.broker.queue.job_queue import JobQueue
from ingestq.broker.queue.leases import LeaseQueue
from ingestq.broker.schedule.runs import RunClaim, RunOutcome, Runs
from ingestq.client.client import IngestClient
from ingestq.core.display import NoDisplay
from ingestq.core.documents import Document
from ingestq.core.results import BatchReport, DocumentCounts
from ingestq.embedded.redis import embedded_redis
from producers.files.walk import Clock, ScanRecord
from producers.schedule.entry import Action, ScheduledEntry, Timetable
from producers.schedule.runner import Runner
from producers.schedule.sources import Documents, LineSource
from tests.claims import DOCUMENTS, batch_of, finish, take
from tests.command import Ingestq
from tests.unsupervised import unsupervised_redis
from tests.waiting import crash, eventually

DAY_MS = 24 * 3600 * 1000
TABLE = """
[[schedule]]
name = "nightly"
cron = "0 3 * * *"
path = "notes"
"""


async def miss(ingestq: Ingestq) -> None:
    """Set the last run to days ago."""
    async with embedded_redis(ingestq.folder / ".ingestq") as url:
        config = BrokerConfig(url)
        async with connected(config) as redis:
            begun_ms = await Runs(redis, config).now_ms() - 3 * DAY_MS
            await awaited(redis.hset(keys.RUN_CLOCK, "nightly", cast(str, begun_ms)))


def started(ingestq: Ingestq, event: str) -> subprocess.Popen[str]:
    """Start a scheduler, and return it once it has logged ``event``."""
    running = ingestq.start("scheduler")
    assert running.stderr is not None
    for line in running.stderr:
        if event in line:
            return running
    raise AssertionError(f"it ended: {running.wait()}")


def runs(ingestq: Ingestq) -> list[dict[str, Any]]:
    listed = ingestq("schedule", "list", "--json")
    assert listed.code == 0, listed.err
    [entry] = listed.json["schedule"]
    found: list[dict[str, Any]] = entry["runs"]
    return found


@pytest.mark.slow
async def test_the_next_scheduler_runs_a_killed_run_again(ingestq: Ingestq) -> None:
    # A scheduler looks every ten seconds, so a shorter lease would not be noticed sooner.
    ingestq.settings["lease_seconds"] = "10"
    (ingestq.folder / "notes").mkdir()
    (ingestq.folder / "notes" / "a.txt").write_text("A note.")
    (ingestq.folder / "ingestq.toml").write_text(TABLE)
    ingestq.settings["config"] = "ingestq.toml"  # one that is found may not name a generator
    await miss(ingestq)
    first = started(ingestq, "run.started")  # no worker is up, so it lasts
    [run] = runs(ingestq)
    assert run["outcome"] == "running"
    first.kill()
    first.communicate()

    second = started(ingestq, "run.started")
    running, lost = runs(ingestq)
    assert (running["outcome"], lost["outcome"]) == ("running", "interrupted")
    assert running["due"] == lost["due"] == run["due"]
    second.send_signal(signal.SIGTERM)
    _, err = second.communicate(timeout=60)
    assert second.returncode == 0, err

    with_worker = ingestq.start("up")
    try:
        assert with_worker.stderr is not None
        for line in with_worker.stderr:
            if "run.finished" in line:
                break
        assert [run["outcome"] for run in runs(ingestq)] == ["done", "interrupted", "interrupted"]
        assert {run["due"] for run in runs(ingestq)} == {run["due"]}
    finally:
        with_worker.terminate()
        with_worker.communicate(timeout=60)
    assert (
        runs(ingestq)[0]["documents"]["unchanged"] + runs(ingestq)[0]["documents"]["indexed"] == 1
    )


@pytest.mark.slow
async def test_a_run_survives_the_death_of_redis(tmp_path: Path) -> None:
    """The generator is halfway when that happens, and nothing that it yields is lost."""
    reached, go_on = asyncio.Event(), asyncio.Event()

    class Slow(LineSource):
        async def documents(self, clock: Clock, record: ScanRecord) -> Documents:
            for doc_id in "ab":
                yield Document(doc_id=doc_id, version=await clock(), source="", text=doc_id)
                reached.set()
                await go_on.wait()

    entry = ScheduledEntry("nightly", Timetable("0 3 * * *"), source=Slow(tmp_path))
    async with unsupervised_redis(tmp_path / "redis") as url:
        config = BrokerConfig(url)
        async with connected(config) as redis:
            runs, queue = Runs(redis, config), JobQueue(redis, config)
            handler = Rescan(IngestClient(queue), NoDisplay())
            claim = await runs.begin("nightly", due_ms=None, lease_ms=500)
            assert isinstance(claim, RunClaim)
            running = asyncio.create_task(
                Runner(runs, {Action.RESCAN: handler}).run(entry, claim, asyncio.Event())
            )
            await reached.wait()
            await crash(redis)
            go_on.set()
            async with embedded_redis(tmp_path / "redis"):
                leases = LeaseQueue(redis, config, lease_seconds=15, serving=DOCUMENTS)
                seen: set[str] = set()

                async def work() -> bool:
                    for claimed in await take(leases, 2):
                        documents = batch_of(claimed).documents
                        seen.update(document.doc_id for document in documents)
                        counts = DocumentCounts(indexed=len(documents))
                        await finish(leases, claimed, BatchReport(counts))
                    return running.done()

                await eventually(work)
                ended = await running
    assert ended is not None
    assert ended.outcome is RunOutcome.DONE, ended.detail
    assert ended.documents.indexed == 2
    assert seen == {"a", "b"}
