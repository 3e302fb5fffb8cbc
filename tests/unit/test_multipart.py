"""Multipart forms are parsed the same, however their bytes are split."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestq.api.bodies.multipart import Event, FormSplitter, PartEnd, PartStart

BOUNDARY = b"x-boundary-x"
CONTENT_TYPE = f"multipart/form-data; boundary={BOUNDARY.decode()}"

contents = (
    st.lists(
        st.sampled_from(
            [b"\r", b"\n", b"\r\n", b"-", b"--", BOUNDARY, b"--" + BOUNDARY, b"a", b"\0"]
        )
        | st.binary(max_size=9),
        max_size=12,
    )
    .map(b"".join)
    .filter(lambda data: b"\r\n--" + BOUNDARY not in b"\r\n" + data)
)
names = st.text(st.characters(codec="utf-8", exclude_characters='\r\n"\\\0;=*'), min_size=1)


def form(parts: Sequence[tuple[str, bytes]]) -> bytes:
    body = b"".join(
        b'--%b\r\nContent-Disposition: form-data; name="file"; filename="%b"\r\n'
        b"Content-Type: text/plain\r\n\r\n%b\r\n" % (BOUNDARY, name.encode(), data)
        for name, data in parts
    )
    return body + b"--" + BOUNDARY + b"--\r\n"


def cut(body: bytes, cuts: Sequence[int]) -> Iterator[bytes]:
    places = [0, *sorted(place % (len(body) + 1) for place in cuts), len(body)]
    for start, end in pairwise(places):
        yield body[start:end]


def feed_all(splitter: FormSplitter, body: bytes) -> None:
    splitter.feed(body)
    splitter.end()


def joined(events: Sequence[Event]) -> list[tuple[str | None, bytes]]:
    """Return file name and content of each part."""
    parts: list[tuple[str | None, bytes]] = []
    for event in events:
        match event:
            case PartStart(name, file_name, media_type):
                assert (name, media_type) == ("file", "text/plain")
                parts.append((file_name, b""))
            case bytes() as data:
                parts[-1] = (parts[-1][0], parts[-1][1] + data)
            case PartEnd():
                pass
    return parts


@given(
    st.lists(st.tuples(names, contents), min_size=1, max_size=3),
    st.lists(st.integers(0, 10_000), max_size=20),
)
def test_parts_arrive_as_they_were_sent(parts: list[tuple[str, bytes]], cuts: list[int]) -> None:
    splitter = FormSplitter(CONTENT_TYPE)
    events = [event for piece in cut(form(parts), cuts) for event in splitter.feed(piece)]
    splitter.end()
    assert joined(events) == parts


@given(st.binary(max_size=300))
def test_other_bytes_are_refused(body: bytes) -> None:
    splitter = FormSplitter(CONTENT_TYPE)
    with pytest.raises(ValueError, match=r"not a form|a part"):
        feed_all(splitter, body)


@given(st.lists(st.tuples(names, contents), min_size=1, max_size=2), st.integers(1, 10_000))
def test_an_incomplete_form_is_refused(parts: list[tuple[str, bytes]], missing: int) -> None:
    body = form(parts).removesuffix(b"--\r\n")
    splitter = FormSplitter(CONTENT_TYPE)
    with pytest.raises(ValueError, match="ends before"):
        feed_all(splitter, body[: len(body) - missing % len(body)])


@pytest.mark.parametrize("content_type", ["multipart/form-data", "multipart/form-data; boundary="])
def test_a_form_without_a_boundary_is_refused(content_type: str) -> None:
    with pytest.raises(ValueError, match="no boundary"):
        FormSplitter(content_type)


@pytest.mark.parametrize(
    "header",
    [
        b"Content-Type: text/plain",
        b"Content-Disposition: attachment; name=a",
        b"Content-Disposition: form-data",
        b'Content-Disposition: form-data; name="\xff"',
        b'Content-Disposition: form-data; name="file"; filename="\xff"',
        b"Content-Disposition: form-data; name=" + b"a" * 10_000,
        b"\r\n".join(b"X-%d: y" % n for n in range(20)),
    ],
)
def test_a_part_without_usable_headers_is_refused(header: bytes) -> None:
    splitter = FormSplitter(CONTENT_TYPE)
    with pytest.raises(ValueError, match=r"."):
        splitter.feed(b"--%b\r\n%b\r\n\r\ndata" % (BOUNDARY, header))


def test_data_that_resembles_a_boundary_is_not_split() -> None:
    splitter = FormSplitter(CONTENT_TYPE)
    events = splitter.feed(form([("a", b"\r" * 10_000)]))
    assert len(events) == 3


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        (b"filename*=UTF-8''%e2%82%ac.txt", "€.txt"),
        (b"filename=\"=?utf-8?B?4oKs?=\"; filename*=utf-8'en'%e2%82%ac.txt", "€.txt"),
        (b"filename=\"x; filename*=utf-8''no\"", "x; filename*=utf-8''no"),
        (b"filename=a.txt; name*=utf-8''other; filename*0=b", "a.txt"),
    ],
)
def test_an_extended_file_name_replaces_the_plain_one(parameters: bytes, name: str) -> None:
    splitter = FormSplitter(CONTENT_TYPE)
    header = b"Content-Disposition: form-data; name=file; " + parameters
    [start, *_] = splitter.feed(b"--%b\r\n%b\r\n\r\n" % (BOUNDARY, header))
    assert start == PartStart("file", name, None)


@pytest.mark.parametrize("value", [b"latin-1''%e4", b"euro.txt", b"utf-8''%ff"])
def test_an_extended_file_name_that_is_not_utf_8_is_refused(value: bytes) -> None:
    splitter = FormSplitter(CONTENT_TYPE)
    header = b"Content-Disposition: form-data; name=file; filename*=" + value
    with pytest.raises(ValueError, match="UTF-8"):
        splitter.feed(b"--%b\r\n%b\r\n\r\n" % (BOUNDARY, header))


def test_a_form_has_a_limited_number_of_bytes_besides_its_content() -> None:
    splitter = FormSplitter(CONTENT_TYPE)
    splitter.feed(form([("a", b"x" * 3_000_000)]))
    with pytest.raises(ValueError, match="besides its content"):
        splitter.feed(b"\r\n" * 600_000)
