"""Models of languages: how likely a text is in each, by its characters and what they follow.

They know which characters are common, and that a capital hardly follows a small letter, or Hangul a
Latin letter. The numbers are rough: texts in the wrong encoding are far less likely than they need
to be.
"""

import unicodedata
from collections import Counter
from enum import IntEnum
from functools import cache
from math import e, log
from typing import Final, NamedTuple

from worker.text.decoding.alphabets import (
    HANGUL,
    HIRAGANA,
    KANJI,
    KATAKANA,
    LATIN,
    OTHER_ALPHABETS,
    SIMPLIFIED,
    TRADITIONAL,
)


class Kind(IntEnum):
    """A class of characters."""

    OTHER = 0  # spaces, digits, punctuation of ASCII
    ASCII = 1  # ASCII letters in a text of another script
    LETTER = 2  # of the language's script
    SYMBOL = 3  # of typography
    FOREIGN = 4


IN_ALPHABET: Final = (
    (0.45, 0.0, 0.52, 0.028, 0.002),
    (0.15, 0.84, 0.0, 0.008, 0.002),  # never met
    (0.16, 0.0, 0.83, 0.009, 0.0005),
    (0.45, 0.0, 0.5, 0.045, 0.005),
    (0.3, 0.0, 0.4, 0.05, 0.25),
)
"""In a language in Latin script: how likely each kind follows each."""
IN_OTHER_ALPHABET: Final = (
    (0.35, 0.27, 0.35, 0.028, 0.002),
    (0.16, 0.83, 0.003, 0.006, 0.001),
    (0.15, 0.003, 0.84, 0.007, 0.0005),
    (0.45, 0.1, 0.4, 0.045, 0.005),
    (0.3, 0.1, 0.3, 0.05, 0.25),
)
IN_EAST_ASIA: Final = (
    (0.35, 0.27, 0.35, 0.028, 0.002),
    (0.16, 0.80, 0.03, 0.008, 0.002),
    (0.13, 0.01, 0.85, 0.009, 0.0005),
    (0.35, 0.1, 0.5, 0.045, 0.005),
    (0.3, 0.1, 0.3, 0.05, 0.25),
)
ALPHABET_DECAY: Final = 8.0
"""Each letter of an alphabet is so many ranks away from one e times as frequent."""
RARE_LETTER: Final = log(0.0002)
"""Of the script, but not in the language."""
NEVER: Final = -99.0
# What the case of letters costs.
CAPITAL_AFTER: Final = {"lower": log(0.002), "upper": log(0.6), "none": log(0.2)}
SMALL_AFTER_CAPITAL: Final = log(0.6)
COMMON_SYMBOLS: Final = {
    symbol: log(share / len(symbols))
    for symbols, share in (
        ("’", 0.3),  # noqa: RUF001
        ("“”", 0.2),
        ("–—…", 0.2),  # noqa: RUF001
        ("„«»•\xa0€§°", 0.2),
        ("‚‘·´©®¿¡", 0.05),  # noqa: RUF001
    )
    for symbol in symbols
}
RARE_SYMBOL: Final = log(0.002)
FOREIGN: Final = log(0.005)
FOREIGN_OF_MANY: Final = log(1e-6)
CONTROL: Final = log(1e-6)
ASCII_LETTERS: Final = "etaoinsrhdlucmfpgwybvkxjqz"


class LanguageModel:
    """How likely a text is in a language, as a logarithm (in nats).

    ``letters`` are the probabilities of its letters, by their small form, ``transitions`` how
    likely each kind of character follows each.
    """

    def __init__(
        self,
        letters: dict[str, float],
        transitions: tuple[tuple[float, ...], ...],
        script: "Script",
    ) -> None:
        self._letters = letters
        self._transitions = [[log(p) if p else NEVER for p in row] for row in transitions]
        self._script = script
        self._known: dict[str, tuple[Kind, float]] = {}

    def score(self, pairs: Counter[tuple[str, str]]) -> float:
        """Return how likely a text with these ``pairs`` of characters is."""
        if len(self._known) > MAX_KNOWN:
            self._known.clear()
        total = 0.0
        for (before, character), count in pairs.items():
            first, _ = self._character(before)
            second, own = self._character(character)
            total += count * (self._transitions[first][second] + own + _case(before, character))
        return total

    def _character(self, character: str) -> tuple[Kind, float]:
        if (known := self._known.get(character)) is None:
            known = self._known[character] = self._look_up(character)
        return known

    def _look_up(self, character: str) -> tuple[Kind, float]:
        lower = character.lower()
        if (found := self._letters.get(lower)) is not None:
            return Kind.LETTER, found
        if character.isascii():
            if character.isalpha():
                return Kind.ASCII, _ASCII[lower]
            return Kind.OTHER, ASCII_OTHER
        if self._script.has(character):
            return Kind.LETTER, self._script.rare(character)
        if character in COMMON_SYMBOLS:
            return Kind.SYMBOL, COMMON_SYMBOLS[character]
        category = unicodedata.category(character)
        if category[0] in "PSNZ" and character < "\u2500":
            return Kind.SYMBOL, RARE_SYMBOL
        if category[0] == "C":
            return Kind.FOREIGN, CONTROL
        return Kind.FOREIGN, FOREIGN if character < "\u2600" else FOREIGN_OF_MANY


