"""Tells in which legacy encoding a text is, and how sure that is.

Nearly all bytes are valid in several encodings, so what they say decides. The text is decoded in
each candidate, and a model of each language says how likely such a text is. That is naive Bayes:
the candidate with the highest likelihood wins, the distance to the next one with another text says
how sure that is, and noise is one of the candidates.
"""

import codecs
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from math import inf, sqrt
from typing import Final, NamedTuple

from worker.text.decoding.alphabets import LATIN
from worker.text.decoding.language_models import language_model

SAMPLE_BYTES: Final = 16 * 1024
"""So much of the lines that are not ASCII is weighed. Whether bytes are valid is always asked of
all."""
STRETCH_BYTES: Final = 2 * 1024
"""Longer lines are cut into stretches, so that a sample has parts of all of them."""
ASCII_BYTES_BEFORE: Final = 32
NOT_ASCII: Final = re.compile(rb"[\x80-\xff]")
REPEATED: Final = re.compile(rb"([\x80-\xff][^\n])\1{3,}+")
"""A character that is repeated, or two that are: spaces and lines drawn with characters of two
bytes. They are the same letter in another encoding, which makes a text of nothing else likely."""
BETWEEN_CHARACTERS: Final = re.compile(rb"[\x00-\x2f]")
"""Bytes that are never a part of a character of several bytes."""


class Codec(NamedTuple):
    """An encoding by Python's name, with the name that users know, and the languages it is for.

    ``rarity`` is how much less likely it is than the usual one for these languages, in nats.
    """

    name: str
    label: str
    languages: tuple[str, ...]
    rarity: float = 0.0


WESTERN: Final = ("en", "de", "fr", "es", "it", "pt", "ca", "nl", "sv", "da", "no", "fi", "is")
CENTRAL: Final = ("pl", "cs", "sk", "hu", "ro", "sl", "hr", "de")
CYRILLIC: Final = ("ru", "uk", "be", "bg", "sr", "mk")
BALTIC: Final = ("et", "lv", "lt")
CODECS: Final = (
    Codec("cp1252", "Windows-1252", WESTERN),
    Codec("iso8859-15", "ISO 8859-15", WESTERN, 4.0),
    Codec("cp850", "CP850", WESTERN, 5.0),
    Codec("cp1250", "Windows-1250", CENTRAL),
    Codec("iso8859-2", "ISO 8859-2", CENTRAL, 1.0),
    Codec("cp852", "CP852", CENTRAL, 5.0),
    Codec("cp1251", "Windows-1251", CYRILLIC),
    Codec("koi8-r", "KOI8-R", ("ru", "bg"), 1.0),
    Codec("koi8-u", "KOI8-U", ("uk", "be"), 1.0),
    Codec("cp866", "CP866", ("ru", "be", "bg"), 2.0),
    Codec("iso8859-5", "ISO 8859-5", CYRILLIC, 2.0),
    Codec("cp1253", "Windows-1253", ("el",)),
    Codec("iso8859-7", "ISO 8859-7", ("el",), 1.0),
    Codec("cp1254", "Windows-1254", ("tr",)),
    Codec("cp1255", "Windows-1255", ("he",)),
    Codec("cp1256", "Windows-1256", ("ar", "fa")),
    Codec("iso8859-6", "ISO 8859-6", ("ar",), 2.0),
    Codec("cp1257", "Windows-1257", BALTIC),
    Codec("iso8859-13", "ISO 8859-13", BALTIC, 2.0),
    Codec("cp874", "Windows-874", ("th",)),
    Codec("cp949", "CP949", ("ko",)),
    Codec("cp932", "Shift JIS", ("ja",)),
    Codec("euc_jp", "EUC-JP", ("ja",), 1.0),
    Codec("gb18030", "GB18030", ("zh-Hans",)),
    Codec("cp950", "Big5", ("zh-Hant",), 0.5),
    Codec("big5hkscs", "Big5-HKSCS", ("zh-Hant",), 2.0),
)
MULTIBYTE: Final = frozenset({"cp949", "cp932", "euc_jp", "gb18030", "cp950", "big5hkscs"})
UTF_16: Final = (
    Codec("utf-16-le", "UTF-16", ("ko", "ja", "zh-Hans", "zh-Hant"), 6.0),
    Codec("utf-16-be", "UTF-16", ("ko", "ja", "zh-Hans", "zh-Hant"), 7.0),
)
"""Without a byte order mark and without any NUL, as only short texts without spaces are."""
HINT_NATS: Final = 14.0
"""What a language that the user named is worth: about three characters."""
MAX_DAMAGED: Final = 3
MAX_DAMAGED_SHARE: Final = 0.1
"""Of the characters in a multi-byte encoding, so many may be damaged. If one were too many, the
text would be taken for one in an encoding in which everything is valid."""

