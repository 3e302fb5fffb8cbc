"""A large text file is read segment by segment, with the same chunks as if read whole."""

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.prose import Prose
from ingestq.core.documents import Document
from ingestq.core.errors import DocumentRejected, Failure, SourceChanged, classify
from ingestq.core.paths import path_to_text
from tests.unit.test_chunker import MAX_TOKENS, TOKENIZER, characters
from worker.text import prepare as preparing
from worker.text import text_file
from worker.text.chunking.chunker import Chunker
from worker.text.chunking.context import joined
from worker.text.content import content_hash
from worker.text.decoding import cleaning
from worker.text.parts import (
    INSIDE,
    Chunk,
    ExtractedDocument,
    Part,
    PreparedDocument,
    Segment,
    UnchangedContent,
)
from worker.text.prepare import prepare, prepare_rest, prepare_stored

SEGMENT = 200
"""Characters of a segment; a text has many segments."""
LIMIT = 1 << 30
segmenting = Chunker(TOKENIZER, MAX_TOKENS, SEGMENT)
PARAGRAPHS = [
    f"Paragraph {i} tells of geese. It goes on about them for a while." for i in range(40)
]
CODE = "Before.\n\n```\n" + "# no heading\nprint('goose')\n" * 30 + "```\n\n# Heading\n\nAfter.\n"

lines = st.sampled_from(
    [
        "The tide comes in. The tide goes out.",
        "Gänse fliegen — 渡り鳥は飛ぶ。🪿🪿",
        "  indented, with words, and more words",
        "# Heading",
        "## A longer heading, with *marks*",
        "Underlined\n=====",
        "| part | note |\n|---|---|",
        "| a | some words. And more |",
        "```",
        "~~~ python",
        "",
        " ",
        "wordwithoutanyspace" * 8,
        "🪿" * 120,
        "\x0b\u2028",
        "\x1b[1;31mERROR\x1b[0m G\u0308anse",
        "a\u0308" * 60 + " " + "e\u0301\u0323" * 60,
        "geese 10%\rgeese 20%\rgeese 100%",
        "\x1b[K  1%\r\x1b[K  2%\r",
        "\x1b[0m\x1b[0m",
        "N\x08NA\x08A\x01\0",
        "\ufeff각",
        "\udcb0\udce5 a bad byte or two",
    ]
)
texts = st.lists(st.tuples(lines, st.sampled_from(["\n", "\r\n", "\r", " "])), max_size=60).map(
    lambda some: "".join(line + end for line, end in some)
)


def document_at(path: Path, media_type: str | None = "text/plain") -> Document:
    text = path_to_text(path)
    return Document(doc_id="d", version=1, source=text, path=text, media_type=media_type)


def segments_of(document: Document, chunker: Chunker = segmenting) -> list[Segment]:
    """Return all segments of ``document``."""
    return list(each_segment_of(document, chunker))


def each_segment_of(document: Document, chunker: Chunker) -> Iterator[Segment]:
    """Yield the segments of ``document`` in order."""
    prepared = prepare(document, None, LIMIT, chunker, None)
    assert isinstance(prepared, PreparedDocument)
    segment = prepared.first
    yield segment
    while segment.rest is not None:
        segment = prepare_rest(document, segment.rest, chunker, None)
        yield segment


def warnings_of(document: Document) -> tuple[str, ...]:
    prepared = prepare(document, None, LIMIT, segmenting, None)
    assert isinstance(prepared, PreparedDocument)
    return prepared.warnings


def outcome(read: Any) -> Any:
    try:
        return read()
    except DocumentRejected as error:
        return str(error)