MAX_KNOWN: Final = 50_000
ASCII_OTHER: Final = log(0.1)


def _case(before: str, character: str) -> float:
    if character.islower():
        return SMALL_AFTER_CAPITAL if before.isupper() else 0.0
    if not character.isupper():
        return 0.0
    return CAPITAL_AFTER["lower" if before.islower() else "upper" if before.isupper() else "none"]


class Script(NamedTuple):
    """A script: the first words of the Unicode names of its characters, separated by ``|``.

    ``tiers`` are legacy codecs, the narrowest first, with the probability of each character that
    they have and the language rarely uses. National standards have the common characters first, so
    ``gb2312:d8`` means those whose first byte is less than D8.
    """

    names: str
    tiers: tuple[tuple[str, float], ...] = ()

    def has(self, character: str) -> bool:
        """Return True if ``character`` is of this script."""
        name = unicodedata.name(character, "")
        return name.startswith(tuple(self.names.split("|")))

    def rare(self, character: str) -> float:
        """Return how likely ``character`` is, which is not one of the common ones."""
        for codec, probability in self.tiers:
            if _is_in(character, codec):
                return log(probability)
        return RARE_LETTER


def _is_in(character: str, codec: str) -> bool:
    """Return True if ``codec`` has ``character``, with a first byte below the one after ``:``."""
    name, _, limit = codec.partition(":")
    encoded = character.encode(name, errors="ignore")
    return bool(encoded) and (not limit or encoded[0] < int(limit, 16))


def _alphabet(letters: str) -> dict[str, float]:
    weights = {letter: e ** (-rank / ALPHABET_DECAY) for rank, letter in enumerate(letters)}
    return _normalised(weights, 1.0)


ZIPF_OFFSET: Final = 8
"""So the most frequent syllable or Han character is four percent of a text, as it is in fact."""


def _zipf(characters: str, share: float) -> dict[str, float]:
    return _normalised({c: 1 / (rank + ZIPF_OFFSET) for rank, c in enumerate(characters)}, share)


def _normalised(weights: dict[str, float], share: float) -> dict[str, float]:
    total = sum(weights.values())
    return {character: log(share * weight / total) for character, weight in weights.items()}


_ASCII: Final = _alphabet(ASCII_LETTERS)
PUNCTUATION: Final = "、。，ー「」・（）　！？：；『』【】《》〈〉～％／"  # noqa: RUF001
KANA: Final = "HIRAGANA|KATAKANA|HALFWIDTH|FULLWIDTH|IDEOGRAPHIC|CJK|PROLONGED"
HAN: Final = "CJK|FULLWIDTH|IDEOGRAPHIC|HALFWIDTH"


@cache
def language_model(language: str) -> LanguageModel:
    """Return the model of ``language``, by its code in `worker.text.decoding.legacy.CODECS`."""
    match language:
        case "ko":
            letters = _zipf(HANGUL, 0.85) | _zipf(PUNCTUATION, 0.01)
            tiers = (("euc_kr:c9", 6e-5), ("euc_kr", 1e-6), ("cp949", 1e-6))
            return LanguageModel(letters, IN_EAST_ASIA, Script("HANGUL|CJK|FULLWIDTH", tiers))
        case "ja":
            letters = _zipf(HIRAGANA, 0.5) | _zipf(KATAKANA, 0.12) | _zipf(KANJI, 0.22)
            letters |= _zipf(PUNCTUATION, 0.1)
            tiers = (("shift_jis:84", 1e-4), ("shift_jis:98", 3e-5), ("cp932", 1e-6))
            return LanguageModel(letters, IN_EAST_ASIA, Script(KANA, tiers))
        case "zh-Hans":
            letters = _zipf(SIMPLIFIED, 0.75) | _zipf(PUNCTUATION, 0.1)
            level_1, level_2 = ("gb2312:d8", 4.5e-5), ("gb2312", 2e-6)
            script = Script(HAN, (level_1, level_2, ("gbk", 2e-7), ("gb18030", 1e-8)))
            return LanguageModel(letters, IN_EAST_ASIA, script)
        case "zh-Hant":
            letters = _zipf(TRADITIONAL, 0.75) | _zipf(PUNCTUATION, 0.1)
            tiers = (("cp950:c7", 3.2e-5), ("cp950", 1e-6), ("big5hkscs", 2e-7))
            return LanguageModel(letters, IN_EAST_ASIA, Script(HAN, tiers))
        case _ if language in LATIN:
            letters = _alphabet("".join(dict.fromkeys(LATIN[language] + ASCII_LETTERS)))
            return LanguageModel(letters, IN_ALPHABET, Script("LATIN"))
        case _:
            letters = _alphabet(OTHER_ALPHABETS[language])
            name = unicodedata.name(next(iter(letters))).split()[0]
            return LanguageModel(letters, IN_OTHER_ALPHABET, Script(name))
