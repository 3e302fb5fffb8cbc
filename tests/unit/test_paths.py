"""Every possible path can be written as text and read back."""

import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from ingestq.core.paths import path_to_text, text_to_path

names = st.binary(min_size=1).filter(lambda raw: b"\0" not in raw and b"/" not in raw)
paths = st.lists(names, min_size=1, max_size=3).map(
    lambda parts: Path(os.fsdecode(b"/" + b"/".join(parts)))
)


@given(paths)
def test_a_path_is_read_back_from_its_text(path: Path) -> None:
    text = path_to_text(path)
    assert text.encode("utf-8")
    assert os.fsencode(text_to_path(text)) == os.fsencode(path)


@given(paths, paths)
def test_different_paths_have_different_texts(one: Path, other: Path) -> None:
    assert (path_to_text(one) == path_to_text(other)) == (one == other)


def test_an_ordinary_path_is_its_own_text() -> None:
    assert path_to_text(Path("/home/müller/a b.txt")) == "/home/müller/a b.txt"
