"""A request body is split into the same lines, however its bytes are split."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from ingestq.core.lines import LineSplitter

MAX = 8
BODIES = st.lists(st.sampled_from([b"", b"a", b"ab\r", b"\n", b"x" * MAX, b"y" * (MAX + 1)]))


def split(*parts: bytes) -> list[bytes | None]:
    splitter = LineSplitter(MAX)
    lines = []
    for part in parts:
        lines += splitter.feed(part)
        assert splitter.held_bytes <= MAX
    return lines + splitter.end()


@given(BODIES, st.data())
def test_the_lines_do_not_depend_on_how_the_body_is_split(
    pieces: list[bytes], data: st.DataObject
) -> None:
    body = b"".join(pieces)
    expected = [line if len(line) <= MAX else None for line in body.split(b"\n")]
    if expected[-1] == b"":
        expected.pop()
    cuts = data.draw(st.lists(st.integers(0, len(body)), max_size=10).map(sorted))
    edges = [0, *cuts, len(body)]
    assert split(*(body[a:b] for a, b in pairwise(edges))) == expected


def test_a_line_that_is_too_long_is_not_held() -> None:
    splitter = LineSplitter(MAX)
    for _ in range(1000):
        assert splitter.feed(b"z" * 100) == []
        assert splitter.held_bytes == 0
    assert splitter.feed(b"\nok\n") == [None, b"ok"]
