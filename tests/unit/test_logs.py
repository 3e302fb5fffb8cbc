"""The log: every line has a name and fields of the catalogue, and shows no secret."""

import ast
import json
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingestq.core import events
from ingestq.core.events import Event
from ingestq.core.log_setup import CUT, MAX_CHARACTERS, LogFormat, configure_logging
from tests.log_reference import PAGE, page_with_reference

ROOT: Final = Path(__file__).parents[2]
METHODS: Final = {"critical", "debug", "error", "exception", "info", "log", "log_ended", "warning"}
ANYWHERE: Final = {*events.CONTEXT, "exc_info"}
OF_SERVERS: Final = {"stopped", "restarted", "not_stopped"}
"""Attributes of `ingestq.embedded.server.ServerEvents`."""
HARMFUL: Final = "\x00\x07\x1b\x7f\x9b\r\n\u2028\u202a\u202e\u2066\u2069"


# The catalogue


def calls() -> Iterator[tuple[str, ast.Call]]:
    """Yield every call that logs, with the place where it is."""
    for package in ("ingestq", "producers", "worker"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and _logs(node.func):
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", node


def _logs(function: ast.expr) -> bool:
    match function:
        case ast.Attribute(ast.Name("log" | "logger" | "_log" | "logging"), name):
            return name in METHODS
        case ast.Name("log_ended"):
            return True
    return False


def named(call: ast.Call) -> list[Event] | None:
    """Return the events that ``call`` may log; None if it names none of the catalogue."""
    name = call.args[1] if ast.unparse(call.func).endswith(".log") else call.args[0]
    match name:
        case ast.Attribute(ast.Name("events"), constant):
            found = getattr(events, constant)
            return [found] if isinstance(found, Event) else None
        case ast.Attribute(ast.Attribute(attr="events"), attribute) if attribute in OF_SERVERS:
            return [
                e for e in events.CATALOGUE if e in {f"redis.{attribute}", f"qdrant.{attribute}"}
            ]
    return None


def test_every_line_has_a_name_and_fields_of_the_catalogue() -> None:
    found = list(calls())
    logged: set[Event] = set()
    for place, call in found:
        of = named(call)
        assert of, f"{place}: not an event of the catalogue: {ast.unparse(call)}"
        logged.update(of)
        for keyword in call.keywords:
            for event in of:
                known = {*event.fields, *ANYWHERE}
                assert keyword.arg in known, f"{place}: {event} has no field {keyword.arg!r}"
    others = {events.LIBRARY_LOGGED}
    assert set(events.CATALOGUE) - logged - others == set(), "events that nothing logs"


def test_every_field_that_an_event_lists_is_logged_somewhere() -> None:
    given_fields: dict[Event, set[str | None]] = {}
    for _, call in calls():
        for event in named(call) or ():
            given_fields.setdefault(event, set()).update(k.arg for k in call.keywords)
    for event, fields in given_fields.items():
        assert set(event.fields) <= fields, event


def test_every_field_is_described() -> None:
    listed = {field for event in events.CATALOGUE for field in event.fields}
    assert listed - events.CONTEXT.keys() == set(events.FIELDS)
    assert len(set(events.CATALOGUE)) == len(events.CATALOGUE)


def test_the_page_lists_the_catalogue() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == page_with_reference(page), "run `python -m tests.log_reference`"


# Lines


def line_of(capsys: pytest.CaptureFixture[str], **fields: Any) -> str:
    """Log an event with ``fields``; return the line without its line break."""
    capsys.readouterr()
    structlog.get_logger().warning(events.JOB_FAILED, **fields)
    line = capsys.readouterr().err
    assert line.endswith("\n")
    return line[:-1]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(text=st.text() | st.text(HARMFUL + 'a\\"'))
def test_any_value_is_one_harmless_line_and_exact_in_json(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for log_format in (LogFormat.JSON, LogFormat.CONSOLE):
        configure_logging(logging.INFO, log_format)
        line = line_of(capsys, error=text, warnings=[text], parts={text: text})
        assert not any(character in line for character in HARMFUL)
        assert len(line.splitlines()) == 1
        if log_format is LogFormat.JSON and "//" not in text:
            logged = json.loads(line)
            exact = text.encode(errors="backslashreplace").decode()
            assert (logged["error"], logged["warnings"]) == (exact, [exact])
            assert logged["parts"] == {exact: exact}


def test_a_line_of_json_has_its_time_level_and_name_first(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure_logging(logging.INFO)  # stderr is no terminal
    logged = json.loads(line_of(capsys, job="j", error="e"))
    assert list(logged) == ["timestamp", "level", "event", "job", "error"]
    assert (logged["level"], logged["event"]) == ("warning", "job.failed")


@pytest.mark.parametrize("log_format", [LogFormat.JSON, LogFormat.CONSOLE])
def test_no_value_shows_a_secret(log_format: LogFormat, capsys: pytest.CaptureFixture[str]) -> None:
    secret, key = "hunter2-and-more", "sk-0123456789abcdef"
    configure_logging(logging.INFO, log_format, [key])
    url = f"redis://user:{secret}@host:6379/0?token={secret}"
    for value in (url, [url], {"to": {"a": [url]}}, f"{key} was refused", Path(f"/x/{key}")):
        line = line_of(capsys, error=value)
        assert secret not in line
        assert key not in line
    logging.getLogger("a.library").error("cannot reach %s with %s", url, key)
    try:
        raise RuntimeError(f"{url} {key}")
    except RuntimeError:
        structlog.get_logger().warning(events.RUN_CRASHED, exc_info=True)
    said = capsys.readouterr().err
    assert "RuntimeError" in said
    assert secret not in said
    assert key not in said


@pytest.mark.parametrize("log_format", [LogFormat.JSON, LogFormat.CONSOLE])
def test_a_line_that_cannot_be_written_stops_nobody(
    log_format: LogFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = Path("/dev/full").open("w", buffering=1, encoding="utf-8")  # noqa: SIM115
    monkeypatch.setattr(sys, "stderr", full)
    configure_logging(logging.INFO, log_format)
    try:
        structlog.get_logger().warning(events.JOB_FAILED, error="e")
        logging.getLogger("a.library").error("also")
    finally:
        with suppress(OSError):
            full.close()


def test_long_values_are_cut(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(logging.INFO, LogFormat.JSON)
    logged = json.loads(line_of(capsys, error="x" * 100_000))
    assert logged["error"] == "x" * MAX_CHARACTERS + CUT


def test_libraries_and_warnings_have_the_same_format(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(logging.INFO, LogFormat.JSON)
    capsys.readouterr()
    logging.getLogger("a.library").warning("no %s\x1b[2J", "place")
    logging.getLogger("a.library").info("not shown")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("an old function", DeprecationWarning, stacklevel=1)
    try:
        raise ValueError("why")
    except ValueError:
        logging.getLogger("qdrant_client").exception("failed")
    lines = list(map(json.loads, capsys.readouterr().err.splitlines()))
    assert {line["event"] for line in lines} == {events.LIBRARY_LOGGED}
    about = [(line["logger"], line["level"]) for line in lines]
    assert about == [
        ("a.library", "warning"),
        ("py.warnings", "warning"),
        ("qdrant_client", "error"),
    ]
    assert lines[0]["message"] == "no place\x1b[2J"
    assert "an old function" in lines[1]["message"]
    assert "ValueError: why" in lines[2]["exception"]


def test_the_level_counts_for_all(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(logging.ERROR, LogFormat.JSON)
    structlog.get_logger().warning(events.JOB_FAILED)
    logging.getLogger("a.library").warning("nothing")
    assert capsys.readouterr().err == ""


def test_a_stderr_that_cannot_show_a_character_gets_it_escaped(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with (tmp_path / "log").open("w", encoding="ascii") as ascii_only:
        monkeypatch.setattr(sys, "stderr", ascii_only)
        configure_logging(logging.INFO, LogFormat.JSON)
        structlog.get_logger().warning(events.JOB_FAILED, error="bébé 🚀")
    logged = json.loads((tmp_path / "log").read_text(encoding="ascii"))
    assert logged["error"] == "bébé 🚀"
