"""Encodes text as sparse vectors for BM25. Runs in parse processes.

A chunk is indexed by its words as they are written, and by their stems in the language of the
chunk. A query is too short to tell its language, so it asks for its words as they are written, and
for their stems in all languages: other forms of a word are found whatever language the chunk was
taken for. A word in the same form matches twice, by itself and by its stem, so it ranks first; a
stem in an unlikely language counts little.

Stop words are indexed, because a stop word of one language is a name or a verb in another, and the
server weights words by how rare they are (``Modifier.IDF``). They are left out of queries whose
language is certain.

Terms are numbered as a Qdrant server does it for its model ``qdrant/bm25``.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import chain
from operator import attrgetter
from typing import Final, NamedTuple

from qdrant_edge import Bm25, Bm25Config, DisabledStemmer, StopwordsSet, TokenizerType
from Stemmer import Stemmer

from ingestq.core.terms import (
    indexed_terms,
    is_unspaced,
    lower,
    plain,
    script_of,
    searched_terms,
    split,
    tokens,
    words,
)
from worker.text.parts import SparseVector
from worker.text.words.languages import BY_CODE, SCRIPTS, Language, in_script, stop_word_counts

SATURATION: Final = 1.2
"""BM25's k: how fast further occurrences of a word stop to count."""
LENGTH_WEIGHT: Final = 0.75
"""BM25's b: how much the length of a text counts."""
AVERAGE_WORDS: Final = 256
"""BM25's average length, which has to be the same for all texts ever indexed. These three are
Qdrant's own."""
UNLIKELY_WEIGHT: Final = 0.2
"""Weight of a query's stem in a language that is not the likeliest."""
CERTAIN_STOP_WORDS: Final = 2
"""So many stop words of one language make the language of a query certain."""
STEMMED: Final = range(3, 41)
"""Lengths of words that have a stem. A shorter one has no endings, and a longer one is no word."""
KEPT_CHARACTERS: Final = 500_000
"""Total length of the cached pieces of text."""
KEPT_NUMBERS: Final = 50_000
"""How many terms are cached."""


class _Piece(NamedTuple):
    """A piece of text between spaces: the numbers of its terms, and of how many words it is."""

    terms: Sequence[int]
    words: int


TERMS: Final = attrgetter("terms")
WORDS: Final = attrgetter("words")


class SparseEncoder:
    """Encodes texts as sparse vectors. That of a text without words is empty and never matches.

    Texts are taken to be in one of ``languages``, as codes of ISO 639-1; empty means any. What is
    encoded depends on nothing but them and the text.
    """

    def __init__(self, languages: Sequence[str] = ()) -> None:
        self._languages = {script: in_script(script, languages) for script in SCRIPTS}
        self._stemmers = {code: Stemmer(code, 0) for code in BY_CODE}
        self._known: dict[tuple[Language, ...], dict[str, _Piece]] = {}
        self._characters = 0

    def document(self, text: str) -> SparseVector:
        """Encode a chunk: each term is weighted by its count and the length of the text.

        The server weights terms by how rare they are in the collection (``Modifier.IDF``).
        """
        pieces = split(text)
        likely = self._likeliest(stop_word_counts(pieces))
        if self._characters > KEPT_CHARACTERS:
            self._known.clear()
            self._characters = 0
        known = self._known.setdefault(tuple(likely.values()), {})
        for new in set(pieces).difference(known):
            known[new] = self._encoded(new, likely)
            self._characters += len(new)
        found = list(map(known.__getitem__, pieces))
        counts = Counter(chain.from_iterable(map(TERMS, found)))
        length = sum(map(WORDS, found))
        relative = 1 - LENGTH_WEIGHT + LENGTH_WEIGHT * length / AVERAGE_WORDS
        return SparseVector.of(
            list(counts),
            [n * (SATURATION + 1) / (n + SATURATION * relative) for n in counts.values()],
        )

    def query(self, text: str) -> SparseVector:
        """Encode a search query: words have the weight 1, and so have their likely stems."""
        pieces = split(text)
        stop_words = stop_word_counts(pieces)
        likely = self._likeliest(stop_words)
        asked = list(dict.fromkeys(token for piece in pieces for token in tokens(piece)))
        for code, count in stop_words.most_common(1):
            if count >= CERTAIN_STOP_WORDS:
                idle = BY_CODE[code].stop_words
                # A query of nothing else is about these words.
                asked = [token for token in asked if lower(token) not in idle] or asked
        weights: dict[int, float] = {}
        for token in asked:
            unlikely = {stem for word in words(token) for stem in self._all_stems(word)}
            for term in unlikely:
                weights.setdefault(_number(term), UNLIKELY_WEIGHT)
            for term in searched_terms(token) | self._stems(token, likely):
                weights[_number(term)] = 1.0
        indices = sorted(weights)
        return SparseVector.of(indices, [weights[index] for index in indices])

    def _likeliest(self, stop_words: Counter[str]) -> dict[str, Language]:
        """Return the likeliest language of a text's words, by their script."""
        likely = {script: languages[0] for script, languages in self._languages.items()}
        for script in {BY_CODE[code].script for code in stop_words}:
            languages = self._languages[script]
            likely[script] = max(languages, key=lambda language: stop_words[language.code])
        return likely

    def _encoded(self, text: str, likely: Mapping[str, Language]) -> _Piece:
        terms: list[int] = []
        length = 0
        for token in tokens(text):
            terms += sorted(map(_number, indexed_terms(token) | self._stems(token, likely)))
            length += max(1, len(token) - 1) if is_unspaced(token) else 1
        return _Piece(terms, length)

    def _stems(self, token: str, likely: Mapping[str, Language]) -> set[str]:
        found = set()
        for word in words(token):
            language = likely.get(script_of(word))
            if language and (stem := self._stem(word, language)):
                found.add(stem)
        return found

    def _all_stems(self, word: str) -> set[str]:
        languages = in_script(script_of(word))
        return {stem for language in languages if (stem := self._stem(word, language))}

    def _stem(self, word: str, language: Language) -> str | None:
        """Return the stem of ``word``, without accents; None if it has none of its own."""
        if len(word) not in STEMMED or word in language.stop_words:
            return None
        stem = plain(self._stemmers[language.code].stemWord(word))
        return stem if len(stem) >= STEMMED.start else None


_BM25: Final = Bm25(
    Bm25Config(
        tokenizer=TokenizerType.Whitespace,
        lowercase=False,
        stopwords=StopwordsSet(),
        stemmer=DisabledStemmer(),
    )
)


@lru_cache(KEPT_NUMBERS)
def _number(term: str) -> int:
    """Return the number of ``term`` as an index of sparse vectors: a hash of 31 bits."""
    [number] = _BM25.embed_query(term).indices
    return number
