"""The help of every command is complete and fits the terminal."""

import re
import textwrap
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from ingestq.cli.application import app

WIDTHS = (80, 120)
TEXT_WIDTH = 78
"""Width of a paragraph without its indent, on every terminal: longer lines are hard to read."""


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield ``command`` and all its sub-commands, each with the words that call it."""
    yield path, command
    for name, sub in getattr(command, "commands", {}).items():
        yield from commands(sub, (*path, name))


COMMANDS = dict(commands(typer.main.get_command(app)))


def help_of(path: tuple[str, ...], width: int) -> str:
    shown = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": str(width)})
    assert shown.exit_code == 0, shown.output
    return shown.output


def in_one_line(text: str | None) -> str:
    return " ".join((text or "").split())


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_is_complete_and_no_line_is_too_long(path: tuple[str, ...], width: int) -> None:
    command = COMMANDS[path]
    text = help_of(path, width)
    assert max(map(len, text.splitlines())) <= width
    words = in_one_line(text)
    assert in_one_line(command.help) in words, "a bracket is missing, or a word is broken"
    for parameter in command.params:
        assert in_one_line(parameter.help) in words
    summaries = text.partition("\nCommands:\n")[2]
    assert "..." not in summaries, "a summary is too long for one line"


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_and_parameter_has_help(path: tuple[str, ...]) -> None:
    command = COMMANDS[path]
    assert command.help
    assert re.match(r"[A-Z]\w+,? ", command.help), "a sentence in the imperative"
    for parameter in command.params:
        assert getattr(parameter, "help", None), parameter.name


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_paragraphs_are_wrapped_to_the_terminal(path: tuple[str, ...], width: int) -> None:
    text = help_of(path, width)
    for paragraph in (COMMANDS[path].help or "").split("\n\n"):
        filled = textwrap.fill(in_one_line(paragraph), TEXT_WIDTH)
        assert textwrap.indent(filled, "  ") in text


def test_square_brackets_are_shown() -> None:
    assert "[[drop]]" in help_of(("drop",), 80)
    assert "[[schedule]]" in help_of((), 80)
    assert "[[schedule]]" in help_of(("schedule", "run"), 80)
