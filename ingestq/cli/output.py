"""Output: answers on stdout, everything else on stderr."""

import logging
import sys
from typing import Any

import msgspec
import structlog
from rich.console import Console

out = Console(soft_wrap=True, highlight=False)
"""For results that a person reads."""
err = Console(stderr=True, soft_wrap=True, highlight=False)


def print_json(answer: dict[str, Any]) -> None:
    """Print ``answer`` to stdout, as one line."""
    sys.stdout.write(msgspec.json.encode(answer).decode() + "\n")


def line(text: str, *, style: str | None = None) -> None:
    """Print one line to stdout, with control characters escaped."""
    out.print(printable(text), style=style, markup=False)


def printable(text: str) -> str:
    """Return ``text`` as one line: file names may contain anything, even escape sequences."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def configure_logging(level: int) -> None:
    """Log events of ``level`` and above to stderr, one line each."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.dev.ConsoleRenderer(colors=err.is_terminal),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=_stderr_logger,
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    # Whoever gives up reports it; single retries would only be noise.
    logging.getLogger("stamina").setLevel(logging.ERROR)


def _stderr_logger(*_: Any) -> structlog.PrintLogger:
    """Return a logger to the current stderr: a progress bar replaces it while it is shown."""
    return structlog.PrintLogger(sys.stderr)
