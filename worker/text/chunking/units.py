"""Reads a text into units, such as sentences and rows, with the strength of the boundaries between.

Of Markdown it knows headings, blocks of code and tables. Runs in parse processes.
"""

import re
from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import Final, NamedTuple

from worker.text.parts import NOTHING_OPEN, Heading, OpenBlocks


class Boundary(IntEnum):
    """What separates a unit from the one before it; the weakest first."""

    AFTER_HEADING = 0  # a heading stays with its text
    PIECE = 1  # inside a word that is too long for a chunk
    WORD = 2
    SENTENCE = 3
    CODE_LINE = 4
    LINE = 5  # also a row of a table, and a blank line in a block of code
    PARAGRAPH = 6
    HEADING = 7  # of the lowest level; each level above it is stronger by one


class Unit(NamedTuple):
    """A stretch of a text, with the white space after it. Joined, all units are the text.

    ``open`` is what is open where it begins.
    """

    text: str
    boundary: int
    open: OpenBlocks = NOTHING_OPEN


LOWEST_LEVEL: Final = 6
LINE: Final = re.compile(r"[^\n]+\n?(?:[^\S\n]*+\n)*+")
"""A line with the blank lines after it."""
END_OF_SENTENCE: Final = re.compile(r"[.!?…][\"'”’)\]*_]*\s+|[。！？][」』”’）]*\s*")  # noqa: RUF001
END_OF_WORD: Final = re.compile(r"[,;，、；：]+\s*|\s+")  # noqa: RUF001
PIECE: Final = re.compile(r"\w{1,32}\W{0,32}|\W{1,32}")
"""Letters and digits, then other characters: an edit in a long word moves no later piece."""
HEADING: Final = re.compile(r" {0,3}(#{1,6})\s")
UNDERLINE: Final = re.compile(r" {0,3}(?:(={3,})|-{3,})\s*$")
"""Makes the line above it a heading, of level 1 or 2."""
FENCE: Final = re.compile(r"\s*(`{3,}|~{3,})")
DELIMITER_ROW: Final = re.compile(
    r"[ \t]*+\|?+[ \t]*+:?+-++:?+(?:[ \t]*+\|[ \t]*+:?+-++:?+)*+\s*+\|?+\s*+$"
)
"""Stands below the header row of a table."""
HEADING_CHARACTERS: Final = 200
"""Of a heading, that are kept for the contexts of the chunks below it."""
HEADER_CHARACTERS: Final = 4096
"""Of the header row of a table, that are kept to be repeated."""
LINK: Final = re.compile(r"!?\[([^\[\]]*+)\]\([^()]*+\)")
HEADING_MARKS: Final = re.compile(r"\*\*|__|`|\{#[^{}]*+\}|[ \t]#++\s*+$")
"""Mark-up in a heading that is not part of what it says."""


def sentences(
    text: str, *, markdown: bool, start: OpenBlocks = NOTHING_OPEN
) -> tuple[list[Unit], OpenBlocks]:
    """Cut ``text`` at the ends of lines and sentences; return its units, and what is open after it.

    Code and tables in Markdown are cut only at the ends of lines. ``text`` must not begin with
    white space, and its lines must end with line feeds. ``start`` is what is open where it begins.
    """
    units: list[Unit] = []
    lines = LINE.findall(text)
    if not markdown:
        boundary = int(Boundary.PARAGRAPH)
        for line in lines:
            units += _cut(Unit(line, boundary, start), END_OF_SENTENCE, Boundary.SENTENCE)
            boundary = _end(line)
        return units, start
    reader = _MarkdownReader(start)
    reader.read_all(lines)
    return reader.units, reader.open


def title_heading(markdown: str) -> str | None:
    """Return what the first heading says that is of the highest level, or has no text before it."""
    reader = _MarkdownReader(NOTHING_OPEN)
    reader.read_all(LINE.findall(markdown))
    return next((h.text for at, h in reader.headings if h.text and (h.level == 1 or at == 0)), None)


