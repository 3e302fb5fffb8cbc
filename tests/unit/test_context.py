"""A chunk's context says where it stands: title, part and headings, in at most a fifth of it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.test_chunker import TOKENIZER, tokens
from worker.text.chunking.chunker import Chunker
from worker.text.chunking.context import (
    SHARE,
    Origin,
    file_title,
    repeated_header,
    shortened,
    title_of,
)
from worker.text.chunking.units import plain
from worker.text.parts import INSIDE, Part

MAX_TOKENS = 254
chunker = Chunker(TOKENIZER, MAX_TOKENS)


GUIDE = Origin("Guide")


def contexts(text: str, *, markdown: bool = True) -> list[str]:
    return [chunk.context for chunk in chunker.chunks(text, markdown=markdown, origin=GUIDE)]


def path(*pieces: str) -> str:
    return INSIDE.join(pieces)


def count(text: str) -> int:
    return len(text.split())


LONG = "The tide comes in twice a day. " * 25


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("---\ntitle: Tides\nlayout: x\n---\n# Moons\n", "Tides"),
        ('---\nlayout: x\ntitle: "Tides: a guide"\n---\nText', "Tides: a guide"),
        ("---\r\ntitle: 'Tides'\r\n---\r\nText", "Tides"),
        ('+++\ntitle = "Tides"\n+++\nText', "Tides"),
        ("---\nlayout: x\n---\n\n# Tides\n\nText", "Tides"),
        ("---\ntitle: >\n  folded\n---\n# Tides", "Tides"),
        ("# Tides\n\nText", "Tides"),
        ("\n\n## Tides ##\n\nText\n\n# Moons", "Tides"),
        ("# Tides\n# Moons\n", "Tides"),
        ("A line before.\n\n# Tides\n\nText", "Tides"),
        ("A line before.\n\n## Usage\n\nText", None),
        ("Tides\n=====\n\nText", "Tides"),
        ("```\n# a comment\n```\n", None),
        ("Text without a heading", None),
        ("", None),
    ],
)
def test_the_title_of_markdown(text: str, title: str | None) -> None:
    assert title_of({}, None, Part(text, markdown=True)) == title


def test_the_users_title_comes_first_and_a_heading_last() -> None:
    first = Part("# Heading\n\nText", markdown=True)
    assert title_of({"title": " Mine "}, "Stated", first) == "Mine"
    assert title_of({"title": ["no", "text"]}, "Stated", first) == "Stated"
    assert title_of({}, None, first) == "Heading"
    assert title_of({}, None, Part("# no Markdown")) is None
    assert title_of({}, None, Part("# Of a sheet", markdown=True, name="Sheet")) is None
    assert title_of({}, None, None) is None


@pytest.mark.parametrize(
    ("source", "title"),
    [
        ("/srv/notes/annual report.pdf", "annual report"),
        ("notes.md", "notes"),
        ("/srv/README", "README"),
        ("order 2024-17", ""),
        ("/srv/release v1.2", "release v1.2"),
        ("/srv/archive.tar.gz", "archive.tar"),
        ("https://example.com/docs/tides.html?page=2#top", "tides"),
        ("", ""),
    ],
)
def test_the_name_of_a_file_stands_in_for_its_title(source: str, title: str) -> None:
    assert file_title(source) == title


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("**Tides** and `moons` ##", "Tides and moons"),
        ("[Tides](https://example.com/t) of ![x](y.png) 2024 {#tides}", "Tides of x 2024"),
        ("C#", "C#"),
        ("snake_case_name", "snake_case_name"),
    ],
)
def test_headings_lose_their_mark_up(source: str, says: str) -> None:
    assert plain(source) == says


def test_a_chunk_names_title_part_and_the_headings_above_it() -> None:
    text = f"# Coast\n\n## Tides\n\n{LONG}\n\n{LONG}\n\n## Moons\n\n{LONG}\n\n# Hills\n\n{LONG}"
    origin = Origin("Guide", f"a.zip{INSIDE}b.md", 3)
    chunks = chunker.chunks(text, markdown=True, origin=origin)
    assert [chunk.context for chunk in chunks] == [
        path("Guide", "a.zip", "b.md"),
        path("Guide", "a.zip", "b.md", "Coast", "Tides"),
        path("Guide", "a.zip", "b.md", "Coast"),
        path("Guide", "a.zip", "b.md"),
    ]
    assert {(chunk.page, chunk.part) for chunk in chunks} == {(3, origin.part)}


def test_what_the_body_begins_with_is_not_in_the_context() -> None:
    assert contexts("# Guide\n\nText") == [""]
    assert contexts("**Guide** to the coast", markdown=False) == [""]
    assert contexts("Guidelines for the coast", markdown=False) == ["Guide"]
    assert contexts(f"# Guide\n\n{LONG}\n\n{LONG}") == ["", "Guide"]


def test_a_comment_in_code_and_plain_text_have_no_headings() -> None:
    assert set(contexts(f"```\n# comment\n{LONG}\n{LONG}\n```")) == {"Guide"}
    assert set(contexts(f"# comment\n\n{LONG}\n{LONG}", markdown=False)) == {"Guide"}


def test_underlined_headings_count() -> None:
    text = f"Coast\n=====\n\nTides\n-----\n\n{LONG}\n\n{LONG}\n\n| a |\n---\n\ntitle: x\n---\n"
    assert contexts(text)[1] == path("Guide", "Coast", "Tides")


words = st.text("abcdefgh", min_size=1, max_size=12)
pieces = st.lists(
    st.lists(words, min_size=1, max_size=15).map(" ".join), min_size=1, max_size=8, unique=True
)


@given(pieces=pieces, limit=st.integers(1, 40))
def test_a_shortened_context_fits_and_keeps_the_last_heading(pieces: list[str], limit: int) -> None:
    text = shortened(pieces, limit, count)
    assert count(text) <= limit
    if count(INSIDE.join(pieces)) <= limit:
        assert text == INSIDE.join(pieces)
    elif limit > 1:
        assert text.split(INSIDE)[-1].removesuffix("…").split()[0] in pieces[-1]


def test_long_contexts_keep_the_heading_just_above_and_the_title() -> None:
    headings = "".join(f"{'#' * n} {'word ' * 40}number {n}\n\n" for n in range(1, 6))
    text = f"{headings}###### Spring tides\n\n{LONG}\n\n{LONG}"
    last = chunker.chunks(text, markdown=True, origin=GUIDE)[-1]
    assert last.context.startswith(f"Guide{INSIDE}")
    assert last.context.endswith(f"{INSIDE}Spring tides")
    assert chunker.max_tokens // (SHARE + 1) < len(last.context.split()) <= MAX_TOKENS // SHARE


@pytest.mark.parametrize(
    ("row", "limit", "header"),
    [
        ("| part | price |", 9, "| part | price |\n|-|-|\n"),
        ("part | price", 9, "| part | price |\n|-|-|\n"),
        ("| part | price |", 5, "| part | price |\n"),
        (r"| a \| b | c |", 20, "| a \\| b | c |\n|-|-|\n"),
        ("| one two three four five six | b |", 8, "| one two… | b |\n"),
        ("| a | b | c |", 2, ""),
    ],
)
def test_a_header_is_repeated_in_as_many_words_as_fit(row: str, limit: int, header: str) -> None:
    def size(text: str) -> int:
        return count(text.replace("|", " | ").replace(" | - ", " |- "))

    assert repeated_header(row, limit, size) == header


@settings(deadline=None)
@given(title=st.text(max_size=3000), name=st.text(max_size=300), heading=st.text(max_size=3000))
def test_any_title_and_heading_fit(title: str, name: str, heading: str) -> None:
    text = f"# {heading}\n\n{LONG}\n\n{LONG}"
    for chunk in chunker.chunks(text, markdown=True, origin=Origin(title, name)):
        assert tokens(chunk.embedded.text) <= chunk.tokens <= MAX_TOKENS
        assert tokens(chunk.context) <= MAX_TOKENS // SHARE
