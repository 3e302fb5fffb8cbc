"""Output: answers on stdout, everything else on stderr."""

import sys
from typing import Any

import msgspec
from rich.console import Console

from ingestq.core.printable import printable, printable_json, printable_lines

out = Console(soft_wrap=True, highlight=False, emoji=False)
"""For results that a person reads."""
err = Console(stderr=True, soft_wrap=True, highlight=False, emoji=False)


def print_json(answer: dict[str, Any]) -> None:
    """Print ``answer`` to stdout, as one line.

    Strings are exact: what a terminal would not show as it is, or what the encoding of stdout
    lacks, is escaped as JSON does it.
    """
    text = msgspec.json.encode(answer).decode()
    sys.stdout.write(printable_json(text, sys.stdout.encoding) + "\n")


def line(text: str, *, style: str | None = None) -> None:
    """Print one line to stdout, with control characters escaped."""
    out.print(printable(text), style=style, markup=False)


def error_line(text: str) -> None:
    """Print one line to stderr, with control characters escaped."""
    sys.stderr.write(printable(text) + "\n")


def error_lines(text: str) -> None:
    """Print ``text`` to stderr line by line, without secrets of URLs and control characters."""
    sys.stderr.write(printable_lines(text) + "\n")
