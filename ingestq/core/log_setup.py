"""Sets up the log of a process: one line an event on stderr, for a person or as JSON.

What libraries log, and warnings, come in the same format, as `events.LIBRARY_LOGGED`. No line shows
a secret, and none does anything to a terminal.
"""

import logging
import sys
from collections.abc import Iterable
from contextlib import suppress
from enum import StrEnum
from typing import Any, Final

import msgspec
import stamina
import structlog
from structlog.typing import EventDict, Processor

from ingestq.core import events
from ingestq.core.errors import encodable
from ingestq.core.outages import note_failure
from ingestq.core.printable import printable, printable_json, printable_lines
from ingestq.core.tracing import current_ids
from ingestq.core.urls import without_secrets

MAX_CHARACTERS: Final = 4096
"""Of a value. Longer ones are cut: a line is no place for the content of a document."""
MAX_TRACEBACK_CHARACTERS: Final = 32 * 1024
CUT: Final = "…"
MAX_DEPTH: Final = 4
"""Of lists and tables in a value."""
NOISE: Final = {"asyncio": logging.ERROR, "mcp": logging.ERROR}
"""Levels of loggers that say too much: asyncio warns of each write to a client that has gone, and
mcp of each message that makes no sense."""


class LogFormat(StrEnum):
    """How lines of the log are written; ``auto`` is JSON unless stderr is a terminal."""

    AUTO = "auto"
    JSON = "json"
    CONSOLE = "console"


def configure_logging(
    level: int, log_format: LogFormat = LogFormat.AUTO, secrets: Iterable[str] = ()
) -> LogFormat:
    """Log events of ``level`` and above to stderr; return the format in use.

    ``secrets`` are hidden wherever they occur. Libraries log warnings and errors only.
    """
    is_terminal = sys.stderr.isatty()
    if log_format is LogFormat.AUTO:
        log_format = LogFormat.CONSOLE if is_terminal else LogFormat.JSON
    processors: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        _add_trace,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso"),
        structlog.processors.format_exc_info,
        _Discretion(secrets),
    ]
    if log_format is LogFormat.JSON:
        processors.append(_render_json)
    else:
        processors.append(_make_printable)
        processors.append(
            structlog.dev.ConsoleRenderer(
                colors=is_terminal,
                exception_formatter=structlog.dev.plain_traceback,  # others show variables
            )
        )
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=_stderr_logger,
        cache_logger_on_first_use=False,
    )
    handler = _LibraryHandler(processors)
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[handler], force=True)
    logging.captureWarnings(True)
    for name, least in NOISE.items():
        logging.getLogger(name).setLevel(least)
    stamina.instrumentation.set_on_retry_hooks([lambda retry: note_failure(retry.caused_by)])
    return log_format


def _add_trace(_: Any, __: str, event: EventDict) -> EventDict:
    event.update(current_ids())
    return event


class _StderrLogger(structlog.PrintLogger):
    """Drops a line that cannot be written: a full disk must not stop those who log."""

    def msg(self, message: str) -> None:
        with suppress(OSError):
            super().msg(message)

    log = debug = info = warn = warning = msg
    fatal = failure = err = error = critical = exception = msg


def _stderr_logger(*_: Any) -> structlog.PrintLogger:
    """Return a logger to the current stderr: a progress bar replaces it while it is shown."""
    return _StderrLogger(sys.stderr)


class _LibraryHandler(logging.Handler):
    """Writes what libraries log with the ``processors`` of our own events."""

    def __init__(self, processors: Iterable[Processor]) -> None:
        super().__init__()
        self._processors = tuple(processors)

    def emit(self, record: logging.LogRecord) -> None:
        """Write ``record``; report to `logging` if that is not possible."""
        try:
            line: Any = {
                "event": events.LIBRARY_LOGGED,
                "logger": record.name,
                "message": record.getMessage().strip(),
            }
            if record.exc_info:
                line["exc_info"] = record.exc_info
            for process in self._processors:
                line = process(None, record.levelname.lower(), line)
            structlog.PrintLogger(sys.stderr).msg(line)
        except Exception:
            self.handleError(record)


class _Discretion:
    """Removes secrets from the values of an event, and bounds their length."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self._secrets = frozenset(secrets)

    def __call__(self, _: Any, __: str, event: EventDict) -> EventDict:
        traceback = event.pop("exception", None)
        shown: dict[str, Any] = {name: self._shown(value) for name, value in event.items()}
        if traceback is not None:
            shown["exception"] = self._text(traceback, MAX_TRACEBACK_CHARACTERS)
        return shown

    def _shown(self, value: object, depth: int = 0) -> Any:
        match value:
            case None | bool() | int() | float():
                return value
            case dict() if depth < MAX_DEPTH:
                return {self._text(str(k)): self._shown(v, depth + 1) for k, v in value.items()}
            case list() | tuple() | set() | frozenset() if depth < MAX_DEPTH:
                return [self._shown(each, depth + 1) for each in value]
            case _:
                return self._text(str(value))

    def _text(self, text: str, longest: int = MAX_CHARACTERS) -> str:
        text = encodable(without_secrets(text, self._secrets))
        return text if len(text) <= longest else text[:longest] + CUT


def _render_json(_: Any, __: str, event: EventDict) -> str:
    line = {name: event.pop(name) for name in ("timestamp", "level", "event")}
    encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
    return printable_json(msgspec.json.encode({**line, **event}).decode(), encoding)


def _make_printable(_: Any, __: str, event: EventDict) -> EventDict:
    """Escape control characters in an event. The renderer escapes what is no string."""
    traceback = event.pop("exception", None)
    shown = {k: printable(v) if isinstance(v, str) else v for k, v in event.items()}
    return shown if traceback is None else shown | {"exception": printable_lines(traceback)}