SURE_NATS: Final = 10.0
"""A wrong guess wins by so much in one of 20,000 texts, if no character depends on the others."""
SURE_NATS_PER_ROOT: Final = 2.0
"""They do, so a long text has to win by more: so much times the root of its length."""
SURE_KINDS: Final = 3
"""With fewer different letters with accents, a text in Latin script has to win by more: a letter
that is repeated proves little."""
SYMBOL_NATS: Final = 30.0
"""A text that differs from another one only by symbols where that has letters has to win by more:
symbols stand anywhere."""
SENSE_IN_LATIN: Final = 0.3
SENSE: Final = 2.2
"""A text that makes sense is so many nats for each byte more likely than noise: letters with
accents 1.2 and more, other scripts 2.6 and more; characters at random reach 1.8."""
DAMAGE_NATS: Final = 12.0
"""What a damaged character costs."""
NOISE_NATS: Final = 7.0
"""What a byte costs that may be any; the half of a character of a large set costs less."""
LIKELY_NATS: Final = 3.0
"""A guess that wins by less is a toss-up."""


@dataclass(frozen=True)
class Guess:
    """A text, the codec in which it was decoded, and how sure that is.

    ``margin`` is the distance to the next candidate with another text, and ``noise`` that to bytes
    that mean nothing, both in nats. ``weighed`` is the number of bytes that decided, and ``kinds``
    that of different characters. ``by_symbols`` if only symbols set it apart from a likely text.
    ``hinted`` if it is in a language that the user named.
    """

    text: str
    codec: Codec
    margin: float
    noise: float
    weighed: int
    kinds: int
    by_symbols: bool
    hinted: bool
    replaced: int
    first_bad: int

    @property
    def is_sure(self) -> bool:
        """True if it needs no warning."""
        slack = SURE_NATS_PER_ROOT * sqrt(self.weighed)
        needed = SURE_NATS + slack
        if self.codec.languages[0] in LATIN:
            makes_sense = self.noise > SENSE_IN_LATIN * self.weighed
            needed += 0 if self.hinted or self.kinds >= SURE_KINDS else SURE_NATS
        else:
            makes_sense = self.noise > SENSE * self.weighed + slack
        is_clear = self.margin > needed and not self.by_symbols
        return makes_sense and is_clear and self.codec not in UTF_16

    @property
    def is_likely(self) -> bool:
        """True if it is worth a text with a warning."""
        return self.noise > 0 and self.margin > LIKELY_NATS


def guess(data: bytes, languages: tuple[str, ...] = ()) -> Guess | None:
    """Return the most likely text of ``data``, which is not UTF-8. None if no candidate is valid.

    ``languages`` are those that the user named, as codes of ISO 639-1.
    """
    sample = _sample(data)
    found = _candidates((*CODECS, *_utf_16(data)), sample, languages)
    ranked = sorted(found, key=lambda candidate: candidate.score, reverse=True)
    valid = _valid(ranked, data)
    if (first := next(valid, None)) is None:
        return None
    best, decoded = first
    rival = next((other for other, _ in valid if other.text != best.text), None)
    return Guess(
        decoded.text,
        best.codec,
        best.score - rival.score if rival else inf,
        best.score - (HINT_NATS if best.hinted else 0) - _noise(sample),
        sum(len(line) - len(line.decode("ascii", errors="ignore")) for line in sample),
        sum(not character.isascii() for character in set(best.text)),
        any(_differs_by_symbols(best, other) for other in ranked),
        best.hinted,
        decoded.replaced,
        decoded.first_bad,
    )


class _Candidate(NamedTuple):
    text: str
    codec: Codec
    score: float
    hinted: bool


