"""Closed and broken streams stop no command; what is printed does nothing but print."""

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import structlog
import typer
from hypothesis import given
from hypothesis import strategies as st

from ingestq.cli.application import app
from ingestq.cli.output import print_json
from ingestq.core.log_setup import LogFormat, configure_logging
from ingestq.core.printable import printable
from tests.command import Ingestq
from tests.unit.test_export_file import TWO
from tests.waiting import eventually

pytestmark = pytest.mark.slow

NOBODY: Final = "127.0.0.1:1"
FULL_FOR_A_WHILE: Final = """
import os, sys
from ingestq.cli.streams import STDERR, STDOUT, StandardStreams

streams = StandardStreams()
full, kept = os.open("/dev/full", os.O_WRONLY), {n: os.dup(n) for n in (STDOUT, STDERR)}
for number in kept:
    os.dup2(full, number)
for text in ("lost", "written"):
    for stream in (sys.stdout, sys.stderr):
        print(text, file=stream, flush=True)
    for number, freed in kept.items():
        os.dup2(freed, number)
sys.exit(streams.exit_code(0))
"""
"""A program that prints while the disk is full, and again when it has space."""


def shell(ingestq: Ingestq, script: str) -> subprocess.CompletedProcess[str]:
    """Run ``script`` in bash, in which ``ingestq`` is the command.

    Its descriptor 9 is a pipe whose reader has ended. (That of ``| true`` may not have, yet, when
    a command writes.)
    """
    folder = Path(ingestq.command()[0]).parent
    environment = ingestq.environment()
    return subprocess.run(
        ["bash", "-c", f"exec 9> >(true); wait $!; {script}"],
        cwd=ingestq.folder,
        env=environment | {"PATH": f"{folder}:{environment['PATH']}"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def started_on_a_terminal(ingestq: Ingestq, *arguments: str) -> tuple[subprocess.Popen[bytes], int]:
    """Return the process, and the descriptor of the other end of its terminal."""
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        ingestq.command(*arguments),
        cwd=ingestq.folder,
        env=ingestq.environment() | {"TERM": "xterm-256color"},
        stdout=terminal,
        stderr=terminal,
    )
    os.close(terminal)
    return process, controller


@pytest.fixture
def note(ingestq: Ingestq) -> Ingestq:
    (ingestq.folder / "note.txt").write_text("A short note.", encoding="utf-8")
    question = '{"question": "Which note?", "doc_id": "note"}'
    (ingestq.folder / "questions.jsonl").write_text(question, encoding="utf-8")
    return ingestq


# Streams


@pytest.mark.parametrize(
    ("redirection", "code"),
    [
        (">&9", 141),
        (">&-", 0),
        ("<&- >&- 2>&-", 0),
        ("> /dev/full", 1),
        ("2> /dev/full", 0),
        ("2>&9", 0),
    ],
)
@pytest.mark.parametrize("command", ["status", "status --json", "--help"])
def test_no_stream_breaks_a_command(
    note: Ingestq, command: str, redirection: str, code: int
) -> None:
    ran = shell(note, f"ingestq {command} {redirection}")
    assert (ran.returncode, "Traceback" in ran.stderr, "Exception" in ran.stderr) == (
        code,
        False,
        False,
    ), ran.stderr
    if "/dev/full" in redirection and code:
        assert ran.stderr == "ingestq: stdout cannot be written: No space left on device\n"
    else:
        assert ran.stderr == ""


def test_what_is_printed_when_a_full_disk_has_space_again_is_written() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", FULL_FOR_A_WHILE], capture_output=True, text=True, check=False
    )
    reported = "ingestq: stdout cannot be written: No space left on device\n"
    assert (ran.returncode, ran.stdout, ran.stderr) == (1, "written\n", f"written\n{reported}")


def test_a_command_that_failed_keeps_its_exit_code(note: Ingestq) -> None:
    note.settings["redis_url"] = f"redis://{NOBODY}"
    for redirection in (">&9", ">&-", "> /dev/full"):
        assert shell(note, f"ingestq status --json {redirection}").returncode == 3
    assert shell(note, "ingestq no-such-command --json >&9").returncode == 2


def test_the_work_is_done_whether_or_not_somebody_reads(note: Ingestq) -> None:
    assert shell(note, "ingestq add note.txt >&9 2>&1").returncode == 141
    assert note("status", "--json").json["queue"]["ready"] == 1
    assert shell(note, "ingestq run note.txt <&- >&- 2>&-").returncode == 0
    status = note("status", "--json").json
    assert (status["queue"]["ready"], status["collection"]["documents"]) == (0, 1)


def test_a_closed_stdin_is_an_empty_one(note: Ingestq) -> None:
    ran = shell(note, "ingestq add - --json <&-")
    assert (ran.returncode, json.loads(ran.stdout)["documents"]["queued"]) == (0, 0)


