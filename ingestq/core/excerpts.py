"""Excerpts: the part of a text that a query is about.

What the query says is found by the same terms as a search by words finds it, except for stems: in
any case and width, with or without accents, and in scripts without spaces by pairs of characters.
"""

from collections import Counter, deque
from collections.abc import Iterator, Set
from itertools import groupby, pairwise
from typing import Final, NamedTuple

import regex

from ingestq.core.terms import (
    UNSPACED,
    compatible,
    searched_terms,
    split,
    tokens,
)

COMMON_WORDS: Final = frozenset(
    regex.findall(
        r"\w+",
        "a an and are as at be by can did do does for from had has have how if in into is it its "
        "no not of on or our so than that the their then there these they this to was we were what "
        "when where which who whom whose why will with you your",
    )
)
"""Words that are in every text, so that finding them says nothing."""

EXCERPT_CHARACTERS: Final = 600
BEFORE_CHARACTERS: Final = 150
"""How much of the text before the first word of the query is in an excerpt."""
AFTER_CHARACTERS: Final = EXCERPT_CHARACTERS - BEFORE_CHARACTERS

_RUN: Final = rf"[{UNSPACED}\u3099\u309a\uff9e\uff9f]"
"""The characters of scripts without spaces, with the marks of Kana that belong to no script."""
_WORD: Final = regex.compile(rf"(?P<run>{_RUN}+)|[\w--{_RUN}]+", regex.V1)
_CLUSTER: Final = regex.compile(r"\X")
"""What a reader takes for one character."""


class Match(NamedTuple):
    """A part of a text, from ``start`` to ``end``, and the ``terms`` of the query that it has."""

    start: int
    end: int
    terms: Set[str]


def excerpt(text: str, query: str) -> str:
    """Return ``text``; if it is long, the part that has the most different words of ``query``."""
    if len(text) <= EXCERPT_CHARACTERS:
        return text
    start = max(0, _first_of_most(text, query) - BEFORE_CHARACTERS)
    end = min(len(text), start + EXCERPT_CHARACTERS)
    start = end - EXCERPT_CHARACTERS
    return f"{'…' if start else ''}{text[start:end]}{'…' if end < len(text) else ''}"


def _first_of_most(text: str, query: str) -> int:
    """Return where the most different words of ``query`` begin that fit into an excerpt."""
    best, first = 0, 0
    near: deque[Match] = deque()
    times: Counter[str] = Counter()
    for found in matches(text, query):
        near.append(found)
        times.update(found.terms)
        while found.end - near[0].start > AFTER_CHARACTERS and len(near) > 1:
            for term in near.popleft().terms:
                times[term] -= 1
                if not times[term]:
                    del times[term]
        if len(times) > best:
            best, first = len(times), near[0].start
    return first


def matches(text: str, query: str) -> Iterator[Match]:
    """Yield where ``text`` has words of ``query``, in their order.

    Words that are in every text count only if the query has no others.
    """
    wanted = _wanted(query)
    for word in _WORD.finditer(text) if wanted else ():
        if word["run"]:
            yield from _in_run(word[0], word.start(), wanted)
        elif terms := wanted & searched_terms(compatible(word[0])):
            yield Match(word.start(), word.end(), terms)


def _wanted(query: str) -> Set[str]:
    """Return the terms of ``query``, without common words if it has others."""
    asked = {token for piece in split(query) for token in tokens(piece)}
    terms = {term for token in asked for term in searched_terms(token)}
    return terms - COMMON_WORDS or terms


def _in_run(run: str, start: int, wanted: Set[str]) -> Iterator[Match]:
    """Yield the parts of ``run``, which begins at ``start``, that consist of wanted pairs."""
    signs: list[tuple[str, int, int]] = []  # as they are compared, and where they are
    for cluster in _CLUSTER.finditer(run):
        signs += ((sign, cluster.start(), cluster.end()) for sign in compatible(cluster[0]))
    terms = [{sign} & wanted for sign, _, _ in signs]
    for place, ((one, _, _), (two, _, _)) in enumerate(pairwise(signs)):
        if (pair := one + two) in wanted:
            terms[place].add(pair)
            terms[place + 1].add(pair)
    for is_match, group in groupby(range(len(signs)), key=lambda place: bool(terms[place])):
        if is_match:
            places = list(group)
            found = set().union(*(terms[place] for place in places))
            yield Match(start + signs[places[0]][1], start + signs[places[-1]][2], found)
