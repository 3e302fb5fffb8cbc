"""Generated text that resembles prose, the same on every machine."""

import random
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Final

COMMON: Final = (
    "the of and to a in that it is was for as with on be at by this had not are but from or have "
    "an they which one you were all her she there would their we him been has when who will no "
    "more if out so up said what its about than into them can only other time new some could "
    "these two may first then do any like my now over such our man even most made after also"
)
SYLLABLES: Final = (
    "al an ar ber ca con da den dor el en er fal for ga gen ha hel in is ka lan le lor ma men mor "
    "na nor o per ra ren ri sa sen sol ta ter tor u va ven wa wil"
)
LEXICON_WORDS: Final = 30_000
RANK_SHIFT: Final = 2.7
"""A word's frequency is proportional to 1 / (rank + this), as in English (Mandelbrot 1953)."""
PARAGRAPHS_PER_SECTION: Final = 5
DRAWN_WORDS: Final = 1024
"""Words drawn at once, which is faster than one by one."""


class Prose:
    """A seeded generator of prose, in paragraphs of one to fourteen sentences."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)  # noqa: S311 - a benchmark
        self._lexicon = self._invented_after(COMMON.split())
        ranks = range(1, len(self._lexicon) + 1)
        self._weights = list(accumulate(1 / (rank + RANK_SHIFT) for rank in ranks))
        self._words = self._drawn()

    def sentence(self) -> str:
        """Return about twenty words, with a full stop."""
        length = max(3, int(self._rng.lognormvariate(2.7, 0.5)))
        return " ".join(self._word() for _ in range(length)).capitalize() + "."

    def paragraph(self) -> str:
        """Return one line of sentences."""
        length = min(14, max(1, int(self._rng.lognormvariate(1.2, 0.6))))
        return " ".join(self.sentence() for _ in range(length))

    def text(self, characters: int, *, markdown: bool) -> str:
        """Return paragraphs of at least ``characters``; Markdown with three levels of headings."""
        parts: list[str] = []
        size = 0
        while size < characters:
            if markdown and self._rng.random() < 1 / PARAGRAPHS_PER_SECTION:
                title = " ".join(self._word() for _ in range(3)).capitalize()
                parts.append("#" * self._rng.choice((1, 2, 2, 3, 3, 3)) + " " + title)
            parts.append(self.paragraph())
            size += len(parts[-1])
        return "\n\n".join(parts)

    def _word(self) -> str:
        return next(self._words)

    def _drawn(self) -> Iterator[str]:
        while True:
            yield from self._rng.choices(self._lexicon, cum_weights=self._weights, k=DRAWN_WORDS)

    def _invented_after(self, words: Sequence[str]) -> list[str]:
        """Return ``words`` followed by invented ones, of one to three syllables."""
        lexicon, syllables = dict.fromkeys(words), SYLLABLES.split()
        while len(lexicon) < LEXICON_WORDS:
            word = "".join(self._rng.choices(syllables, k=self._rng.choice((1, 2, 2, 3))))
            lexicon.setdefault(word)
        return list(lexicon)