async def test_a_worker_outlives_its_terminal(note: Ingestq) -> None:
    """As it does under nohup, and when what reads its log dies."""
    worker, controller = started_on_a_terminal(note, "worker")
    os.close(controller)
    try:
        assert (await note.ended("add", "note.txt", "--wait")).code == 0
        assert worker.poll() is None
    finally:
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(60) == 0


# JSON


def leaves(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every command that can be called, with the words that call it."""
    commands = getattr(command, "commands", {})
    if not commands:
        yield path, command
    for name, sub in commands.items():
        yield from leaves(sub, (*path, name))


LEAVES: Final = dict(leaves(typer.main.get_command(app)))
WITH_JSON: Final = [
    path for path, leaf in LEAVES.items() if any("--json" in option.opts for option in leaf.params)
]
ARGUMENTS: Final = {
    ("run",): ["note.txt"],
    ("add",): ["note.txt"],
    ("search",): ["note"],
    ("delete",): ["note"],
    ("eval",): ["questions.jsonl"],
    ("export",): ["new.export"],
    ("import",): ["two.export"],
    ("dead", "show"): ["note"],
    ("dead", "requeue"): ["--all"],
    ("dead", "purge"): ["--all"],
    ("schedule", "run"): ["nightly"],
    ("webhooks", "purge"): ["ours"],
    ("token", "create"): ["ours"],
    ("token", "revoke"): ["ours"],
}
FINDINGS: Final = {("doctor",): "findings", ("webhooks", "test"): "webhooks"}
"""What has the answers of commands that look for what is wrong."""
TABLES: Final = """
[[schedule]]
name = "nightly"
cron = "0 3 * * *"
path = "."

[[webhook]]
name = "ours"
url = "https://host.test/hook"
secret = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
"""


def json_error(ingestq: Ingestq, code: int, *arguments: str) -> str:
    ran = ingestq(*arguments)
    ran.failed_with(code)
    assert ran.json.keys() == {"error"}
    assert f"ingestq: {ran.json['error']}\n" in ran.err
    return str(ran.json["error"])


@pytest.mark.parametrize("path", WITH_JSON, ids=" ".join)
def test_with_json_every_failure_is_one_object(note: Ingestq, path: tuple[str, ...]) -> None:
    command = (*path, *ARGUMENTS.get(path, []), "--json")
    (note.folder / "ingestq.toml").write_text(TABLES, encoding="utf-8")
    (note.folder / "two.export").write_bytes(TWO)

    note.settings |= {"redis_url": f"redis://{NOBODY}", "qdrant_url": f"http://{NOBODY}"}
    if path in FINDINGS:
        ran = note(*command)
        assert (ran.code, ran.json.keys()) == (3, {FINDINGS[path]})
    else:
        assert NOBODY in json_error(note, 3, *command)

    note.settings["pool_size"] = "0"
    assert "INGESTQ_POOL_SIZE" in json_error(note, 2, *command)

    refused = note(*command, "--no-such-option")
    assert (refused.code, refused.json.keys()) == (2, {"error"})
    assert "--no-such-option" in refused.json["error"]


@pytest.mark.parametrize("path", sorted(LEAVES.keys() - set(WITH_JSON)), ids=" ".join)
def test_a_command_without_json_says_so_in_json(ingestq: Ingestq, path: tuple[str, ...]) -> None:
    ran = ingestq(*path, "--json")
    assert (ran.code, ran.json.keys()) == (2, {"error"})


def test_with_json_documents_that_failed_are_part_of_the_object(note: Ingestq) -> None:
    (note.folder / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    ran = note("run", "picture.png", "--json")
    assert (ran.code, ran.json["documents"]["rejected"]) == (1, 1)


def test_with_json_an_interruption_is_one_object(note: Ingestq) -> None:
    waiting = note.start("add", "note.txt", "--wait", "--json")
    assert waiting.stderr is not None
    assert any("0/1 documents" in line for line in waiting.stderr)
    waiting.send_signal(signal.SIGINT)
    out, _ = waiting.communicate(timeout=60)
    assert (waiting.returncode, json.loads(out)["documents"]["indexed"]) == (130, 0)


# Escape sequences

NAMES: Final = {
    "escape": "a\x1b[2J\x1b]0;title\x07.png",
    "C1": "b\x9b2J.png",
    "bell": "c\x07.png",
    "return": "d\rrejected 0.png",
    "line": "e\n0 indexed, 0 unchanged.png",
    "override": "f\u202etxt.exe.png",
    "isolate": "g\u2066\u2069.png",
    "markup": "h[bold red]x.png",
    "link": "i[link=file:..]x.png",
    "emoji": "j:warning:.png",
    "surrogate": os.fsdecode(b"k\xff.png"),
    "separator": "l\u2028x.png",
}
WHOLE: Final = ("h[bold red]x.png", "i[link=file:..]x.png", "j:warning:.png")


def assert_harmless(text: str) -> None:
    assert {c for c in text if not c.isprintable()} <= {"\n", "\xa0"}, text
    assert "\x1b" not in text


@pytest.fixture
def names(ingestq: Ingestq) -> Ingestq:
    """A folder with files whose names are dangerous. All are rejected, and so are printed."""
    folder = ingestq.folder / "names"
    folder.mkdir()
    for name in NAMES.values():
        (folder / name).write_bytes(b"\x89PNG\r\n\x1a\n")
    return ingestq


def test_names_of_files_are_printed_and_do_nothing(names: Ingestq) -> None:
    ran = names("run", "names")
    assert ran.code == 1
    assert_harmless(ran.out + ran.err)
    assert len(ran.out.splitlines()) == len(NAMES) + 2, "a line for each, and the summary"
    for name in WHOLE:
        assert name in ran.out
    assert r"a\x1b[2J\x1b]0;title\x07.png" in ran.out
    assert r"f\u202etxt.exe.png" in ran.out

    listed = names("dead", "list")
    assert_harmless(listed.out)
    assert len(listed.out.splitlines()) == len(NAMES) + 1

    as_json = names("dead", "list", "--json")
    assert_harmless(as_json.out)
    exact = {Path(letter["doc_id"]).name for letter in as_json.json["dead_letters"]}
    assert exact == {name.replace("\udcff", "%FF") for name in NAMES.values()}


def test_on_a_terminal_names_do_nothing_either(names: Ingestq) -> None:
    """There, the output has colours and a progress bar, and no sequence of a name."""
    running, controller = started_on_a_terminal(names, "run", "names")
    shown = b""
    while True:
        try:
            part = os.read(controller, 65_536)
        except OSError:  # the terminal's last user is gone
            break
        shown += part
    assert running.wait(60) == 1
    os.close(controller)
    text = shown.decode()
    for sequence in ("\x1b[2J", "\x1b]0;", "\x07", "\x9b", "\u202e", "\u2066", "\u2028"):
        assert sequence not in text
    for name in WHOLE:
        assert name in text


@pytest.mark.parametrize("typed", ["".join(NAMES.values()), NAMES["markup"]], ids=["all", "markup"])
def test_what_a_user_types_is_printed_and_does_nothing(ingestq: Ingestq, typed: str) -> None:
    """A shell types the names of files for its user."""
    for arguments in (
        ("status", typed),
        ("status", "x", typed),
        ("run", f"no-such-folder/{typed[:80]}"),
        ("search", "x", "--collection", typed),
    ):
        ran = ingestq(*arguments, "--json")
        assert ran.code in (1, 2), ran.err
        assert_harmless(ran.err + ran.out)
        assert ran.json
        assert "Traceback" not in ran.err


async def test_names_in_the_log_do_nothing(names: Ingestq) -> None:
    watching = names.start("drop", "names")
    try:

        async def queued() -> int:
            return int((await names.ended("status", "--json")).json["queue"]["ready"])

        await eventually(queued, lambda ready: ready >= 1, 60)
    finally:
        watching.send_signal(signal.SIGTERM)
        out, err = watching.communicate(timeout=60)
    assert_harmless(out + err)


def test_values_and_tracebacks_in_the_log_do_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(30, LogFormat.CONSOLE)
    try:
        raise RuntimeError("\x1b[2J\u202e")
    except RuntimeError:
        structlog.get_logger().warning(
            "failed", doc="\x1b[2J\nfake", of=[Path("\x07")], exc_info=True
        )
    said = capsys.readouterr().err
    assert_harmless(said)
    assert r"\x1b[2J\nfake" in said
    assert r"RuntimeError: \x1b[2J\u202e" in said


@given(st.text())
def test_every_text_is_printed_as_one_harmless_line(text: str) -> None:
    shown = printable(text)
    assert len(shown.splitlines()) <= 1
    shown.encode()
    assert not any(c in shown for c in "\x00\x07\x1b\x7f\x9b\r\n\u202a\u202e\u2066\u2069")


@pytest.mark.parametrize(
    "text", ["日本語\u3000です", "a\xa0b", "\u0646\u0645\u06cc\u200c\u062e", "👩\u200d🚀"]
)
def test_texts_are_printed_as_they_are(text: str) -> None:
    assert printable(text) == text


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_json_is_exact(text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        written: list[str] = []
        patch.setattr("sys.stdout.write", written.append)
        print_json({text: text})
    assert json.loads("".join(written)) == {text: text}
    assert "".join(written).count("\n") == 1


def test_json_is_exact_in_any_encoding(names: Ingestq) -> None:
    names("add", "names")
    for encoding in ("utf-8", "ascii", "latin-1"):
        ran = subprocess.run(
            names.command("delete", "übung\u202e日本語", "--json", "--collection", "documents"),
            cwd=names.folder,
            env=names.environment() | {"PYTHONIOENCODING": encoding},
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert ran.returncode == 1, ran.stderr
        [missing] = json.loads(ran.stdout.decode(encoding))["missing"]
        assert missing["doc_id"] == "übung\u202e日本語"
