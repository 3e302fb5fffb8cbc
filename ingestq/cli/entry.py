"""Run a command's coroutine and exit with its code.

This is the only ``asyncio.run``, and the only place that prints errors for the user.
"""

import asyncio
import sys
from collections.abc import Callable, Coroutine
from enum import IntEnum

import typer

from ingestq.app.settings import Settings, load_settings
from ingestq.cli.extras import how_to_install
from ingestq.core.errors import (
    IngestqError,
    QueueFull,
    ServiceUnavailable,
    UsageError,
    expected_error,
)


class ExitCode(IntEnum):
    """Exit codes of all commands.

    A one-shot command exits with 130 when Ctrl-C interrupts it, as a shell expects (128 + SIGINT);
    so do `run`, `add` and `schedule run` on SIGTERM. Commands that run until they are stopped exit
    with 0 then.
    """

    OK = 0
    DOCUMENTS_FAILED = 1
    WRONG_USAGE = 2
    SERVICE_UNREACHABLE = 3
    INTERRUPTED = 130


def run_command(
    command: Callable[[Settings], Coroutine[None, None, ExitCode]], *, extra: str | None = None
) -> None:
    """Run ``command`` with the settings and exit with its code.

    Prints an `IngestqError` as one line to stderr. Any other error is a defect and keeps its
    traceback.
    """
    try:
        code = asyncio.run(command(load_settings()))
    except KeyboardInterrupt:
        code = ExitCode.INTERRUPTED
    except ModuleNotFoundError as error:
        advice = how_to_install(error, extra)
        if advice is None:
            raise
        print(f"ingestq: {advice}", file=sys.stderr)  # noqa: T201
        code = ExitCode.WRONG_USAGE
    except (IngestqError, ExceptionGroup) as error:
        known = expected_error(error)
        if known is None:
            raise
        print(f"ingestq: {known}", file=sys.stderr)  # noqa: T201
        code = _code(known)
    raise typer.Exit(code)


def _code(error: IngestqError) -> ExitCode:
    match error:
        case UsageError():
            return ExitCode.WRONG_USAGE
        case ServiceUnavailable() | QueueFull():
            return ExitCode.SERVICE_UNREACHABLE
        case _:
            return ExitCode.DOCUMENTS_FAILED