class _MarkdownReader:
    """Reads the lines of Markdown into ``units``; ``open`` is what is open after them.

    ``headings`` has each heading with the index of its unit.
    """

    def __init__(self, start: OpenBlocks) -> None:
        self.units: list[Unit] = []
        self.headings: list[tuple[int, Heading]] = []
        self.open = start
        self._boundary = int(Boundary.PARAGRAPH)

    def read_all(self, lines: Sequence[str]) -> None:
        """Read ``lines``, one after the other."""
        index = 0
        while index < len(lines):
            index += self.read(lines[index], lines[index + 1] if index + 1 < len(lines) else "")

    def read(self, line: str, following: str) -> int:
        """Read ``line``, and ``following`` if both are one unit; return how many were read."""
        fence, header = self.open.fence, self.open.header
        if not fence and header and "|" in line and not _begins_table(line, following):
            self.units.append(Unit(line, self._boundary, self.open))
            self._boundary = _end(line)
            if self._boundary == Boundary.PARAGRAPH:
                self._end_table()
            return 1
        self._end_table()
        if fence or FENCE.match(line):
            self.units.append(Unit(line, self._boundary - bool(fence), self.open))
            self._boundary = _end(line)
            self.open = self.open._replace(fence=_fence_after(line, fence))
        elif heading := HEADING.match(line):
            self._read_heading(line, Heading(len(heading[1]), plain(line[heading.end() :])))
        elif _begins_table(line, following):
            self.units.append(Unit(line + following, self._boundary, self.open))
            self._boundary = _end(following)
            if self._boundary == Boundary.LINE:
                self.open = self.open._replace(header=line.strip()[:HEADER_CHARACTERS])
            return 2
        elif self._boundary != Boundary.LINE and (level := _level_below(line, following)):
            self._read_heading(line + following, Heading(level, plain(line)))
            return 2
        else:
            whole = Unit(line, self._boundary, self.open)
            self.units += _cut(whole, END_OF_SENTENCE, Boundary.SENTENCE)
            self._boundary = _end(line)
        return 1

    def _read_heading(self, text: str, heading: Heading) -> None:
        if self._boundary != Boundary.AFTER_HEADING:
            self._boundary = Boundary.HEADING + LOWEST_LEVEL - heading.level
        above = tuple(other for other in self.open.headings if other.level < heading.level)
        self.open = self.open._replace(headings=above)
        self.headings.append((len(self.units), heading))
        self.units.append(Unit(text, self._boundary, self.open))
        self._boundary = Boundary.AFTER_HEADING
        if heading.text:
            self.open = self.open._replace(headings=(*above, heading))

    def _end_table(self) -> None:
        if self.open.header:
            self.open = self.open._replace(header="")


def _end(line: str) -> int:
    """Return the boundary after ``line``."""
    return Boundary.PARAGRAPH if line.count("\n") > 1 else Boundary.LINE


def _begins_table(line: str, following: str) -> bool:
    return "|" in line and line.count("\n") == 1 and is_delimiter_row(following)


def is_delimiter_row(line: str) -> bool:
    """Return True if ``line`` makes the line above it the header row of a table."""
    return "|" in line and DELIMITER_ROW.match(line) is not None


def _level_below(line: str, following: str) -> int:
    """Return the level of the heading that ``following`` makes of ``line``; 0 if it makes none."""
    mark = UNDERLINE.match(following)
    if mark is None or line.count("\n") != 1:
        return 0
    return 1 if mark[1] else 2


def _fence_after(line: str, fence: str) -> str:
    if not fence:
        opening = FENCE.match(line)
        return opening[1] if opening else ""
    closes = line.strip().startswith(fence) and not line.strip().strip(fence[0])
    return "" if closes else fence


def plain(heading: str) -> str:
    """Return what the source of a heading says, without mark-up, on one line."""
    text = LINK.sub(r"\1", heading[: 2 * HEADING_CHARACTERS])
    return " ".join(HEADING_MARKS.sub("", text).split())[:HEADING_CHARACTERS]


def parts_of_line(unit: Unit) -> Iterator[Unit]:
    """Cut ``unit``, a line of code or a row of a table, at the ends of sentences."""
    return _cut(unit, END_OF_SENTENCE, Boundary.SENTENCE)


def words(unit: Unit) -> Iterator[Unit]:
    """Cut ``unit`` at white space, and after commas and semicolons."""
    return _cut(unit, END_OF_WORD, Boundary.WORD)


def pieces(unit: Unit) -> Iterator[Unit]:
    """Cut ``unit``, a long word, into pieces of up to 64 characters."""
    return _cut(unit, PIECE, Boundary.PIECE)


def _cut(unit: Unit, end: re.Pattern[str], boundary: Boundary) -> Iterator[Unit]:
    """Cut ``unit`` after each ``end``; the parts are separated by ``boundary``."""
    start, before = 0, unit.boundary
    for match in end.finditer(unit.text):
        yield Unit(unit.text[start : match.end()], before, unit.open)
        start, before = match.end(), boundary
    if start < len(unit.text):
        yield Unit(unit.text[start:], before, unit.open)
