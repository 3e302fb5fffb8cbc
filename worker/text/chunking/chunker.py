"""Cuts text into content-defined chunks. Runs in parse processes.

The chunks depend on the text only, and an edit changes only the chunks near it.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from hashlib import blake2b
from typing import Final, NamedTuple

from worker.text.chunking.context import NOWHERE, SHARE, LeadWriter, Origin, shortened
from worker.text.chunking.units import Unit, parts_of_line, pieces, sentences, words
from worker.text.chunking.word_tokens import token_counts
from worker.text.parts import AFTER_CONTEXT, NOTHING_OPEN, Chunk, OpenBlocks, with_context

CHARACTERS_PER_TOKEN: Final = 16
"""A longer token counts as several. Text has about four characters per token, but WordPiece makes a
single unknown token of a megabyte without white space, and none of zero-width characters."""
SEGMENT_CHARACTERS: Final = 1024 * 1024
"""Cutting so much text takes about 25 MiB of memory; ten times as much if each letter is a word."""
JOINT_TOKENS: Final = 2
"""A tokenizer may make so many more tokens of two joined texts than of one by one."""
CR_LF: Final = re.compile("\r\n")


class FirstSegment(NamedTuple):
    """The chunks of a text's first segment, which is ``characters`` long.

    ``open`` is what is open at its end.
    """

    chunks: list[Chunk]
    characters: int
    open: OpenBlocks


class Chunker:
    """Cuts texts into chunks of at most ``max_tokens`` tokens, without special tokens.

    The tokens of a chunk are those of its context and its body. So a chunk has less text of its
    own under long headings, wherever it stands; see `worker.text.chunking.context`.

    Text is cut segment by segment, each at most ``segment_characters`` long.
    """

    def __init__(
        self, tokenizer_json: str, max_tokens: int, segment_characters: int = SEGMENT_CHARACTERS
    ) -> None:
        self._tokens = token_counts(tokenizer_json)
        self.max_tokens = max_tokens
        self.segment_characters = segment_characters

    def chunks(self, text: str, *, markdown: bool, origin: Origin = NOWHERE) -> list[Chunk]:
        """Cut ``text``, which is from ``origin``, into chunks, in order.

        Their bodies have no white space around them, and every line end in them is a line feed. In
        a table, the header row is repeated. Nothing else changes.
        """
        return self.continued(text, markdown=markdown, origin=origin, start=NOTHING_OPEN).chunks

    def fitting(
        self, body: str, context: str, page: int | None = None, part: str | None = None
    ) -> list[Chunk]:
        """Return the chunk of ``body`` and ``context``; several if it would have too many tokens.

        A context that takes more than one in `SHARE` of the tokens is shortened.
        """
        size = self._size(with_context(context, body))
        if size <= self.max_tokens:
            return [Chunk(body, context, size, page, part)]
        context = shortened([context], self.max_tokens // SHARE, self._size) if context else ""
        smaller = copy(self)
        smaller.max_tokens = self.max_tokens - self._size(context + AFTER_CONTEXT) - JOINT_TOKENS
        bodies = [chunk.body for chunk in smaller.chunks(body, markdown=False)]
        sizes = self._sizes([with_context(context, each) for each in bodies])
        return [
            Chunk(each, context, tokens, page, part)
            for each, tokens in zip(bodies, sizes, strict=True)
        ]

    def continued(
        self, text: str, *, markdown: bool, origin: Origin, start: OpenBlocks
    ) -> FirstSegment:
        """Cut all of ``text``, at whose start the blocks ``start`` are open; see `chunks`."""
        text = text.strip()
        chunks: list[Chunk] = []
        done = 0
        while done < len(text):
            head = text[done : done + self.segment_characters + 1]
            cut = self.first_segment(head, markdown=markdown, origin=origin, start=start)
            chunks += cut.chunks
            done, start = done + cut.characters, cut.open
        return FirstSegment(chunks, done, start)

    def first_segment(
        self,
        text: str,
        *,
        markdown: bool,
        origin: Origin = NOWHERE,
        start: OpenBlocks = NOTHING_OPEN,
    ) -> FirstSegment:
        """Cut the first segment of ``text``, which is all of it if it is short enough.

        Nothing beyond the first ``segment_characters`` influences the chunks. ``start`` is what is
        open where the text begins.
        """
        head = text[: self.segment_characters]
        lines = "\n".join(head.splitlines())
        blank = len(lines) - len(lines.lstrip("\n"))  # blank lines at the start are no units
        units, open_blocks = sentences(lines, markdown=markdown, start=start)
        end = len(head)
        if len(text) > len(head):
            if (cut := _strongest_boundary(units, len(lines) // 2)) is not None:
                open_blocks = units[cut].open
                units = units[:cut]
                end = _length_before(head, blank + sum(len(unit.text) for unit in units))
            elif head.endswith("\r"):
                end -= 1  # it may be half of a CR LF
        return FirstSegment(list(self._chunks_of(units, origin)), end, open_blocks)

    def _chunks_of(self, units: Iterable[Unit], origin: Origin) -> Iterator[Chunk]:
        leads = LeadWriter(origin, self.max_tokens // SHARE, self._size)
        sized = list(self._sized(units, leads, parts_of_line, words, pieces))
        groups = _join(
            [one.unit for one in sized], [one.size for one in sized], [one.limit for one in sized]
        )
        for group in groups:
            yield from self._fitting(group, leads, origin)

    def _sized(
        self,
        units: Iterable[Unit],
        leads: LeadWriter,
        *cuts: Callable[[Unit], Iterator[Unit]],
    ) -> Iterator["_SizedUnit"]:
        """Yield the units, each with its number of tokens.

        A unit that is too large for a chunk is cut by the first of ``cuts``, and what is still too
        large by the next.
        """
        units = list(units)
        for unit, size in zip(units, self._sizes([unit.text for unit in units]), strict=True):
            limit = self.max_tokens - leads.lead(unit).tokens
            if size > limit and cuts:
                yield from self._sized(cuts[0](unit), leads, *cuts[1:])
            else:
                yield _SizedUnit(unit, size, limit)

    def _fitting(self, group: Sequence[Unit], leads: LeadWriter, origin: Origin) -> Iterator[Chunk]:
        """Yield the chunk that ``group`` makes, or several if it does not fit into one.

        A tokenizer may make more tokens of joined units than of the units one by one.
        """
        waiting = [group]  # no recursion: a group of equal units may be cut many times
        while waiting:
            group = waiting.pop()
            text = "".join(unit.text for unit in group).strip()
            if not text:
                continue
            lead = leads.lead(group[0])
            body = lead.header + text
            size = self._size(with_context(lead.context, body))
            if size <= self.max_tokens or len(text) == 1:
                yield Chunk(body, lead.context, size, origin.page, origin.part, lead.file_title)
                continue
            if len(group) == 1:
                halves = text[: len(text) // 2], text[len(text) // 2 :]
                group = [group[0]._replace(text=half, boundary=0) for half in halves]
            middle = _strongest(group)
            waiting += (group[middle:], group[:middle])

    def _size(self, text: str) -> int:
        return self._sizes([text])[0]

    def _sizes(self, texts: Sequence[str]) -> list[int]:
        """Return how many tokens each text counts as: at least one, unless it is blank."""
        lengths = [len(text.strip()) for text in texts]
        return [
            max(tokens, length // CHARACTERS_PER_TOKEN, min(length, 1))
            for length, tokens in zip(lengths, self._tokens.read(texts), strict=True)
        ]


class _SizedUnit(NamedTuple):
    """A unit with its number of tokens, and the most that a chunk may have that begins with it.

    Neither counts the context or the repeated header of that chunk.
    """

    unit: Unit
    size: int
    limit: int


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


def _strongest(group: Sequence[Unit]) -> int:
    """Return the index of the unit with the strongest boundary; of equal ones, the middle one."""
    strengths = list(map(_strength, group))
    return max(
        range(1, len(group)), key=lambda index: (strengths[index], -abs(2 * index - len(group)))
    )


def _join(
    units: Sequence[Unit], sizes: Sequence[int], limits: Sequence[int]
) -> list[Sequence[Unit]]:
    """Join neighbours, the weakest boundary first, as long as their sizes stay within the limit.

    The limit of a group is that of its first unit.
    """
    sizes = list(sizes)  # a group's size, at the index of its first unit
    first = list(range(len(units)))  # a group's first unit, at the index of its last
    last = list(range(len(units)))  # a group's last unit, at the index of its first
    strengths = [_strength(unit) for unit in units]
    for right in sorted(range(1, len(units)), key=strengths.__getitem__):
        left = first[right - 1]
        if sizes[left] + sizes[right] <= limits[left]:
            sizes[left] += sizes[right]
            last[left] = last[right]
            first[last[right]] = left
    groups = []
    start = 0
    while start < len(units):
        groups.append(units[start : last[start] + 1])
        start = last[start] + 1
    return groups
