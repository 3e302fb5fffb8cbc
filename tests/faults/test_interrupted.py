"""Ctrl-C: running jobs may finish, queued ones stay queued, and the next run continues."""

import asyncio
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command import CommandResult, Ingestq
from tests.qdrant_proxy import Hold, QdrantProxy
from tests.running_command import running
from tests.s3_server import S3Server
from tests.waiting import eventually

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
END_SECONDS = 150
"""Longer than any command takes to end on a busy machine; it may drain for 30 of them."""

IS_LOADED = ", in main\n"
"""In a traceback of a command that was interrupted after Python had imported `ingestq.cli`."""


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
    try:
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
        running.wait(END_SECONDS)
        if running.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                running.stdin.close()
            running.stdin = None
        out, err = running.communicate(timeout=60)
        return CommandResult(running.returncode, out, said + err)
    finally:
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGKILL)


async def interrupted_while_held(
    ingestq: Ingestq, held: Hold, *command: str | Path
) -> CommandResult:
    """Interrupt a command whose request to Qdrant is held; assert that it ends as it should."""
    running = ingestq.start(*command)
    try:
        await held.struck()
        running.send_signal(signal.SIGINT)
        out, err = await asyncio.to_thread(running.communicate, timeout=60)
    finally:
        held.release()
        running.kill()
    assert running.returncode == 130, err
    assert "Traceback" not in err
    return CommandResult(running.returncode, out, err)


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


@pytest.mark.timeout(400)
async def test_an_interrupted_run_says_what_is_left_and_the_next_run_continues(
    ingestq: Ingestq, documents: Path, proxied_qdrant: QdrantProxy, alias: str
) -> None:
    ingestq.settings |= {"qdrant_url": proxied_qdrant.url, "collection": alias}
    ingestq.settings["drain_seconds"] = "0.1"
    held = proxied_qdrant.holds.document(100)  # so that it is in the middle
    ended = await interrupted_while_held(ingestq, held, "run", documents)
    assert "still queued: run again to continue" in ended.out

    again = await ingestq.ended("run", documents / "0.txt", "--json")
    assert again.code == 0, again.err
    status = (await ingestq.ended("status", "--json")).json
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
    await interrupted_while_held(ingestq, held, *command)


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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_bucket_that_does_not_answer_keeps_no_command_from_ending(
    ingestq: Ingestq, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        for name, value in S3Server(url, os.getpid()).environment.items():
            monkeypatch.setenv(name, value)
        with running(ingestq, "add", "s3://bucket") as adding:
            connection, _ = silent.accept()
            with connection:
                assert connection.recv(1)  # it has asked
                adding.tell(number)
                adding.ends(130)


@pytest.mark.parametrize("command", ["import", "export"])
async def test_a_pipe_that_nobody_uses_keeps_no_command_from_ending(
    ingestq: Ingestq, documents: Path, command: str
) -> None:
    if command == "export":
        assert (await ingestq.ended("run", documents)).code == 0
    reader, writer = os.pipe()
    process = ingestq.start(
        command, "-", **({"stdin": reader} if command == "import" else {"stdout": writer})
    )
    os.write(writer, b"\x1f")  # the first byte of an export

    async def is_waited_for() -> bool:
        assert process.poll() is None, process.communicate()
        readable, writable, _ = select.select([reader], [writer], [], 0)
        return not (readable if command == "import" else writable)

    try:
        await eventually(is_waited_for)
        process.send_signal(signal.SIGINT)
        assert await asyncio.to_thread(process.wait, END_SECONDS) == 130
    finally:
        process.kill()
        _, err = process.communicate()
        os.close(reader)
        os.close(writer)
    assert "Traceback" not in err


def test_an_impatient_user_sees_what_still_waits(ingestq: Ingestq, documents: Path) -> None:
    ended = interrupted(
        ingestq, "add", documents, "--wait", "--json", until=" 0/200 documents", hammered=True
    )
    ended_in_order(ended)
    assert ended.json["waiting"] == 200
    assert sum(ended.json["documents"].values()) == 0


@pytest.mark.timeout(400)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_a_run_that_is_interrupted_again_and_again_counts_truly(
    ingestq: Ingestq,
    documents: Path,
    number: signal.Signals,
    proxied_qdrant: QdrantProxy,
    alias: str,
) -> None:
    ingestq.settings |= {"qdrant_url": proxied_qdrant.url, "collection": alias}
    held = proxied_qdrant.holds.document(180)  # so that it cannot end before it is interrupted
    ended = await asyncio.to_thread(
        interrupted,
        ingestq,
        *("run", documents, "--json"),
        until="indexing ",
        number=number,
        hammered=True,
    )
    held.release()
    ended_in_order(ended)
    counts = ended.json["documents"]
    assert ended.json["waiting"] > 0
    assert counts["indexed"] + ended.json["waiting"] == 200, ended.json
    again = await ingestq.ended("run", documents, "--json")
    assert again.code == 0, again.err
    status = (await ingestq.ended("status", "--json")).json
    assert status["collection"]["documents"] == 200
    assert status["queue"]["ready"] == 0


@pytest.mark.timeout(800)
def test_every_command_can_be_interrupted_once_and_again_and_again(
    ingestq: Ingestq, documents: Path
) -> None:
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
                    assert "Traceback" not in ended.err or IS_LOADED not in ended.err
