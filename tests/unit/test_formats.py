"""docs/formats.md names what is read, by the suffixes that users know."""

import re
from pathlib import Path
from typing import Final

import pytest

from ingestq.core.paths import guess_media_type
from worker.text.media_types import is_decoded_only

PAGE: Final = (Path(__file__).parents[2] / "docs" / "formats.md").read_text(encoding="utf-8")
ROWS: Final = re.findall(r"^\| ([^|]+) \| (`\.[^|]+) \|", PAGE, re.MULTILINE)
SUFFIXES: Final = {name: re.findall(r"`(\.\w+)`", cell) for name, cell in ROWS}
AS_IT_IS: Final = {"plain text, logs, source code", "Markdown"}


def test_the_table_has_formats() -> None:
    assert len(ROWS) > 20


@pytest.mark.parametrize("name", [name for name in SUFFIXES if name not in AS_IT_IS])
def test_a_format_of_the_table_is_never_read_as_plain_text(name: str) -> None:
    types = {suffix: guess_media_type(f"a{suffix}") for suffix in SUFFIXES[name]}
    # What the system does not know by its suffix is known by its content.
    assert [suffix for suffix, known in types.items() if known and is_decoded_only(known)] == []


@pytest.mark.parametrize("name", sorted(AS_IT_IS))
def test_text_is_only_decoded(name: str) -> None:
    types = [guess_media_type(f"a{suffix}") for suffix in SUFFIXES[name]]
    assert all(is_decoded_only(known) for known in types if known)
