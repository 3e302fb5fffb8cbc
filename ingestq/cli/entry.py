"""Runs a command's coroutine and exits with its code.

This is the only ``asyncio.run``, and the only place that prints the errors of a command.
"""

import asyncio
import sys
from collections.abc import Callable, Coroutine
from enum import IntEnum

import typer

from ingestq.app.settings import Settings, load_settings
from ingestq.cli.output import print_json
from ingestq.core.errors import (
    IngestqError,
    QueueFull,
    ServiceUnavailable,
    UsageError,
    expected_error,
    in_one_line,
)


class ExitCode(IntEnum):
    """Exit codes of all commands.

    A one-shot command that Ctrl-C interrupts exits with 130 (128 + SIGINT), as shells expect; so do
    `run`, `add` and `schedule run` on SIGTERM. Commands that run until they are stopped then exit
    with 0.
    """

    OK = 0
    DOCUMENTS_FAILED = 1
    WRONG_USAGE = 2
    SERVICE_UNREACHABLE = 3
    INTERRUPTED = 130


def run_command(
    command: Callable[[Settings], Coroutine[None, None, ExitCode]],
    *,
    as_json: bool = False,
) -> None:
    """Run ``command`` with the settings and exit with its code.

    Prints an `IngestqError` as one line to stderr. Any other error is a defect and keeps its
    traceback. With ``as_json``, a command that fails also prints ``{"error": "…"}`` to stdout.
    """
    try:
        code = asyncio.run(command(load_settings()))
    except KeyboardInterrupt:
        code, message = ExitCode.INTERRUPTED, "interrupted"
    except ModuleNotFoundError:
        raise  # `ingestq.cli.main` says which extra brings the module
    except Exception as error:
        explained = _explain(error)
        if explained is None:
            if as_json:
                print_json({"error": f"unexpected error: {in_one_line(error)}"})
            raise
        code, message = explained
        print(f"ingestq: {message}", file=sys.stderr)  # noqa: T201
    else:
        raise typer.Exit(code)
    if as_json:
        print_json({"error": " ".join(message.split())})
    raise typer.Exit(code)


def _explain(error: Exception) -> tuple[ExitCode, str] | None:
    """Return the exit code for ``error`` and what to tell the user; None if it is a defect."""
    known = expected_error(error)
    return None if known is None else (_code(known), str(known))


def _code(error: IngestqError) -> ExitCode:
    match error:
        case UsageError():
            return ExitCode.WRONG_USAGE
        case ServiceUnavailable() | QueueFull():
            return ExitCode.SERVICE_UNREACHABLE
        case _:
            return ExitCode.DOCUMENTS_FAILED
