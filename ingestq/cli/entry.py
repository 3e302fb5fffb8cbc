"""From a coroutine to an exit code: the one ``asyncio.run``, and the one place that turns errors
into a line for the user."""

import asyncio
import sys
from collections.abc import Callable, Coroutine
from enum import IntEnum

import typer

from ingestq.app.settings import Settings, load_settings
from ingestq.cli.extras import how_to_install
from ingestq.core.errors import IngestqError, QueueFull, ServiceUnavailable, UsageError, foreseen


class ExitCode(IntEnum):
    """What the commands answer to a shell."""

    OK = 0
    DOCUMENTS_FAILED = 1
    WRONG_USAGE = 2
    SERVICE_UNREACHABLE = 3
    INTERRUPTED = 130


def run_command(command: Callable[[Settings], Coroutine[None, None, ExitCode]]) -> None:
    """Run ``command`` with the settings, and exit with its code.

    An error that ingestq foresaw is one line on stderr; any other keeps its traceback, because it
    is a defect.
    """
    try:
        code = asyncio.run(command(load_settings()))
    except KeyboardInterrupt:
        code = ExitCode.INTERRUPTED
    except ModuleNotFoundError as error:
        advice = how_to_install(error)
        if advice is None:
            raise
        print(f"ingestq: {advice}", file=sys.stderr)  # noqa: T201
        code = ExitCode.WRONG_USAGE
    except (IngestqError, ExceptionGroup) as error:
        known = foreseen(error)
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
