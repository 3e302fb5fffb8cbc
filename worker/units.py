"""Text to units: the parts that chunks are made of, and what divides each from the one before."""

import re
from collections.abc import Iterator
from enum import IntEnum
from typing import Final, NamedTuple


class Boundary(IntEnum):
    """What divides a unit from the one before it, the weakest first."""

    AFTER_HEADING = 0  # a heading without its text says nothing
    PIECE = 1  # of a word too long for a chunk
    WORD = 2
    SENTENCE = 3
    CODE_LINE = 4
    LINE = 5  # also a blank line in a block of code
    PARAGRAPH = 6
    HEADING = 7  # of the lowest level; each level above it is stronger by one


class Unit(NamedTuple):
    """A part of a text with the white space after it: joined, a text's units are the text."""

    text: str
    boundary: int


LOWEST_LEVEL: Final = 6
LINE: Final = re.compile(r"[^\n]+\n?(?:[^\S\n]*+\n)*+")
"""A line, with the blank ones after it."""
END_OF_SENTENCE: Final = re.compile(r"[.!?…][\"'”’)\]*_]*\s+|[。！？][」』”’）]*\s*")  # noqa: RUF001
END_OF_WORD: Final = re.compile(r"[,;，、；：]+\s*|\s+")  # noqa: RUF001
PIECE: Final = re.compile(r"\w{1,32}\W{0,32}|\W{1,32}")
"""Letters and digits, then what is neither: from there on an edit in a long word moves nothing."""
HEADING: Final = re.compile(r" {0,3}(#{1,6})\s")
FENCE: Final = re.compile(r"\s*(`{3,}|~{3,})")


def sentences(text: str, *, markdown: bool, fence: str = "") -> Iterator[Unit]:
    """Cut ``text`` at the ends of lines and sentences; code in Markdown, at those of lines only.

    ``text`` begins with no white space, and its lines end with line feeds. It begins inside a block
    of code if there is a ``fence``, the mark that opened it.
    """
    boundary = int(Boundary.PARAGRAPH)
    for line in LINE.findall(text):
        end = Boundary.PARAGRAPH if line.count("\n") > 1 else Boundary.LINE
        before = fence
        fence = _fence_after(line, before) if markdown else ""
        if before:
            yield Unit(line, boundary - 1)
        elif fence:
            yield Unit(line, boundary)
        elif markdown and (heading := HEADING.match(line)):
            if boundary != Boundary.AFTER_HEADING:
                boundary = Boundary.HEADING + LOWEST_LEVEL - len(heading[1])
            yield Unit(line, boundary)
            end = Boundary.AFTER_HEADING
        else:
            yield from _cut(Unit(line, boundary), END_OF_SENTENCE, Boundary.SENTENCE)
        boundary = end


def open_fence(text: str, fence: str) -> str:
    """The mark that opened the block of code in which Markdown stands after ``text``; empty if in
    none. See `sentences`."""
    for line in LINE.findall(text):
        fence = _fence_after(line, fence)
    return fence


def _fence_after(line: str, fence: str) -> str:
    if not fence:
        opening = FENCE.match(line)
        return opening[1] if opening else ""
    closes = line.strip().startswith(fence) and not line.strip().strip(fence[0])
    return "" if closes else fence


def words(unit: Unit) -> Iterator[Unit]:
    """Cut ``unit`` at white space, and after commas and semicolons."""
    return _cut(unit, END_OF_WORD, Boundary.WORD)


def pieces(unit: Unit) -> Iterator[Unit]:
    """Cut ``unit``, a long word, into pieces of at most 64 characters."""
    return _cut(unit, PIECE, Boundary.PIECE)


def _cut(unit: Unit, end: re.Pattern[str], boundary: Boundary) -> Iterator[Unit]:
    """The parts of ``unit`` up to each ``end``, divided by ``boundary``."""
    start, before = 0, unit.boundary
    for match in end.finditer(unit.text):
        yield Unit(unit.text[start : match.end()], before)
        start, before = match.end(), boundary
    if start < len(unit.text):
        yield Unit(unit.text[start:], before)
