"""``ingestq schedule`` and ``ingestq scheduler`` as a user runs them."""

import signal
import subprocess
from typing import Any

import pytest

from ingestq.broker.connection import BrokerConfig, connected
from ingestq.broker.queue.job_queue import JobQueue
from ingestq.embedded.redis import embedded_redis
from tests.command import Ingestq
from tests.running_command import serving
from tests.waiting import eventually

NIGHTLY = """
[[schedule]]
name = "nightly"
cron = "0 3 * * *"
timezone = "Europe/Berlin"
"""
FAILING = "async def documents():\n    raise RuntimeError('no answer')\n    yield\n"


def write(ingestq: Ingestq, *tables: str) -> None:
    (ingestq.folder / "ingestq.toml").write_text("\n".join(tables))
    ingestq.settings["config"] = "ingestq.toml"  # one that is found may not name a generator


def entries(ingestq: Ingestq) -> dict[str, Any]:
    listed = ingestq("schedule", "list", "--json")
    assert listed.code == 0, listed.err
    return {entry["name"]: entry for entry in listed.json["schedule"]}


def test_runs_are_listed_without_a_scheduler(ingestq: Ingestq) -> None:
    (ingestq.folder / "export.py").write_text(FAILING)
    write(ingestq, NIGHTLY, 'generator = "export:documents"')
    failed = ingestq("schedule", "run", "nightly", "--json")
    assert failed.code == 1, failed.err
    run = failed.json
    assert run["entry"] == "nightly"
    assert run["outcome"] == "failed"
    assert run["detail"] == "export:documents failed: RuntimeError: no answer"
    assert 'raise RuntimeError("no answer")' in failed.err.replace("'", '"')
    entry = entries(ingestq)["nightly"]
    assert entry.pop("runs") == [{k: v for k, v in run.items() if k != "entry"}]
    assert entry.pop("next") > run["started"]
    assert entry == {
        "name": "nightly",
        "cron": "0 3 * * *",
        "timezone": "Europe/Berlin",
        "action": "rescan",
        "live": False,
        "source": "export:documents",
    }
    told = ingestq("schedule", "list").out
    assert "nightly: rescan export:documents" in told
    assert "03:00:00  (0 3 * * *, Europe/Berlin)" in told
    assert "failed in " in told
    assert "no scheduler is running: start `ingestq up`" in told


async def begun(ingestq: Ingestq) -> subprocess.Popen[str]:
    """Start a run that waits for a worker."""
    running = ingestq.start("schedule", "run", "nightly")
    async with embedded_redis(ingestq.folder / ".ingestq") as url:
        config = BrokerConfig(url)
        async with connected(config) as redis:
            await eventually(JobQueue(redis, config).depth, lambda depth: depth.ready == 1)
    return running


async def test_an_entry_runs_once_at_a_time_and_an_interruption_is_recorded(
    ingestq: Ingestq,
) -> None:
    (ingestq.folder / "note.txt").write_text("A short note.")
    write(ingestq, NIGHTLY, 'path = "note.txt"')
    running = await begun(ingestq)
    ingestq("schedule", "run", "nightly").failed_with(2, "'nightly' is already running")
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert running.returncode == 130, err
    assert "nightly: interrupted in" in out
    [run] = entries(ingestq)["nightly"]["runs"]
    assert run["outcome"] == "interrupted"
    assert ingestq("status", "--json").json["queue"]["ready"] == 1


def test_a_wrong_table_is_named(ingestq: Ingestq) -> None:
    write(ingestq, NIGHTLY, 'path = "notes"\nexclude = ["!"]')
    ingestq("up").failed_with(2, "[[schedule]] 'nightly': include or exclude")
    write(ingestq, NIGHTLY, 'generator = "no_such_module:f"')
    ingestq("scheduler").failed_with(2, "[[schedule]] 'nightly': generator 'no_such_module:f'")


def test_a_scheduler_without_tables_says_what_to_add(ingestq: Ingestq) -> None:
    ingestq("scheduler").failed_with(2, "nothing is scheduled: add a [[schedule]] table")


@pytest.mark.slow
def test_every_action_runs(ingestq: Ingestq) -> None:
    notes = ingestq.folder / "notes"
    notes.mkdir()
    for name in "abc":
        (notes / name).write_text(f"Note {name}. " + "The tide turns. " * 30)
    tables = [
        NIGHTLY + 'path = "notes"',
        NIGHTLY.replace("nightly", "weekly") + 'action = "verify"\npath = "notes"',
        NIGHTLY.replace("nightly", "rebuild") + 'action = "reindex"',
    ]
    write(ingestq, *tables)
    too_early = ingestq("schedule", "run", "rebuild", "--json")
    assert too_early.code == 1, too_early.err
    assert too_early.json["detail"] == "nothing is indexed under 'documents' yet"
    with serving(ingestq, "up") as served:
        rescan = ingestq("schedule", "run", "nightly", "--json")
        assert rescan.code == 0, rescan.err
        assert rescan.json["documents"]["indexed"] == 3
        served.stop()
    verify = ingestq("schedule", "run", "weekly", "--json")
    assert (verify.code, verify.json["outcome"]) == (0, "done"), verify.err
    assert verify.json["detail"].startswith("3 documents, 0 missing")
    same = ingestq("schedule", "run", "rebuild", "--json").json
    assert same["detail"] == "documents was already built with these settings"
    ingestq.settings["hybrid"] = "false"
    mismatch = ingestq("schedule", "run", "weekly", "--json")
    assert (mismatch.code, mismatch.json["outcome"]) == (1, "failed")
    assert "ingestq reindex" in mismatch.json["detail"]
    rebuilt = ingestq("schedule", "run", "rebuild", "--json")
    assert rebuilt.code == 0, rebuilt.err
    assert rebuilt.json["detail"].endswith(": 3 documents")
    assert rebuilt.json["chunks"]["reused"] == 3
    assert [run["outcome"] for run in entries(ingestq)["rebuild"]["runs"]] == [
        "done",
        "done",
        "failed",
    ]
