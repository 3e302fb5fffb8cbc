"""Ctrl-C: running jobs may finish, queued ones stay queued, and the next run continues."""

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.command import Ingestq
from tests.qdrant_standin import Standin, qdrant_standin

INTERRUPTED_IMPORT = """
import signal
import sys

from ingestq.cli import main

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1]:
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
main()
"""


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    folder = tmp_path / "documents"
    folder.mkdir()
    for i in range(200):
        (folder / f"{i}.txt").write_text(f"Note {i}. " + f"The tide turns at {i}. " * 25)
    return folder


@pytest.fixture
async def standin() -> AsyncIterator[Standin]:
    async with qdrant_standin() as server:
        yield server


@pytest.mark.slow
async def test_an_interrupted_run_says_what_is_left_and_the_next_run_continues(
    ingestq: Ingestq, documents: Path
) -> None:
    ingestq.settings |= {"drain_seconds": "0.1", "pool_size": "1"}  # however many cores there are
    running = ingestq.start("run", documents)
    await ingestq.is_in_the_middle()
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert running.returncode == 130, err
    assert "Traceback" not in err
    assert "still queued: run again to continue" in out

    again = ingestq("run", documents / "0.txt", "--json")
    assert again.code == 0, again.err
    status = ingestq("status", "--json").json
    assert status["queue"]["ready"] + status["queue"]["deferred"] == 0
    assert status["collection"]["documents"] == 200


def test_an_interrupted_wait_leaves_the_documents_queued(ingestq: Ingestq) -> None:
    (ingestq.folder / "note.txt").write_text("A short note.")
    waiting = ingestq.start("add", "note.txt", "--wait")
    assert waiting.stderr is not None
    for line in waiting.stderr:
        if "0/1 documents" in line:
            break
    waiting.send_signal(signal.SIGINT)
    _, err = waiting.communicate(timeout=60)
    assert waiting.returncode == 130, err
    assert ingestq("status", "--json").json["queue"]["ready"] == 1


@pytest.mark.parametrize("module", ["ingestq.cli.application", "pydantic", "rich"])
def test_an_interrupt_while_modules_are_imported_prints_no_traceback(module: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_IMPORT, module, "status", "--json"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (130, "")
    assert json.loads(ended.stdout) == {"error": "interrupted"}


@pytest.mark.parametrize("command", [["run", "."], ["search", "tides"], ["verify"], ["reindex"]])
async def test_a_command_that_waits_for_qdrant_can_be_interrupted(
    ingestq: Ingestq, standin: Standin, command: list[str]
) -> None:
    ingestq.settings["qdrant_url"] = standin.url
    held = standin.holds.request(lambda request, body: True)
    waiting = ingestq.start(*command)
    try:
        await held.struck()
        waiting.send_signal(signal.SIGINT)
        _, err = await asyncio.to_thread(waiting.communicate, timeout=60)
    finally:
        held.release()
        waiting.kill()
    assert waiting.returncode == 130, err
    assert "Traceback" not in err
