"""Cuts text into content-defined chunks. Runs in parse processes.

The chunks depend on the text only, and an edit changes only the chunks near it.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import IntEnum
from hashlib import blake2b
from typing import Final, NamedTuple

from worker.text.parts import SizedText
from worker.text.word_tokens import token_counts


class Boundary(IntEnum):
    """What separates a unit from the one before it; the weakest first."""

    AFTER_HEADING = 0  # a heading stays with its text
    PIECE = 1  # inside a word that is too long for a chunk
    WORD = 2
    SENTENCE = 3
    CODE_LINE = 4
    LINE = 5  # also a blank line in a block of code
    PARAGRAPH = 6
    HEADING = 7  # of the lowest level; each level above it is stronger by one


class Unit(NamedTuple):
    """A part of a text, with the white space after it. Joined, all units are the text."""

    text: str
    boundary: int


LOWEST_LEVEL: Final = 6
LINE: Final = re.compile(r"[^\n]+\n?(?:[^\S\n]*+\n)*+")
"""A line with the blank lines after it."""
END_OF_SENTENCE: Final = re.compile(r"[.!?…][\"'”’)\]*_]*\s+|[。！？][」』”’）]*\s*")  # noqa: RUF001
END_OF_WORD: Final = re.compile(r"[,;，、；：]+\s*|\s+")  # noqa: RUF001
PIECE: Final = re.compile(r"\w{1,32}\W{0,32}|\W{1,32}")
"""Letters and digits, then other characters: an edit in a long word moves no later piece."""
HEADING: Final = re.compile(r" {0,3}(#{1,6})\s")
FENCE: Final = re.compile(r"\s*(`{3,}|~{3,})")


def sentences(text: str, *, markdown: bool, fence: str = "") -> Iterator[Unit]:
    """Cut ``text`` at the ends of lines and sentences; code in Markdown only at the ends of lines.

    ``text`` must not begin with white space, and its lines must end with line feeds. ``fence`` is
    the mark that opened the code block in which the text begins; empty outside code.
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
    """Return the mark of the code block that is still open after ``text``; empty if there is none.

    ``fence`` is the one that is open before it; see `sentences`.
    """
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
    """Cut ``unit``, a long word, into pieces of up to 64 characters."""
    return _cut(unit, PIECE, Boundary.PIECE)


def _cut(unit: Unit, end: re.Pattern[str], boundary: Boundary) -> Iterator[Unit]:
    """Cut ``unit`` after each ``end``; the parts are separated by ``boundary``."""
    start, before = 0, unit.boundary
    for match in end.finditer(unit.text):
        yield Unit(unit.text[start : match.end()], before)
        start, before = match.end(), boundary
    if start < len(unit.text):
        yield Unit(unit.text[start:], before)


CHARACTERS_PER_TOKEN: Final = 16
"""A longer token counts as several. Text has about four characters per token, but WordPiece makes a
single unknown token of a megabyte without white space."""
SEGMENT_CHARACTERS: Final = 1024 * 1024
"""Cutting this much text takes about 25 MiB of memory."""
CR_LF: Final = re.compile("\r\n")


class FirstSegment(NamedTuple):
    """The chunks of a text's first segment, which is ``characters`` long.

    ``fence`` is the mark of the code block that is open at its end; empty if there is none.
    """

    chunks: list[SizedText]
    characters: int
    fence: str