@settings(
    deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    text=texts,
    start=st.sampled_from(["", "\ufeff", "\n \n", "\r\n" * 90, " " * 250]),
    end=st.sampled_from(["", "\n" * 250, "\0", "\udced\udca0\udc80", "\x1b[0m \x1b[0m" * 50]),
    encoding=st.sampled_from(["utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32"]),
    markdown=st.booleans(),
    block=st.integers(1, 50),
    piece=st.sampled_from([2, 30, 300, 64 * 1024]),
)
def test_segments_have_the_chunks_of_the_whole_text(
    tmp_path: Path,
    text: str,
    start: str,
    end: str,
    encoding: str,
    markdown: bool,
    block: int,
    piece: int,
) -> None:
    errors = "surrogateescape" if encoding.startswith("utf-8") else "surrogatepass"
    path = tmp_path / "a.txt"
    path.write_bytes((start + text + end).encode(encoding, errors))
    document = document_at(path, "text/markdown" if markdown else "text/plain")

    def read_whole() -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(preparing, "scan", lambda *_: None)
            patch.setattr(cleaning, "PIECE_CHARACTERS", piece)
            [segment] = segments_of(document)
            return [*segment.chunks], warnings_of(document)

    def read_in_segments() -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(text_file, "BLOCK_BYTES", block)
            patch.setattr(cleaning, "PIECE_CHARACTERS", piece)
            segments = segments_of(document)
            chunks = [chunk for segment in segments for chunk in segment.chunks]
            return chunks, warnings_of(document)

    assert outcome(read_in_segments) == outcome(read_whole)


