"""Runs a command's coroutine and exits with its code.

This is the only ``asyncio.run``, and the only place that prints the errors of a command.
"""

import asyncio
import logging
import sys
import traceback
from collections.abc import Callable, Coroutine
from contextlib import nullcontext
from enum import IntEnum
from types import TracebackType

import structlog
import typer

from ingestq.app.descriptors import raise_limit
from ingestq.app.services import stop_signals
from ingestq.app.settings import Settings, load_settings
from ingestq.app.tracing import exported_spans
from ingestq.cli.output import error_line, error_lines, print_json
from ingestq.core import events
from ingestq.core.errors import (
    IngestqError,
    QueueFull,
    ServiceUnavailable,
    UsageError,
    encodable,
    expected_error,
    in_one_line,
)
from ingestq.core.log_setup import LogFormat, configure_logging
from ingestq.core.urls import without_secrets

log = structlog.get_logger()


class ExitCode(IntEnum):
    """Exit codes of all commands.

    A one-shot command that SIGINT (Ctrl-C), SIGTERM or SIGHUP interrupts exits with 130 (128 +
    SIGINT), as shells expect. Commands that run until they are stopped then exit with 0. See
    `ingestq.cli.streams` for 141.
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
    until_stopped: bool = False,
    verbose: bool = False,
    traced: bool = False,
) -> None:
    """Run ``command`` with the settings and exit with its code.

    A signal that the command does not handle itself, as while it starts, cancels it: it closes what
    it has opened, and exits with 0 if it would have run ``until_stopped``, else with 130.

    Commands that run ``until_stopped`` log what they do, others only warnings unless ``verbose``;
    INGESTQ_LOG_LEVEL changes that. Spans are exported of those and of ``traced`` commands.

    Prints an `IngestqError` as one line to stderr, or logs it if the log of a command that runs
    ``until_stopped`` is JSON. Any other error is a defect and keeps its traceback. With
    ``as_json``, a command that fails also prints ``{"error": "…"}`` to stdout.
    """
    level = logging.INFO if until_stopped or verbose else logging.WARNING
    log_format = configure_logging(level)
    sys.excepthook = _print_traceback
    try:
        raise_limit()
        settings = load_settings()
        log_format = _configure_logging(settings, level, verbose)
        with exported_spans(settings) if until_stopped or traced else nullcontext():
            code = asyncio.run(_until_signal(command, settings))
    except (KeyboardInterrupt, asyncio.CancelledError):
        if until_stopped:
            raise typer.Exit(ExitCode.OK) from None
        code, message = ExitCode.INTERRUPTED, "interrupted"
    except ModuleNotFoundError:
        raise  # `ingestq.cli.main` says which extra brings the module
    except Exception as error:
        explained = _explain(error)
        if explained is None:
            if as_json:
                print_json({"error": f"unexpected error: {without_secrets(in_one_line(error))}"})
            raise
        code, message = explained
        _say_failed(message, code, log_format if until_stopped else LogFormat.CONSOLE)
    else:
        raise typer.Exit(code)
    if as_json:
        print_json({"error": encodable(" ".join(message.split()))})
    raise typer.Exit(code)


async def _until_signal(
    command: Callable[[Settings], Coroutine[None, None, ExitCode]], settings: Settings
) -> ExitCode:
    """Run ``command``; cancel it on a signal that it does not handle."""
    running = asyncio.current_task()
    assert running is not None

    def cancel() -> None:
        running.cancel()

    with stop_signals(cancel, until_exit=True):
        return await command(settings)


def _configure_logging(settings: Settings, level: int, verbose: bool) -> LogFormat:
    """Log as ``settings`` say, by default from ``level`` on; return the format in use."""
    if settings.log_level is not None:
        wanted = settings.log_level.number
        level = min(wanted, level) if verbose else wanted
    log_format = configure_logging(level, settings.log_format, settings.secrets)
    sys.excepthook = _log_traceback if log_format is LogFormat.JSON else _print_traceback
    return log_format


def _say_failed(message: str, code: ExitCode, log_format: LogFormat) -> None:
    if log_format is LogFormat.JSON:
        log.critical(events.COMMAND_FAILED, error=message, exit_code=int(code))
    else:
        error_line(f"ingestq: {message}")


def _print_traceback(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    error_lines("".join(traceback.format_exception(kind, error, trace)).rstrip("\n"))


def _log_traceback(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    log.critical(events.COMMAND_CRASHED, exc_info=(kind, error, trace))


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
