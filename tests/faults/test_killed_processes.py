"""Real processes are killed; what they worked on is done all the same."""

import asyncio
import multiprocessing
import os
import shutil
import signal
from collections.abc import Iterable
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from broker.contract import Lane
from broker.errors import DocumentRejected
from tests.command import Ingestq
from tests.waiting import eventually
from worker.embedding.pool import EmbeddingConfig, ModelPool

EXAMPLES = Path(__file__).parents[2] / "examples" / "documents"
COPIES = 8


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    """Enough to be busy with for some seconds."""
    folder = tmp_path / "documents"
    for i in range(COPIES):
        shutil.copytree(EXAMPLES, folder / str(i))
    return folder


def wait_for(lines: Iterable[str], words: str) -> str:
    """The first line that holds ``words``."""
    for line in lines:
        if words in line:
            return line
    raise AssertionError(f"it ended before it said {words!r}")


@pytest.mark.slow
async def test_a_killed_run_is_completed_by_the_next(ingestq: Ingestq, documents: Path) -> None:
    ingestq.settings |= {"lease_seconds": "2", "pool_size": "1"}  # however many cores there are
    first = ingestq.start("run", documents)
    try:
        await ingestq.is_in_the_middle()
    finally:
        first.kill()
        first.communicate()

    second = ingestq("run", documents, "--json")
    assert second.code == 0, second.err
    ended = second.json["documents"]
    assert ended["indexed"] + ended["unchanged"] == 6 * COPIES

    status = ingestq("status", "--json").json
    assert status["queue"]["ready"] + status["queue"]["in_flight"] == 0
    assert status["dead_letters"] == 0
    assert status["collection"]["documents"] == 6 * COPIES
    clean = Ingestq(documents, {"data_dir": "clean"})
    chunks = clean("run", "0", "--json").json["chunks"]["embedded"]
    assert status["collection"]["chunks"] == chunks * COPIES


def test_sigterm_puts_unfinished_work_back_without_a_try(ingestq: Ingestq, documents: Path) -> None:
    ingestq.settings["drain_seconds"] = "0"
    queued = ingestq("add", documents, "--json").json["documents"]["queued"]
    worker = ingestq.start("worker")
    assert worker.stderr is not None
    wait_for(worker.stderr, "worker.started")
    worker.terminate()
    _, log = worker.communicate(timeout=60)
    assert worker.returncode == 0, log
    assert "Traceback" not in log

    status = ingestq("status", "--json").json
    assert status["queue"]["in_flight"] == 0
    assert status["queue"]["ready"] > 0
    assert status["workers"] == []
    assert queued == 6 * COPIES


async def test_a_killed_child_costs_its_task_and_nothing_else(tmp_path: Path) -> None:
    async with ModelPool(EmbeddingConfig(pool_size=1)) as pool:
        [child] = multiprocessing.active_children()
        begun = tmp_path / "begun"
        work = asyncio.create_task(pool.run_again_once(Lane.BULK, 60, hang_once, begun))
        await eventually(lambda: asyncio.to_thread(begun.exists))
        kill(child)
        assert await work == "done"
        [other] = multiprocessing.active_children()
        assert other.pid != child.pid
        assert (await pool.in_lane(Lane.BULK).embed(["a text"])).shape == (1, 384)


async def test_a_child_killed_while_it_does_nothing_is_replaced() -> None:
    async with ModelPool(EmbeddingConfig(pool_size=1)) as pool:
        [child] = multiprocessing.active_children()
        kill(child)
        child.join()
        for _ in range(2):
            assert (await pool.in_lane(Lane.BULK).embed(["a text"])).shape == (1, 384)


async def test_a_document_that_kills_two_children_is_rejected() -> None:
    async with ModelPool(EmbeddingConfig(pool_size=1)) as pool:
        with pytest.raises(DocumentRejected, match="twice, the process that worked on it died"):
            await pool.run_again_once(Lane.BULK, 60, os.abort)
        vectors = await pool.in_lane(Lane.BULK).embed(["a new child answers"])
        assert vectors.shape == (1, 384)


def hang_once(begun: Path) -> str:
    """Say that it has begun, and hang; at the second time, end."""
    if begun.exists():
        return "done"
    begun.touch()
    signal.pause()
    raise AssertionError("not reached")


def kill(process: BaseProcess) -> None:
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
