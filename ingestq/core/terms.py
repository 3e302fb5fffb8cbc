"""Splits text into words, and says by which terms a word is found. Pure functions.

Terms are compared in Unicode's compatibility form (NFKC), without case and accents, so it does not
matter how a text was typed. What is one word to a reader may have several terms:

- an identifier (``INV_2024-17``, ``foo.bar``, ``C++``): itself and its parts;
- a word with accents: also the word without them;
- a run of a script that puts no spaces between words: its overlapping pairs of characters, because
  only a dictionary could say where its words end. They also find Korean nouns with particles.

Stems are added by `worker.text.words.bm25`.
"""

import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from typing import Final

import regex

from ingestq.core.unicode_forms import without_many_marks

WHOLE_RUN: Final = range(3, 13)
"""Lengths of runs of one script without spaces that are terms of their own. Shorter ones are terms
anyway, and longer ones are several words."""
LONGEST_TERM: Final = 128
"""In characters. Of a longer one, such as data in base64, only the beginning counts."""
KEPT_SCRIPTS: Final = 1024
"""Characters of which the script is cached."""

UNSPACED: Final = r"\p{Han}\p{Hiragana}\p{Katakana}ー\p{Hangul}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_LETTER: Final = rf"[[\p{{L}}\p{{M}}\p{{N}}_]--[{UNSPACED}]]"
_JOINT: Final = r"[\-.:/\\@&+'#~=$%*]"
_PREFIX: Final = r"[\-./\\@#~$%]"
_TOKEN: Final = regex.compile(
    rf"[{UNSPACED}]+"
    rf"|(?:(?<!{_LETTER}|{_JOINT}){_PREFIX}{{1,2}})?{_LETTER}+(?:{_JOINT}{{1,2}}{_LETTER}+)*"
    r"(?:\+\+|\#)?",
    regex.V1,
)
"""A run without spaces between words; or whatever is written together, with the marks that begin an
option (``--sparse``) or end a name (``C++``), but without the punctuation around it."""
_WORD: Final = regex.compile(rf"{_LETTER}+", regex.V1)
_PART: Final = regex.compile(r"\p{Lu}?[^\p{Lu}_]+|\p{Lu}+(?!\p{Ll})")
"""A part of an identifier: ``parse``, ``HTTP`` and ``Answer`` in ``parse_HTTPAnswer``."""
_UNSPACED_START: Final = regex.compile(rf"[{UNSPACED}]")
_SCRIPT_RUN: Final = regex.compile(r"\p{Hangul}+|[\p{Katakana}ー]+|\p{Hiragana}+|\p{Han}+")
_INVISIBLE: Final = regex.compile(r"\p{Cf}+")
_ACCENTS: Final = regex.compile(r"[\u0300-\u036f\u0591-\u05c7\u0640\u064b-\u065f\u0670]+")
"""Accents of Latin, Greek and Cyrillic letters, and vowel points of Hebrew and Arabic. Marks of
other scripts are letters."""
_AROUND: Final = "\"'`,;:!?()[]{}<>|*=&"
"""Punctuation around a piece of text that is never part of a token. See `_TOKEN`."""
_TYPED_ALIKE: Final = str.maketrans("’‘ʼ‐‑‒–—−", "'''------")
"""Apostrophes and hyphens that word processors put for those of a keyboard."""
_SPELLED_ALIKE: Final = str.maketrans(
    {"ı": "i", "ø": "o", "ł": "l", "đ": "d", "æ": "ae", "œ": "oe", "ی": "ي", "ى": "ي", "ک": "ك"}
)
"""Letters that are typed for each other, although to Unicode they are not variants of one."""


def split(text: str) -> list[str]:
    """Return what stands between spaces in ``text``, in the compatibility form."""
    if not text.isascii():
        text = compatible(text)
    # Most words with punctuation around them are known without it.
    return [piece.strip(_AROUND) for piece in text.split()]


def compatible(text: str) -> str:
    """Return ``text`` in the compatibility form: NFKC, without what nobody sees or types."""
    seen = _INVISIBLE.sub("", text.replace("\u200b", " "))
    return unicodedata.normalize("NFKC", without_many_marks(seen)).translate(_TYPED_ALIKE)


def tokens(text: str) -> list[str]:
    """Return the words, identifiers and runs without spaces in a ``text`` from `split`."""
    if text.isascii() and text.isalpha():  # most are, and the pattern is slow
        return [text]
    found: list[str] = _TOKEN.findall(text)
    return found


def is_unspaced(token: str) -> bool:
    """Return True if ``token`` is a run of a script that puts no spaces between words."""
    return not token.isascii() and _UNSPACED_START.match(token) is not None


def indexed_terms(token: str) -> set[str]:
    """Return the terms of ``token`` in a document. They include those of any query for it."""
    return searched_terms(token) | set(token) if is_unspaced(token) else searched_terms(token)


def searched_terms(token: str) -> set[str]:
    """Return the terms of ``token`` in a query.

    A single character of a longer run is none: it would find too much.
    """
    if _is_plain(token):
        return {token.lower()[:LONGEST_TERM]}
    if not is_unspaced(token):
        written = {token, *_words(token)}
        forms = {form for word in written for form in (lower(word), plain(lower(word)))}
        return {form[:LONGEST_TERM] for form in forms if form}
    if len(token) == 1:
        return {token}
    pairs = {first + second for first, second in pairwise(token)}
    return pairs.union(run for run in _SCRIPT_RUN.findall(token) if len(run) in WHOLE_RUN)


def _is_plain(token: str) -> bool:
    """Return True if ``token`` is a word of English letters, as most are: it is its only term."""
    return token.isascii() and token.isalpha() and token[1:].islower()


def words(token: str) -> set[str]:
    """Return the words in ``token`` that may have other forms, in lower case, with accents."""
    if _is_plain(token):
        return {token.lower()}
    return set() if is_unspaced(token) else {lower(word) for word in _words(token)}


def _words(token: str) -> Iterator[str]:
    if token.isalpha() and token[1:].islower():
        yield token
        return
    for word in _WORD.findall(token):
        yield word
        yield from _PART.findall(word)


def lower(word: str) -> str:
    """Return ``word`` without case, in the compatibility form."""
    folded = word.casefold()
    return folded if folded.isascii() else unicodedata.normalize("NFKC", folded)


def plain(word: str) -> str:
    """Return ``word`` without accents."""
    if word.isascii():
        return word
    apart = _ACCENTS.sub("", unicodedata.normalize("NFD", word))
    return unicodedata.normalize("NFC", apart.translate(_SPELLED_ALIKE))


def script_of(word: str) -> str:
    """Return the script of ``word``, as the names of Unicode's characters begin: ``LATIN``."""
    return _script(word[0])


@lru_cache(KEPT_SCRIPTS)
def _script(character: str) -> str:
    return unicodedata.name(character, "").partition(" ")[0]
