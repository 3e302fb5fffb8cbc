"""JSON is read in whichever Unicode encoding it is written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestq.api.bodies.documents import decode
from ingestq.core.limits import decode_metadata
from ingestq.core.lines import LineSplitter

ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]
TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"]))


@given(
    texts=st.lists(TEXTS, min_size=1, max_size=4),
    encoding=st.sampled_from(ENCODINGS),
    size=st.integers(1, 9),
)
def test_lines_are_the_same_in_every_encoding(texts: list[str], encoding: str, size: int) -> None:
    lines = [f'{{"text": "{text}"}}' for text in texts]
    data = "\n".join(lines).encode(encoding)
    splitter = LineSplitter(10_000)
    found = [line for i in range(0, len(data), size) for line in splitter.feed(data[i : i + size])]
    assert found + splitter.end() == [line.encode() for line in lines]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_bodies_and_metadata_are_read_in_every_encoding(encoding: str) -> None:
    document, metadata = decode(
        '{"doc_id": "a", "text": "Süße €", "metadata": {"a": "ü"}}'.encode(encoding)
    )
    assert (document.text, metadata) == ("Süße €", {"a": "ü"})
    assert decode_metadata('{"a": "ü😀"}'.encode(encoding)) == {"a": "ü😀"}


def test_what_is_not_valid_is_refused_with_the_encoding() -> None:
    half = '{"a": "'.encode("utf-16") + b"\x00\xd8" + '"}'.encode("utf-16-le")
    with pytest.raises(ValueError, match="begins as UTF-16 does, but byte 16 is not valid"):
        decode_metadata(half)
    with pytest.raises(ValueError, match="begins as UTF-16 does"):
        decode(half)


def test_a_line_that_is_not_valid_costs_no_other_line() -> None:
    splitter = LineSplitter(1000)
    good = '{"a": 1}\n'.encode("utf-16-le")
    found = splitter.feed(good + b"\x00\xd8\n\x00" + good + b"{") + splitter.end()
    assert (found[0], found[2]) == (b'{"a": 1}', b'{"a": 1}')
    for line in (found[1], found[3]):
        assert line is not None
        with pytest.raises(UnicodeDecodeError):
            line.decode()


def test_blank_streams_have_no_document() -> None:
    for data in (b"", b"\xef\xbb\xbf", b"\xff\xfe", b"{}"):
        splitter = LineSplitter(1000)
        lines = splitter.feed(data) + splitter.end()
        assert lines == ([b"{}"] if data == b"{}" else [])
