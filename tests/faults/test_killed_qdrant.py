"""The bundled Qdrant is killed while documents are indexed: nothing is lost, and work goes on."""

import asyncio
import json
import os
import random
import signal
import subprocess
from pathlib import Path

import pytest

from ingestq.embedded.lock_file import is_locked, open_lock
from tests.command import Ingestq
from tests.waiting import eventually

DOCUMENTS = 400
MANY_DOCUMENTS = 1200
KILLS = 50
LONGEST_LIFE_SECONDS = 0.4
"""How long the server lives at most, from its first answer on."""


def notes(ingestq: Ingestq, documents: int) -> Path:
    folder = ingestq.folder / "notes"
    folder.mkdir()
    for number in range(documents):
        (folder / f"{number}.txt").write_text(f"Note {number} is about the tide of day {number}.")
    return folder


def engine_pid(ingestq: Ingestq) -> int | None:
    """Return the pid of the server; None while it is being started."""
    try:
        return int((ingestq.folder / ".ingestq" / "qdrant" / "server.pid").read_text())
    except (FileNotFoundError, ValueError):
        return None


def is_alive(ingestq: Ingestq) -> bool:
    with open_lock(ingestq.folder / ".ingestq" / "qdrant" / "alive.lock") as alive:
        return is_locked(alive)


async def has_indexed(running: subprocess.Popen[str], documents: int) -> str:
    """Wait for the run and assert that it indexed every document; return its log.

    One that was indexed when the server died, before it could say so, is then unchanged.
    """
    out, err = await asyncio.to_thread(running.communicate)
    assert running.returncode == 0, err
    counts = json.loads(out)["documents"]
    assert counts["indexed"] + counts["unchanged"] == documents, out
    return err


@pytest.mark.slow
async def test_a_run_outlives_its_engine(ingestq: Ingestq) -> None:
    folder = notes(ingestq, DOCUMENTS)
    running = ingestq.start("run", folder, "--json")
    await ingestq.is_in_the_middle()
    pid = engine_pid(ingestq)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    err = await has_indexed(running, DOCUMENTS)
    assert "qdrant.stopped" in err
    assert "it was killed" in err
    assert not is_alive(ingestq)
    verified = ingestq("verify", folder, "--json").json
    assert (verified["consistent"], verified["documents"]) == (True, DOCUMENTS)


@pytest.mark.slow
@pytest.mark.timeout(1200)
async def test_fifty_kills_lose_nothing(ingestq: Ingestq) -> None:
    folder = notes(ingestq, MANY_DOCUMENTS)
    dice = random.Random(18)
    running = ingestq.start("run", folder, "--json")
    socket = ingestq.folder / ".ingestq" / "qdrant" / "qdrant.sock"

    async def answers() -> bool:
        assert running.poll() is None, "too fast"
        return await _answers(socket)

    await ingestq.is_in_the_middle()
    for _ in range(KILLS):
        await eventually(answers, seconds=60)
        await asyncio.sleep(dice.uniform(0, LONGEST_LIFE_SECONDS))
        pid = engine_pid(ingestq)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
    await has_indexed(running, MANY_DOCUMENTS)
    verified = (await ingestq.ended("verify", folder, "--json")).json
    assert (verified["consistent"], verified["documents"]) == (True, MANY_DOCUMENTS)
    assert ingestq("status", "--json").json["dead_letters"] == 0


async def _answers(socket: Path) -> bool:
    try:
        _, writer = await asyncio.open_unix_connection(socket)
    except OSError:
        return False
    writer.close()
    return True
