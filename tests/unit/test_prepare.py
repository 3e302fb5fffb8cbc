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
from tests.unit.test_chunker import MAX_TOKENS, TOKENIZER
from worker.text import prepare as preparing
from worker.text.chunker import Chunker
from worker.text.content import content_hash
from worker.text.parts import PreparedDocument, Segment, UnchangedContent
from worker.text.prepare import prepare, prepare_rest

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
        "```",
        "~~~ python",
        "",
        " ",
        "wordwithoutanyspace" * 8,
        "🪿" * 120,
        "\x0b\u2028",
    ]
)
texts = st.lists(st.tuples(lines, st.sampled_from(["\n", "\r\n", "\r", " "])), max_size=60).map(
    lambda some: "".join(line + end for line, end in some)
)


def document_at(path: Path, media_type: str | None = "text/plain") -> Document:
    return Document(
        doc_id="d", version=1, source="d", path=path_to_text(path), media_type=media_type
    )


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
    end=st.sampled_from(["", "\n" * 250, "\0", "\ud800"]),
    markdown=st.booleans(),
    block=st.integers(1, 50),
)
def test_segments_have_the_chunks_of_the_whole_text(
    tmp_path: Path, text: str, start: str, end: str, markdown: bool, block: int
) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes((start + text + end).encode(errors="surrogatepass"))
    document = document_at(path, "text/markdown" if markdown else "text/plain")

    def read_whole() -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(preparing, "scan", lambda *_: None)
            [segment] = segments_of(document)
            return [*zip(segment.chunks, segment.tokens, strict=True)]

    def read_in_segments() -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(preparing, "BLOCK_BYTES", block)
            segments = segments_of(document)
        return [
            pair
            for segment in segments
            for pair in zip(segment.chunks, segment.tokens, strict=True)
        ]

    assert outcome(read_in_segments) == outcome(read_whole)


def test_segments_use_most_of_their_length(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("\n\n".join(PARAGRAPHS))
    segments = segments_of(document_at(path))
    lengths = [sum(map(len, segment.chunks)) for segment in segments]
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
    fences = [segment.rest.fence for segment in segments if segment.rest is not None]
    assert "```" in fences
    assert fences[-1] == ""
    assert any(chunk.startswith("# Heading") for chunk in segments[-1].chunks)


def test_a_line_of_megabytes_is_chunked(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("🪿" * 1_000_000)
    chunker = Chunker(TOKENIZER, MAX_TOKENS, 100_000)
    segments = segments_of(document_at(path), chunker)
    assert len(segments) == 10
    assert "".join(chunk for segment in segments for chunk in segment.chunks) == "🪿" * 1_000_000


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


@pytest.mark.parametrize("encoding", ["utf-16", "gb18030"])
def test_other_encodings_are_read_whole(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.txt"
    text = "\n\n".join(f"{p} Gänse!" for p in PARAGRAPHS)
    path.write_text(text, encoding=encoding)
    [segment] = segments_of(document_at(path))
    assert segment.chunks[-1].endswith("geese. It goes on about them for a while. Gänse!")


def peak_mebibytes(path: Path) -> float:
    """Read ``path`` in this process; return its peak memory."""
    assert sum(1 for _ in each_segment_of(document_at(path), Chunker(TOKENIZER, 254))) > 2
    # Not from getrusage, which also counts the process that this one was forked from.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
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
    assert "<p>" not in segment.chunks[0]


def test_a_large_file_of_unknown_type_is_read_in_segments(tmp_path: Path) -> None:
    path = tmp_path / "notes"
    path.write_text("\n\n".join(PARAGRAPHS))
    assert len(segments_of(document_at(path, None))) > 3
