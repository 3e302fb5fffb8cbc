"""Text to chunks: a pure function of the text, never of its history. Runs in parse processes."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import IntEnum
from hashlib import blake2b
from typing import Final, NamedTuple

from worker.text.parts import SizedText
from worker.text.word_tokens import token_counts


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
    """Return the mark of the block of code that is open after ``text``; empty if none is.

    See `sentences`.
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
    """Cut ``unit``, a long word, into pieces of at most 64 characters."""
    return _cut(unit, PIECE, Boundary.PIECE)


def _cut(unit: Unit, end: re.Pattern[str], boundary: Boundary) -> Iterator[Unit]:
    """Yield the pieces of ``unit`` up to each ``end``, divided by ``boundary``."""
    start, before = 0, unit.boundary
    for match in end.finditer(unit.text):
        yield Unit(unit.text[start : match.end()], before)
        start, before = match.end(), boundary
    if start < len(unit.text):
        yield Unit(unit.text[start:], before)


CHARACTERS_A_TOKEN: Final = 16
"""Longer tokens count more than once. Text has about four characters a token, but to WordPiece a
megabyte without white space is a single token, which it does not know."""


SEGMENT_CHARACTERS: Final = 1024 * 1024
"""Cutting so many takes about 25 MiB of memory."""
CR_LF: Final = re.compile("\r\n")


class FirstSegment(NamedTuple):
    """The chunks of the segment that a text begins with, which is ``characters`` long.

    What comes after it is inside a block of code if there is a ``fence``, see
    `worker.text.chunker`.
    """

    chunks: list[SizedText]
    characters: int
    fence: str


class Chunker:
    """Cuts texts into chunks of at most ``max_tokens`` tokens, special tokens not counted.

    A segment is at most ``segment_characters`` long.
    """

    def __init__(
        self, tokenizer_json: str, max_tokens: int, segment_characters: int = SEGMENT_CHARACTERS
    ) -> None:
        self._tokens = token_counts(tokenizer_json)
        self.max_tokens = max_tokens
        self.segment_characters = segment_characters

    def chunks(self, text: str, *, markdown: bool) -> list[SizedText]:
        """Cut ``text``; the chunks are in its order, without white space around them.

        Inside a chunk only the ends of lines are changed: all become line feeds.
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
        """Cut the segment that ``text`` begins with; all of it, if it is no longer than one.

        For the rest nothing beyond the first ``segment_characters`` is looked at. The text begins
        inside a block of code if there is a ``fence``.
        """
        head = text[: self.segment_characters]
        lines = "\n".join(head.splitlines())
        blank = len(lines) - len(lines.lstrip("\n"))  # such lines are no units
        units = list(sentences(lines, markdown=markdown, fence=fence))
        end = len(head)
        if len(text) > len(head):
            if (cut := _strongest(units, len(lines) // 2)) is not None:
                units = units[:cut]
                lines = "".join(unit.text for unit in units)
                end = _length_before(head, blank + len(lines))
            elif head.endswith("\r"):
                end -= 1  # a line feed may follow
        chunks = self._joined_chunks(units)
        return FirstSegment(chunks, end, open_fence(lines, fence) if markdown else "")

    def _joined_chunks(self, units: Iterable[Unit]) -> list[SizedText]:
        sized = list(self._sized(units, words, pieces))
        groups = _joined([unit for unit, _ in sized], [size for _, size in sized], self.max_tokens)
        return [chunk for group in groups for chunk in self._fitting(group)]

    def _sized(
        self, units: Iterable[Unit], *cuts: Callable[[Unit], Iterator[Unit]]
    ) -> Iterator[tuple[Unit, int]]:
        """Yield units with their tokens.

        Those too large for a chunk are cut by the first of ``cuts``, and what is still too large by
        the next.
        """
        units = list(units)
        for unit, size in zip(units, self._sizes([unit.text for unit in units]), strict=True):
            if size > self.max_tokens and cuts:
                yield from self._sized(cuts[0](unit), *cuts[1:])
            else:
                yield unit, size

    def _fitting(self, group: Sequence[Unit]) -> Iterator[SizedText]:
        """Yield the chunk that ``group`` makes, or several if it turns out not to fit in one.

        No tokenizer promises that units have as many tokens together as one by one.
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
        """Return how many tokens each text has, or counts as having."""
        return [
            max(tokens, len(text.strip()) // CHARACTERS_A_TOKEN)
            for text, tokens in zip(texts, self._tokens.read(texts), strict=True)
        ]


def _strongest(units: Sequence[Unit], half: int) -> int | None:
    """Return the index of the unit with the strongest boundary beyond ``half`` a window.

    None if no unit begins there. The last one does not count: it may go on beyond the window.
    """
    start, candidates = 0, []
    for index, unit in enumerate(units[:-1]):
        if start >= half and index:
            candidates.append(index)
        start += len(unit.text)
    return max(candidates, key=lambda index: _strength(units[index]), default=None)


def _length_before(text: str, characters: int) -> int:
    """Return the length of the beginning of ``text`` that has so many ``characters``.

    Every end of a line counts as one of them.
    """
    extra = 0
    for found in CR_LF.finditer(text):
        if found.start() - extra >= characters:
            break
        extra += 1
    return characters + extra


def _strength(unit: Unit) -> tuple[int, bytes]:
    """Return how firmly ``unit`` is kept apart from the one before it."""
    return unit.boundary, blake2b(unit.text.strip().encode(), digest_size=8).digest()


def _joined(units: Sequence[Unit], sizes: Sequence[int], limit: int) -> list[Sequence[Unit]]:
    """Join neighbours across one boundary after the other, the weakest first, if their ``sizes``
    come to at most ``limit``."""
    sizes = list(sizes)  # of a group: at its first unit
    first = list(range(len(units)))  # first unit of the group, at its last unit
    last = list(range(len(units)))  # last unit of the group, at its first unit
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