class Chunker:
    """Cuts texts into chunks of at most ``max_tokens`` tokens, without special tokens.

    Text is cut segment by segment, each at most ``segment_characters`` long.
    """

    def __init__(
        self, tokenizer_json: str, max_tokens: int, segment_characters: int = SEGMENT_CHARACTERS
    ) -> None:
        self._tokens = token_counts(tokenizer_json)
        self.max_tokens = max_tokens
        self.segment_characters = segment_characters

    def chunks(self, text: str, *, markdown: bool) -> list[SizedText]:
        """Cut ``text`` into chunks, in order, without white space around them.

        Inside a chunk, every line end becomes a line feed; nothing else changes.
        """
        text = text.strip()
        chunks: list[SizedText] = []
        start, fence = 0, ""
        while start < len(text):
            head = text[start : start + self.segment_characters + 1]
            cut = self.first_segment(head, markdown=markdown, fence=fence)
            chunks += cut.chunks
            start, fence = start + cut.characters, cut.fence
        return chunks

    def first_segment(self, text: str, *, markdown: bool, fence: str = "") -> FirstSegment:
        """Cut the first segment of ``text``, which is all of it if it is short enough.

        Nothing beyond the first ``segment_characters`` influences the chunks. ``fence`` is the mark
        of the code block in which the text begins; see `sentences`.
        """
        head = text[: self.segment_characters]
        lines = "\n".join(head.splitlines())
        blank = len(lines) - len(lines.lstrip("\n"))  # blank lines at the start are no units
        units = list(sentences(lines, markdown=markdown, fence=fence))
        end = len(head)
        if len(text) > len(head):
            if (cut := _strongest_boundary(units, len(lines) // 2)) is not None:
                units = units[:cut]
                lines = "".join(unit.text for unit in units)
                end = _length_before(head, blank + len(lines))
            elif head.endswith("\r"):
                end -= 1  # it may be half of a CR LF
        chunks = self._chunks_of(units)
        return FirstSegment(chunks, end, open_fence(lines, fence) if markdown else "")

    def _chunks_of(self, units: Iterable[Unit]) -> list[SizedText]:
        sized = list(self._sized(units, words, pieces))
        groups = _join([unit for unit, _ in sized], [size for _, size in sized], self.max_tokens)
        return [chunk for group in groups for chunk in self._fitting(group)]

    def _sized(
        self, units: Iterable[Unit], *cuts: Callable[[Unit], Iterator[Unit]]
    ) -> Iterator[tuple[Unit, int]]:
        """Yield the units, each with its number of tokens.

        A unit that is too large for a chunk is cut by the first of ``cuts``, and what is still too
        large by the next.
        """
        units = list(units)
        for unit, size in zip(units, self._sizes([unit.text for unit in units]), strict=True):
            if size > self.max_tokens and cuts:
                yield from self._sized(cuts[0](unit), *cuts[1:])
            else:
                yield unit, size

    def _fitting(self, group: Sequence[Unit]) -> Iterator[SizedText]:
        """Yield the chunk that ``group`` makes, or several if it does not fit into one.

        A tokenizer may make more tokens of joined units than of the units one by one.
        """
        text = "".join(unit.text for unit in group).strip()
        [size] = self._sizes([text])
        if size <= self.max_tokens or len(text) == 1:
            if text:
                yield SizedText(text, size)
            return
        if len(group) == 1:
            group = [Unit(half, 0) for half in (text[: len(text) // 2], text[len(text) // 2 :])]
        middle = max(range(1, len(group)), key=lambda i: _strength(group[i]))
        yield from self._fitting(group[:middle])
        yield from self._fitting(group[middle:])

    def _sizes(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens that each text counts as."""
        return [
            max(tokens, len(text.strip()) // CHARACTERS_PER_TOKEN)
            for text, tokens in zip(texts, self._tokens.read(texts), strict=True)
        ]


def _strongest_boundary(units: Sequence[Unit], half: int) -> int | None:
    """Return the index of the unit with the strongest boundary after the first ``half`` characters.

    None if no unit begins there. The last unit does not count, because it may be cut off.
    """
    start, candidates = 0, []
    for index, unit in enumerate(units[:-1]):
        if start >= half and index:
            candidates.append(index)
        start += len(unit.text)
    return max(candidates, key=lambda index: _strength(units[index]), default=None)


def _length_before(text: str, characters: int) -> int:
    """Return the length of the prefix of ``text`` with ``characters`` characters.

    A CR LF counts as one character.
    """
    extra = 0
    for found in CR_LF.finditer(text):
        if found.start() - extra >= characters:
            break
        extra += 1
    return characters + extra


def _strength(unit: Unit) -> tuple[int, bytes]:
    """Return how strongly ``unit`` is separated from the one before it; a hash breaks ties."""
    return unit.boundary, blake2b(unit.text.strip().encode(), digest_size=8).digest()


def _join(units: Sequence[Unit], sizes: Sequence[int], limit: int) -> list[Sequence[Unit]]:
    """Join neighbours, the weakest boundary first, as long as their sizes stay within ``limit``."""
    sizes = list(sizes)  # a group's size, at the index of its first unit
    first = list(range(len(units)))  # a group's first unit, at the index of its last
    last = list(range(len(units)))  # a group's last unit, at the index of its first
    strengths = [_strength(unit) for unit in units]
    for right in sorted(range(1, len(units)), key=strengths.__getitem__):
        left = first[right - 1]
        if sizes[left] + sizes[right] <= limit:
            sizes[left] += sizes[right]
            last[left] = last[right]
            first[last[right]] = left
    groups = []
    start = 0
    while start < len(units):
        groups.append(units[start : last[start] + 1])
        start = last[start] + 1
    return groups
