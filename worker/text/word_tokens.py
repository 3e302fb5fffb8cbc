"""What a tokenizer makes of texts, word by word. Runs in the pool's children.

A tokenizer takes a quarter of a millisecond for a chunk, most of what preparing a document costs,
and text consists of the same words over and over. Where a space always ends a token, a text has
the tokens that its words have one by one, so it is enough to know those of every word.
"""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, filterfalse
from typing import Any, Final, Generic, TypeVar

from tokenizers import Encoding, Tokenizer

T = TypeVar("T")

KEPT_CHARACTERS: Final = 500_000
"""Of the words whose tokens are remembered: ten to twenty megabytes. Counted in
characters, because a word may be as long as a document."""
ENDING_AT_SPACES: Final = frozenset({"BertPreTokenizer", "Whitespace", "WhitespaceSplit"})
"""Pre-tokenizers that drop white space, and never look beyond it."""
WORD_BY_WORD: Final = frozenset({None, "BertNormalizer"})
"""Normalizers that change no character because of one beyond a space or a punctuation mark."""
ENDING_AT_MARKS: Final = frozenset({"BertPreTokenizer"})
"""Pre-tokenizers to which each punctuation mark of ASCII is a word of its own."""
PART: Final = re.compile(r"[!-/:-@\[-`{-~]|[^!-/:-@\[-`{-~]+")
"""A punctuation mark of ASCII, or what stands between two."""
NOTHING: Final = r"(?!)"
"""Matches no text."""


class WordCache(Generic[T]):
    """Tokenizes texts word by word, and remembers words; leaves out a model's special tokens.

    ``measure`` takes it from what the tokenizer makes of a word, and ``join`` makes that of a text
    out of those of its words. Words of about ``kept_characters`` together are remembered.
    """

    def __init__(
        self,
        tokenizer_json: str,
        measure: Callable[[Encoding], T],
        join: Callable[[Iterable[T]], T],
        kept_characters: int = KEPT_CHARACTERS,
    ) -> None:
        self._tokenizer = Tokenizer.from_str(tokenizer_json)
        # With truncation on, every long text would seem to be as short as the limit.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._measure = measure
        self._join = join
        self._words_are_apart = words_are_apart(tokenizer_json)
        spec: dict[str, Any] = json.loads(tokenizer_json)
        added = [re.escape(token["content"]) for token in spec["added_tokens"]]
        self._added_token = re.compile("|".join(added) or NOTHING)
        # An added token that is looked for in what normalizing makes of a text may be in any word.
        self._marks_are_apart = _kind(spec["pre_tokenizer"]) in ENDING_AT_MARKS and not any(
            token["normalized"] for token in spec["added_tokens"]
        )
        self._known: dict[str, T] = {}
        self._characters = 0
        self._kept_characters = kept_characters

    def read(self, texts: Sequence[str]) -> list[T]:
        """Return what is wanted of each of ``texts``."""
        if not self._words_are_apart:
            return self._encoded(texts)
        split = [_words(text) for text in texts]
        self._learn(chain.from_iterable(split))
        return [self._joined(words) for words in split]

    def _learn(self, words: Iterable[str]) -> None:
        """Look at those of ``words`` that are not known."""
        if self._characters > self._kept_characters:
            self._known.clear()
            self._characters = 0
        new = set(filterfalse(self._known.__contains__, words))
        if self._marks_are_apart:
            # Most new words are known ones with a comma, a bracket or a dot.
            cut = {word: PART.findall(word) for word in new if not self._added_token.search(word)}
            parts = set(filterfalse(self._known.__contains__, chain.from_iterable(cut.values())))
            self._remember(parts.union(new.difference(cut)))
            self._known.update({word: self._joined(cut[word]) for word in cut})
            self._characters += sum(map(len, cut))
        else:
            self._remember(new)

    def _remember(self, words: Iterable[str]) -> None:
        new = list(words)
        self._known.update(zip(new, self._encoded(new), strict=True))
        self._characters += sum(map(len, new))

    def _joined(self, words: Iterable[str]) -> T:
        return self._join(map(self._known.__getitem__, words))

    def _encoded(self, texts: Sequence[str]) -> list[T]:
        encoded = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [self._measure(tokens) for tokens in encoded]


def token_counts(tokenizer_json: str, kept_characters: int = KEPT_CHARACTERS) -> WordCache[int]:
    """Return a reader of how many tokens texts have."""
    return WordCache(tokenizer_json, len, sum, kept_characters)


def token_ids(
    tokenizer_json: str, kept_characters: int = KEPT_CHARACTERS
) -> WordCache[Sequence[int]]:
    """Return a reader of the numbers of the tokens that texts have, in their order."""
    return WordCache(tokenizer_json, _ids, _chained, kept_characters)


def _ids(encoding: Encoding) -> Sequence[int]:
    ids: list[int] = encoding.ids
    return ids


def _chained(words: Iterable[Sequence[int]]) -> Sequence[int]:
    return list(chain.from_iterable(words))


def words_are_apart(tokenizer_json: str) -> bool:
    """Return whether a text has as many tokens as its words, split at spaces, have together.

    False also for a tokenizer that is not known well enough to say so.
    """
    spec: dict[str, Any] = json.loads(tokenizer_json)
    return (
        _kind(spec["normalizer"]) in WORD_BY_WORD
        and _kind(spec["pre_tokenizer"]) in ENDING_AT_SPACES
        and not any(set(token["content"]) & set(" \n\t") for token in spec["added_tokens"])
    )


def _kind(part: dict[str, Any] | None) -> str | None:
    return None if part is None else str(part["type"])


def _words(text: str) -> list[str]:
    # Not at all that Python takes for white space: some of it is nothing to a tokenizer.
    return text.replace("\n", " ").replace("\t", " ").split(" ")
