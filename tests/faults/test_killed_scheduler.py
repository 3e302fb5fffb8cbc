"""A scheduler is killed in the middle of a run: the next one makes up for it, once."""

import signal
import subprocess
from typing import Any, cast

import pytest

from broker import keys
from broker.connection import BrokerConfig, awaited, connected
from broker.runs import Runs
from ingestq.embedded import embedded_redis
from tests.command import Ingestq

DAY_MS = 24 * 3600 * 1000
TABLE = """
[[schedule]]
name = "nightly"
cron = "0 3 * * *"
path = "notes"
"""


async def miss(ingestq: Ingestq) -> None:
    """The last run was begun days ago."""
    async with embedded_redis(ingestq.folder / ".ingestq") as url:
        config = BrokerConfig(url)
        async with connected(config) as redis:
            begun_ms = await Runs(redis, config).now_ms() - 3 * DAY_MS
            await awaited(redis.hset(keys.CRON, "schedule:nightly", cast(str, begun_ms)))


def started(ingestq: Ingestq, event: str) -> subprocess.Popen[str]:
    """A scheduler that has logged ``event``."""
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
async def test_a_killed_run_is_made_up_for_by_the_next_scheduler(ingestq: Ingestq) -> None:
    ingestq.settings |= {"lease_seconds": "1"}
    (ingestq.folder / "notes").mkdir()
    (ingestq.folder / "notes" / "a.txt").write_text("A note.")
    (ingestq.folder / "ingestq.toml").write_text(TABLE)
    await miss(ingestq)
    first = started(ingestq, "run.begun")  # no worker is up, so it lasts
    [run] = runs(ingestq)
    assert run["outcome"] == "running"
    first.kill()
    first.communicate()

    second = started(ingestq, "run.begun")
    running, lost = runs(ingestq)
    assert (running["outcome"], lost["outcome"]) == ("running", "interrupted")
    assert running["due"] == lost["due"] == run["due"]
    second.send_signal(signal.SIGTERM)
    _, err = second.communicate(timeout=10)
    assert second.returncode == 0, err

    with_worker = ingestq.start("up")
    try:
        assert with_worker.stderr is not None
        for line in with_worker.stderr:
            if "run.ended" in line:
                break
        assert [run["outcome"] for run in runs(ingestq)] == ["done", "interrupted", "interrupted"]
        assert {run["due"] for run in runs(ingestq)} == {run["due"]}
    finally:
        with_worker.terminate()
        with_worker.communicate(timeout=60)
    assert (
        runs(ingestq)[0]["documents"]["unchanged"] + runs(ingestq)[0]["documents"]["indexed"] == 1
    )
