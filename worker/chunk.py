"""Text to chunks: a pure function of the text, never of its history. Runs in the pool's children.

An edit changes the chunks it lies in and hardly a neighbour, so only those are embedded again.
Units, which are sentences or lines, are joined until no two neighbours fit in one chunk: first
across the weakest boundaries, those between sentences, and last across headings. So a paragraph or
a section that fits in a chunk is never cut. Among boundaries of one kind the hash of the unit
behind it decides which comes first, an order that an edit changes nowhere but where it was made:
what is joined depends on the text nearby, not on where the text before it was cut.

Sizes are counted with the model's own tokenizer, so nothing is cut off when chunks are embedded.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import blake2b
from typing import Final, NamedTuple

from worker.token_counts import TokenCounter
from worker.units import Unit, pieces, sentences, words

CHUNKER: Final = "content-defined/1"
"""Part of the fingerprint: change it when the same text gives other chunks."""

CHARACTERS_A_TOKEN: Final = 16
"""Longer tokens count more than once. Text has about four characters a token, but to WordPiece a
megabyte without white space is a single token, which it does not know."""


class SizedText(NamedTuple):
    """A text, and how many tokens it counts as having, special ones not among them."""

    text: str
    tokens: int


class Chunker:
    """Cuts texts into chunks of at most ``max_tokens`` tokens, special tokens not counted."""

    def __init__(self, tokenizer_json: str, max_tokens: int) -> None:
        self._tokens = TokenCounter(tokenizer_json)
        self.max_tokens = max_tokens

    def chunks(self, text: str, *, markdown: bool) -> list[SizedText]:
        """Cut ``text``; the chunks are in its order, without white space around them.

        Inside a chunk only the ends of lines are changed: all become line feeds.
        """
        text = "\n".join(text.splitlines()).strip()
        sized = list(self._sized(sentences(text, markdown=markdown), words, pieces))
        groups = _joined([unit for unit, _ in sized], [size for _, size in sized], self.max_tokens)
        return [chunk for group in groups for chunk in self._fitting(group)]

    def _sized(
        self, units: Iterable[Unit], *cuts: Callable[[Unit], Iterator[Unit]]
    ) -> Iterator[tuple[Unit, int]]:
        """Units with their tokens. Those too large for a chunk are cut: by the first of ``cuts``,
        and what is still too large by the next."""
        units = list(units)
        for unit, size in zip(units, self._sizes([unit.text for unit in units]), strict=True):
            if size > self.max_tokens and cuts:
                yield from self._sized(cuts[0](unit), *cuts[1:])
            else:
                yield unit, size

    def _fitting(self, group: Sequence[Unit]) -> Iterator[SizedText]:
        """The chunk that ``group`` makes; the chunks, if it turns out not to fit in one.

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
        """How many tokens each text has, or counts as having."""
        return [
            max(tokens, len(text.strip()) // CHARACTERS_A_TOKEN)
            for text, tokens in zip(texts, self._tokens.counts(texts), strict=True)
        ]


def _strength(unit: Unit) -> tuple[int, bytes]:
    """How firmly ``unit`` is kept apart from the one before it."""
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