def test_segments_use_most_of_their_length(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("\n\n".join(PARAGRAPHS))
    segments = segments_of(document_at(path))
    lengths = [sum(len(chunk.body) for chunk in segment.chunks) for segment in segments]
    assert all(SEGMENT / 3 < length <= SEGMENT for length in lengths[:-1])
    assert len(segments) > len(PARAGRAPHS) / 3


@pytest.mark.parametrize("edit", ["", "New. ", "Some new sentence, in place of the old one. " * 3])
def test_an_edit_changes_few_segments(tmp_path: Path, edit: str) -> None:
    path = tmp_path / "a.txt"
    prose = [f"{i}. {p}" for i in range(25) for p in PARAGRAPHS]
    chunker = Chunker(TOKENIZER, MAX_TOKENS, 5000)
    for at in (5, 200, 990):
        path.write_text("\n\n".join(prose))
        before = {segment.chunks for segment in segments_of(document_at(path), chunker)}
        path.write_text("\n\n".join([*prose[:at], edit, *prose[at + 1 :]]))
        after = {segment.chunks for segment in segments_of(document_at(path), chunker)}
        assert len(after - before) <= 4 < len(before) / 3


def test_a_code_block_continues_in_the_next_segment(tmp_path: Path) -> None:
    path = tmp_path / "a.md"
    path.write_text(CODE)
    segments = segments_of(document_at(path, "text/markdown"))
    assert len(segments) > 3
    fences = [segment.rest.open.fence for segment in segments if segment.rest is not None]
    assert "```" in fences
    assert fences[-1] == ""
    assert any(chunk.body.startswith("# Heading") for chunk in segments[-1].chunks)


@pytest.mark.parametrize("media_type", ["text/markdown", "text/plain"])
def test_title_headings_and_header_row_reach_the_last_segment(
    tmp_path: Path, media_type: str
) -> None:
    path = tmp_path / "birds of the coast.md"
    rows = "\n".join(f"| goose {i} | {i * 7} kg |" for i in range(200))
    path.write_text(f"\n\n## Geese\n\n### Weights\n\n| bird | weight |\n|---|---|\n{rows}\n")
    document = document_at(path, media_type)
    prepared = prepare(document, None, LIMIT, segmenting, None)
    assert isinstance(prepared, PreparedDocument)
    *_, last = segments_of(document)
    if media_type == "text/plain":
        assert prepared.title is None
        assert {chunk.full_context for chunk in last.chunks} == {"birds of the coast"}
        assert {chunk.context for chunk in last.chunks} == {""}
    else:
        assert prepared.title == "Geese"
        assert {chunk.context for chunk in last.chunks} == {f"Geese{INSIDE}Weights"}
        assert all(chunk.body.startswith("| bird | weight |\n") for chunk in last.chunks)


def prepared_parts(monkeypatch: pytest.MonkeyPatch, *parts: Part) -> list[Chunk]:
    """Return the chunks of a document with ``parts`` and the title Survey."""
    extracted = ExtractedDocument(parts, "Survey", ("page 3 has no text",))
    monkeypatch.setattr(preparing, "extract", lambda *_: extracted)
    document = Document(doc_id="d", version=1, source="d", text="any", media_type="any/thing")
    prepared = prepare(document, None, LIMIT, Chunker(TOKENIZER, 254), None)
    assert isinstance(prepared, PreparedDocument)
    assert prepared.title == "Survey"
    assert prepared.warnings == extracted.warnings
    return list(prepared.first.chunks)


def test_a_heading_covers_the_pages_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    chunks = prepared_parts(
        monkeypatch,
        Part("# Boats\n\n## Oars\n\nOf ash.", markdown=True, page=1),
        Part(" \n", markdown=True, page=2),
        Part("Of spruce.\n\n## Sails\n\nOf hemp.", markdown=True, page=3),
        Part("Of flax.", markdown=True, page=4),
    )
    assert [(chunk.page, chunk.part) for chunk in chunks] == [(1, None), (3, None), (4, None)]
    assert [chunk.context for chunk in chunks] == [
        "Survey",
        INSIDE.join(["Survey", "Boats", "Oars"]),
        INSIDE.join(["Survey", "Boats", "Sails"]),
    ]


def test_no_heading_reaches_into_another_attachment(monkeypatch: pytest.MonkeyPatch) -> None:
    chunks = prepared_parts(
        monkeypatch,
        Part("# Boats\n\nOf oak.", markdown=True),
        Part("# Terms\n\nPay.", markdown=True, page=1, name="offer.pdf"),
        Part("Soon.", markdown=True, page=2, name="offer.pdf"),
        Part("Bye.", markdown=True, name="note.txt"),
        Part("The end.", markdown=True),
    )
    assert [(chunk.part, chunk.page, chunk.context) for chunk in chunks] == [
        (None, None, "Survey"),
        ("offer.pdf", 1, f"Survey{INSIDE}offer.pdf"),
        ("offer.pdf", 2, INSIDE.join(["Survey", "offer.pdf", "Terms"])),
        ("note.txt", None, f"Survey{INSIDE}note.txt"),
        (None, None, "Survey"),
    ]


def test_no_table_or_code_reaches_into_the_next_page(monkeypatch: pytest.MonkeyPatch) -> None:
    chunks = prepared_parts(
        monkeypatch,
        Part("| a | b |\n|---|---|\n| 1 | 2 |", markdown=True, page=1),
        Part("| 3 | 4 |\n\n```\nopen", markdown=True, page=2),
        Part("# Boats\n\nText", markdown=True, page=3),
        Part("More", markdown=True, page=4),
    )
    assert chunks[1].body.startswith("| 3 | 4 |")
    assert chunks[3].context == f"Survey{INSIDE}Boats"


def test_a_document_without_text_has_no_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert prepared_parts(monkeypatch) == []
    assert prepared_parts(monkeypatch, Part(""), Part("\n\n", page=2)) == []


@settings(deadline=None, max_examples=100)
@given(text=texts.map(cleaning.clean), markdown=st.booleans())
def test_what_is_stored_is_chunked_again_without_loss(text: str, markdown: bool) -> None:
    media_type = "text/markdown" if markdown else "text/plain"
    document = Document(doc_id="d", version=1, source="d", text="", media_type=media_type)
    chunks = segmenting.chunks(text, markdown=markdown)
    stored = ExtractedDocument(tuple(Part(chunk.body, page=7) for chunk in chunks))
    again = prepare_stored(document, stored, segmenting, None).first.chunks
    assert {chunk.page for chunk in again} <= {7}
    found = joined([chunk.body for chunk in again], markdown=markdown)
    header = characters("| part | note |")  # copies of it cannot be told from repeated ones
    assert characters(found).replace(header, "") == characters(text).replace(header, "")


def test_a_line_of_megabytes_is_chunked(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("🪿" * 1_000_000)
    chunker = Chunker(TOKENIZER, MAX_TOKENS, 100_000)
    segments = segments_of(document_at(path), chunker)
    assert len(segments) == 10
    assert (
        "".join(chunk.body for segment in segments for chunk in segment.chunks) == "🪿" * 1_000_000
    )


def test_unchanged_and_too_large_files_are_not_prepared(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("\n\n".join(PARAGRAPHS))
    document = document_at(path)
    prepared = prepare(document, None, LIMIT, segmenting, None)
    assert isinstance(prepared, PreparedDocument)
    assert prepared.content_hash == content_hash(document, LIMIT)
    again = prepare(document, prepared.content_hash, LIMIT, segmenting, None)
    assert isinstance(again, UnchangedContent)
    with pytest.raises(DocumentRejected, match="INGESTQ_MAX_DOCUMENT_BYTES"):
        prepare(document, None, 100, segmenting, None)


@pytest.mark.parametrize("change", ["longer", "touched", "replaced", "gone"])
def test_a_file_that_changes_between_segments_is_retried(tmp_path: Path, change: str) -> None:
    path = tmp_path / "a.txt"
    path.write_text("\n\n".join(PARAGRAPHS))
    os.utime(path, (1, 1))
    document = document_at(path)
    prepared = prepare(document, None, LIMIT, segmenting, None)
    assert isinstance(prepared, PreparedDocument)
    assert prepared.first.rest is not None
    match change:
        case "longer":
            path.write_text("\n\n".join([*PARAGRAPHS, "More."]))
            os.utime(path, (1, 1))
        case "touched":
            os.utime(path, (2, 2))
        case "replaced":
            (tmp_path / "new").write_text("\n\n".join(reversed(PARAGRAPHS)))
            os.utime(tmp_path / "new", (1, 1))
            (tmp_path / "new").rename(path)
        case "gone":
            path.unlink()
    with pytest.raises(SourceChanged) as raised:
        prepare_rest(document, prepared.first.rest, segmenting, None)
    assert classify(raised.value) is Failure.TRANSIENT


def test_other_encodings_are_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    text = "\n\n".join(f"{p} Gänse!" for p in PARAGRAPHS)
    path.write_text(text, encoding="cp1252")
    [segment] = segments_of(document_at(path))
    assert segment.chunks[-1].body.endswith("geese. It goes on about them for a while. Gänse!")


def test_a_large_file_with_a_bad_byte_is_read_in_segments_and_warns(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes("\n".join(f"{p} Gänse!" for p in PARAGRAPHS).encode() + b" K\xfchler")
    document = document_at(path)
    segments = segments_of(document)
    assert len(segments) > 3
    assert segments[-1].chunks[-1].body.endswith("K\ufffdhler")
    at = path.stat().st_size - len("?hler")
    assert warnings_of(document) == (
        f"1 character is not valid UTF-8 and was replaced, at byte {at:,}",
    )


def peak_mebibytes(path: Path) -> float:
    """Read ``path`` in this process; return its peak memory."""
    assert sum(1 for _ in each_segment_of(document_at(path), Chunker(TOKENIZER, 254))) > 2
    # Not from getrusage, which also counts the process that this one was forked from.
    status = dict(
        line.split(":", 1)
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    )
    return int(status["VmHWM"].split()[0]) / 1024


@pytest.mark.slow
def test_memory_does_not_depend_on_file_size(tmp_path: Path) -> None:
    prose = Prose(1).text(1_000_000, markdown=False)
    peaks = []
    for times in (3, 24):
        path = tmp_path / f"{times}.txt"
        path.write_text(prose * times)
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, context) as process:
            peaks.append(process.submit(peak_mebibytes, path).result())
    assert peaks[1] < peaks[0] + 15, "the file has 20 MiB more"


def test_a_web_page_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.html"
    path.write_text("<html><body>" + "".join(f"<p>{p}</p>" for p in PARAGRAPHS) + "</body></html>")
    [segment] = segments_of(document_at(path, "text/html"))
    assert len(segment.chunks) > 5
    assert "<p>" not in segment.chunks[0].body


def test_a_large_file_of_unknown_type_is_read_in_segments(tmp_path: Path) -> None:
    path = tmp_path / "notes"
    path.write_text("\n\n".join(PARAGRAPHS))
    assert len(segments_of(document_at(path, None))) > 3


@pytest.mark.parametrize("size", [10, 10 * SEGMENT])
def test_a_file_is_embedded_the_same_under_every_name(tmp_path: Path, size: int) -> None:
    text = "\n\n".join(PARAGRAPHS)[:size]
    embedded, shown = [], []
    for name in ("geese.txt", "a study of geese.txt"):
        (tmp_path / name).write_text(text)
        document = document_at(tmp_path / name, "text/plain")
        chunks = [chunk for segment in segments_of(document) for chunk in segment.chunks]
        embedded.append([chunk.embedded for chunk in chunks])
        shown.append({chunk.full_context for chunk in chunks})
    assert embedded[0] == embedded[1]
    assert shown == [{"geese"}, {"a study of geese"}]
