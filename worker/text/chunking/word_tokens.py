"""Tokenizes texts word by word with a cache of known words. Runs in worker processes.

Tokenizing a chunk takes a quarter of a millisecond, which is most of the cost of preparing a
document, and texts repeat the same words. If a space always ends a token, the tokens of a text are
those of its words, so each word needs to be tokenized only once.
"""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any, Final, Generic, TypeVar

from tokenizers import Encoding, Token, Tokenizer

T = TypeVar("T")
Tokens = Encoding | Sequence[Token]
"""The tokens of a text, as the tokenizer or its model returns them."""

KEPT_CHARACTERS: Final = 500_000
"""Total length of the cached words, which take ten to twenty megabytes. The limit is in characters
because a word may be as long as a document."""
ENDING_AT_SPACES: Final = frozenset({"BertPreTokenizer", "Whitespace", "WhitespaceSplit"})
"""Pre-tokenizers that drop white space and make no token across it."""
WORD_BY_WORD: Final = frozenset({None, "BertNormalizer"})
"""Normalizers whose changes never depend on characters beyond a space or a punctuation mark."""
ENDING_AT_MARKS: Final = frozenset({"BertPreTokenizer"})
"""Pre-tokenizers that make each ASCII punctuation mark a word of its own."""
PART: Final = re.compile(r"[!-/:-@\[-`{-~]|[^!-/:-@\[-`{-~]+")
"""An ASCII punctuation mark, or the text between two."""
NOTHING: Final = r"(?!)"
"""A pattern that never matches."""


class WordCache(Generic[T]):
    """Computes a value from the tokens of texts, and caches it for each word.

    ``measure`` computes the value of a word from its tokens, without special ones; ``join``
    combines the values of words to that of a text. About ``kept_characters`` of words are cached.
    """

    def __init__(
        self,
        tokenizer_json: str,
        measure: Callable[[Tokens], T],
        join: Callable[[Iterable[T]], T],
        kept_characters: int = KEPT_CHARACTERS,
    ) -> None:
        self._tokenizer = Tokenizer.from_str(tokenizer_json)
        # With truncation, no text would seem longer than the limit.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._measure = measure
        self._join = join
        self._by_word = splits_at_spaces(tokenizer_json)
        spec: dict[str, Any] = json.loads(tokenizer_json)
        added = [re.escape(token["content"]) for token in spec["added_tokens"]]
        self._added_token = re.compile("|".join(added) or NOTHING)
        # An added token that is matched after normalization may be in any word.
        self._by_mark = _kind(spec["pre_tokenizer"]) in ENDING_AT_MARKS and not any(
            token["normalized"] for token in spec["added_tokens"]
        )
        self._model = self._tokenizer.model
        self._lowercase = bool((spec["normalizer"] or {}).get("lowercase"))
        self._known: dict[str, T] = {}
        self._characters = 0
        self._kept_characters = kept_characters

    def read(self, texts: Sequence[str]) -> list[T]:
        """Return the value of each of ``texts``."""
        if not self._by_word:
            return self._encoded(texts)
        split = [_words(text) for text in texts]
        self._learn(chain.from_iterable(split))
        return [self._joined(words) for words in split]

    def _learn(self, words: Iterable[str]) -> None:
        """Cache the values of those ``words`` that are not cached yet."""
        if self._characters > self._kept_characters:
            self._known.clear()
            self._characters = 0
        new = set(words).difference(self._known)
        if self._by_mark:
            # Most new words are known words with a comma, a bracket or a dot.
            cut = {word: PART.findall(word) for word in new if not self._added_token.search(word)}
            parts = set(chain.from_iterable(cut.values())).difference(self._known)
            plain = list(filter(_is_plain, parts))
            self._add(plain, self._modelled(plain))
            self._remember(parts.difference(plain).union(new.difference(cut)))
            self._known.update({word: self._joined(cut[word]) for word in cut})
            self._characters += sum(map(len, cut))
        else:
            self._remember(new)

    def _remember(self, words: Iterable[str]) -> None:
        new = list(words)
        self._add(new, self._encoded(new))

    def _add(self, words: Sequence[str], values: Sequence[T]) -> None:
        self._known.update(zip(words, values, strict=True))
        self._characters += sum(map(len, words))

    def _joined(self, words: Iterable[str]) -> T:
        return self._join(map(self._known.__getitem__, words))

    def _encoded(self, texts: Sequence[str]) -> list[T]:
        encoded = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [self._measure(tokens) for tokens in encoded]

    def _modelled(self, words: Iterable[str]) -> list[T]:
        """Return what `_encoded` does, for plain words and in a third of the time.

        Normalizing such a word changes nothing but its case, and it is not split further.
        """
        lowered = (word.lower() for word in words) if self._lowercase else words
        return [self._measure(self._model.tokenize(word)) for word in lowered]


def token_counts(tokenizer_json: str, kept_characters: int = KEPT_CHARACTERS) -> WordCache[int]:
    """Return a cache that counts the tokens of texts."""
    return WordCache(tokenizer_json, len, sum, kept_characters)


def token_ids(
    tokenizer_json: str, kept_characters: int = KEPT_CHARACTERS
) -> WordCache[Sequence[int]]:
    """Return a cache that reads the ids of the tokens of texts, in order."""
    return WordCache(tokenizer_json, _ids, _chained, kept_characters)


def _ids(tokens: Tokens) -> Sequence[int]:
    ids: list[int] = tokens.ids if isinstance(tokens, Encoding) else [token.id for token in tokens]
    return ids


def _chained(words: Iterable[Sequence[int]]) -> Sequence[int]:
    return list(chain.from_iterable(words))


def splits_at_spaces(tokenizer_json: str) -> bool:
    """Return True if the tokens of a text are those of its words, split at spaces.

    False for tokenizers of an unknown kind.
    """
    spec: dict[str, Any] = json.loads(tokenizer_json)
    return (
        _kind(spec["normalizer"]) in WORD_BY_WORD
        and _kind(spec["pre_tokenizer"]) in ENDING_AT_SPACES
        and not any(set(token["content"]) & set(" \n\t") for token in spec["added_tokens"])
    )


def _kind(part: dict[str, Any] | None) -> str | None:
    return None if part is None else str(part["type"])


def _is_plain(word: str) -> bool:
    return word.isascii() and word.isalnum()


def _words(text: str) -> list[str]:
    # Not at everything that Python counts as white space: to a tokenizer, some of it is none.
    return text.replace("\n", " ").replace("\t", " ").split(" ")