def _candidates(
    candidates: tuple[Codec, ...], sample: list[bytes], languages: tuple[str, ...]
) -> Iterator[_Candidate]:
    for codec in candidates:
        text = _decoded_sample(sample, codec.name)
        replaced = text.count("\ufffd")
        if replaced > _replaceable(codec.name, text):
            continue
        pairs = Counter(zip("\n" + text, text, strict=False))
        for language in codec.languages:
            hinted = language[:2] in languages
            score = language_model(language).score(pairs) - codec.rarity + HINT_NATS * hinted
            yield _Candidate(text, codec, score - DAMAGE_NATS * replaced, hinted)


def _differs_by_symbols(best: _Candidate, other: _Candidate) -> bool:
    """Return whether ``best`` has only symbols wherever ``other``, which is likely, has letters."""
    if best.score - other.score > SYMBOL_NATS or len(best.text) != len(other.text):
        return False
    differing = {(a, b) for a, b in zip(best.text, other.text, strict=True) if a != b}
    return bool(differing) and all(b.isalpha() and not a.isalpha() for a, b in differing)


def _valid(ranked: list[_Candidate], data: bytes) -> Iterator[tuple[_Candidate, "_Decoded"]]:
    """Yield those of ``ranked`` in whose codec all of ``data`` is valid."""
    last = None
    for candidate in ranked:
        if last is None or last[0] != candidate.codec.name:
            last = candidate.codec.name, _decoded(data, candidate.codec.name)
        if last[1] is not None:
            yield candidate, last[1]


def _replaceable(codec: str, text: str) -> int:
    """Return how many damaged characters ``text`` may have."""
    if codec not in MULTIBYTE:
        return 0
    not_ascii = len(text) - len(text.encode("ascii", errors="ignore"))
    return MAX_DAMAGED + int(MAX_DAMAGED_SHARE * not_ascii)


def _utf_16(data: bytes) -> tuple[Codec, ...]:
    is_possible = len(data) % 2 == 0 and len(data) <= STRETCH_BYTES and b"\n" not in data
    return UTF_16 if is_possible else ()


class _Decoded(NamedTuple):
    text: str
    replaced: int = 0
    first_bad: int = 0


def _decoded(data: bytes, codec: str) -> _Decoded | None:
    """Return the text of ``data``; None if it is not valid, but for a few characters."""
    try:
        return _Decoded(data.decode(codec))
    except UnicodeDecodeError as error:
        if codec not in MULTIBYTE:
            return None
        first_bad = error.start
    text = data.decode(codec, errors="replace")
    replaced = text.count("\ufffd")
    return _Decoded(text, replaced, first_bad) if replaced <= _replaceable(codec, text) else None


def _sample(data: bytes) -> list[bytes]:
    """Return stretches of ``data`` to weigh: lines that are not ASCII, evenly from all of it.

    What is repeated in a row is weighed three times.
    """
    shortened = REPEATED.sub(rb"\1\1\1", data)
    lines = [line for line in shortened.split(b"\n") if not line.isascii()]
    stretches = list(chain.from_iterable(map(_stretches, lines)))
    step = max(1, sum(map(len, stretches)) // SAMPLE_BYTES)
    return stretches[::step]


def _stretches(line: bytes) -> Iterator[bytes]:
    """Yield ``line``, or stretches of it that are not ASCII if it is long.

    None begins inside a character. The last character of one may be cut, and is not weighed.
    """
    if len(line) <= STRETCH_BYTES:
        yield line
        return
    start = 0
    while (found := NOT_ASCII.search(line, start)) is not None:
        begin = max(start, found.start() - ASCII_BYTES_BEFORE)
        yield line[begin : begin + STRETCH_BYTES]
        between = BETWEEN_CHARACTERS.search(line, begin + STRETCH_BYTES)
        if between is None:
            return
        start = between.end()


def _decoded_sample(sample: list[bytes], codec: str) -> str:
    decode = codecs.getincrementaldecoder(codec)
    return "\n".join(decode(errors="replace").decode(line) for line in sample)


def _noise(sample: list[bytes]) -> float:
    """Return how likely ``sample`` is if its bytes that are not ASCII mean nothing."""
    text = "\n".join(line.decode("ascii", errors="ignore") for line in sample)
    pairs = Counter(zip("\n" + text, text, strict=False))
    return language_model("en").score(pairs) - NOISE_NATS * (
        sum(map(len, sample)) + len(sample) - 1 - len(text)
    )
