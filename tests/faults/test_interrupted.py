"""Ctrl-C: running jobs may finish, queued ones stay queued, and the next run continues."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command import CommandResult, Ingestq
from tests.qdrant_proxy import QdrantProxy

pytestmark = pytest.mark.slow

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


HAMMER_SECONDS = 0.05
"""Between the signals of somebody who does not stop pressing Ctrl-C."""
LONGER_THAN_A_PIPE = 200_000


def interrupted(
    ingestq: Ingestq,
    *command: str | Path,
    until: str = "",
    number: signal.Signals = signal.SIGINT,
    hammered: bool = False,
    stdin: str | None = None,
) -> CommandResult:
    """Interrupt a command once it says ``until``, or has begun to read ``stdin``; return its end.

    All its processes get the signal, as from a terminal, and get it until they end if it is
    ``hammered``.
    """
    more = {} if stdin is None else {"stdin": subprocess.PIPE}
    running = ingestq.start(*command, start_new_session=True, **more)
    assert running.stderr is not None
    said = ""
    for line in running.stderr if until else ():
        said += line
        if until in line:
            break
    if stdin is not None:
        assert running.stdin is not None
        running.stdin.write(stdin)  # returns when all but the size of a pipe has been read
        running.stdin.flush()
    os.killpg(running.pid, number)
    while hammered:
        try:
            running.wait(HAMMER_SECONDS)
            break
        except subprocess.TimeoutExpired:
            os.killpg(running.pid, number)
    running.wait(60)
    if running.stdin is not None:
        with contextlib.suppress(BrokenPipeError):
            running.stdin.close()
        running.stdin = None
    out, err = running.communicate(timeout=60)
    return CommandResult(running.returncode, out, said + err)


def ended_in_order(ended: CommandResult, code: int = 130) -> None:
    """Assert that the command ended with ``code``, and that neither it nor Python complains."""
    assert ended.code == code, ended.err
    for complaint in ("Traceback", "Warning", "never awaited", "never retrieved"):
        assert complaint not in ended.err, ended.err


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    folder = tmp_path / "documents"
    folder.mkdir()
    for i in range(200):
        (folder / f"{i}.txt").write_text(f"Note {i}. " + f"The tide turns at {i}. " * 25)
    return folder


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
    ingestq: Ingestq, proxied_qdrant: QdrantProxy, command: list[str]
) -> None:
    ingestq.settings["qdrant_url"] = proxied_qdrant.url
    held = proxied_qdrant.holds.request(lambda request, body: True)
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


@pytest.mark.parametrize(
    ("number", "hammered"), [(signal.SIGINT, True), (signal.SIGTERM, False), (signal.SIGHUP, False)]
)
def test_add_ends_at_once_although_nobody_writes_to_its_stdin(
    ingestq: Ingestq, number: signal.Signals, hammered: bool
) -> None:
    line = json.dumps({"doc_id": "long", "text": "A tide. " * (LONGER_THAN_A_PIPE // 8)}) + "\n"
    ended = interrupted(ingestq, "add", "-", "--json", number=number, hammered=hammered, stdin=line)
    ended_in_order(ended)
    queued = ended.json["documents"]["queued"]
    assert ingestq("status", "--json").json["queue"]["ready"] == queued


def test_an_impatient_user_sees_what_still_waits(ingestq: Ingestq, documents: Path) -> None:
    ended = interrupted(
        ingestq, "add", documents, "--wait", "--json", until=" 0/200 documents", hammered=True
    )
    ended_in_order(ended)
    assert ended.json["waiting"] == 200
    assert sum(ended.json["documents"].values()) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_run_that_is_interrupted_again_and_again_counts_truly(
    ingestq: Ingestq, documents: Path, number: signal.Signals
) -> None:
    ingestq.settings["pool_size"] = "1"
    ended = interrupted(
        ingestq,
        *("run", documents, "--json"),
        until="indexing ",
        number=number,
        hammered=True,
    )
    ended_in_order(ended)
    counts = ended.json["documents"]
    assert counts["indexed"] + ended.json.get("waiting", 0) == 200, ended.json
    again = ingestq("run", documents, "--json")
    assert again.code == 0, again.err
    status = ingestq("status", "--json").json
    assert status["collection"]["documents"] == 200
    assert status["queue"]["ready"] == 0


@pytest.mark.timeout(400)
def test_every_command_can_be_interrupted_once_and_again_and_again(
    ingestq: Ingestq, documents: Path
) -> None:
    ingestq.settings |= {"pool_size": "1", "api_port": "0"}
    few = ingestq.folder / "few"
    few.mkdir()
    for path in sorted(documents.iterdir())[:20]:
        path.rename(few / path.name)
    (ingestq.folder / "questions.jsonl").write_text(
        "".join(
            json.dumps({"question": f"tide {path.stem}", "doc_id": str(path)}) + "\n"
            for path in few.iterdir()
        )
    )
    (ingestq.folder / "ingestq.toml").write_text(
        '[[schedule]]\nname = "n"\ncron = "0 3 * * *"\npath = "few"\nsource = "n"\n'
    )
    assert ingestq("run", few).code == 0
    one_shot = {
        ("run", documents): "loading the model",
        ("reindex", "--chunk-tokens", "64"): "building",
        ("verify", few): "comparing",
        ("eval", "questions.jsonl"): "loading the model",
        ("search", "tide"): "",
        ("status",): "",
    }
    until_stopped = {
        ("up", "--drop", few): "worker.started",
        ("worker",): "worker.started",
        ("drop", few): "watch.started",
        ("scheduler",): "schedule.started",
        ("api",): "api.started",
    }
    for commands, code in ((one_shot, 130), (until_stopped, 0)):
        for command, until in commands.items():
            for number, hammered in ((signal.SIGINT, False), (signal.SIGINT, True)):
                ended = interrupted(
                    ingestq, *command, until=until, number=number, hammered=hammered
                )
                if until:
                    ended_in_order(ended, code)
                elif not ended.err.startswith("Fatal Python error: init"):
                    # It may get the signal before it, or even Python, can answer it.
                    assert ended.code in (code, -number)
                    assert "Traceback" not in ended.err
