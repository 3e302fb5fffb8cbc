"""How a command ends: its exit code, and with --json exactly one object on stdout."""

import json
from pathlib import Path

import pytest
import typer

from ingestq.app.settings import Settings
from ingestq.cli.entry import ExitCode, run_command
from ingestq.core.errors import BrokerUnavailable, UsageError


@pytest.fixture(autouse=True)
def no_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run_failing(error: BaseException) -> int:
    async def command(settings: Settings) -> ExitCode:
        raise error

    with pytest.raises(typer.Exit) as ended:
        run_command(command, as_json=True)
    return int(ended.value.exit_code)


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (UsageError("a setting\nis wrong"), 2, "a setting is wrong"),
        (BrokerUnavailable("Redis is away"), 3, "Redis is away"),
        (ExceptionGroup("", [BrokerUnavailable("Redis is away")]), 3, "Redis is away"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_with_json_an_error_is_one_object(
    error: BaseException, code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_failing(error) == code
    assert json.loads(capsys.readouterr().out) == {"error": message}


def test_with_json_an_unexpected_error_is_printed_and_raised(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def command(settings: Settings) -> ExitCode:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        run_command(command, as_json=True)
    assert json.loads(capsys.readouterr().out) == {"error": "unexpected error: RuntimeError: a bug"}
