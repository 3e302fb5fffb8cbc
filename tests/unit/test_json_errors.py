"""What is said about JSON that cannot be decoded is true."""

import json
import re

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ingestq.core.json_errors import json_reason
from ingestq.core.limits import decode_metadata

A_LONE = re.compile("[\ud800-\udfff]")
any_text = st.text(st.characters() | st.characters(categories=["Cs"]))


def reason(data: bytes) -> str | None:
    try:
        msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return json_reason(error, data)
    return None


@given(any_text, any_text)
@example("\\\ud800", "\\ud800")
@example("\ud83d\ud83d\ude00", "")
def test_a_lone_surrogate_is_named(key: str, value: str) -> None:
    written = json.dumps({key: [value]})
    read = json.loads(written)  # two surrogates that make one character are one
    lone = A_LONE.search("".join([*read, *next(iter(read.values()))]))
    expected = None
    if lone:
        expected = f"it holds the lone surrogate \\u{ord(lone[0]):04x}, which is no character"
    assert reason(written.encode()) == expected


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b'{"a": "\\ud83d\\ude00', "Input data was truncated"),
        (b'{"a": "\\\\ud800', "Input data was truncated"),
        (b'{"a": "\\ud8', "Input data was truncated"),
        (b'{"a" "\\ud800"}', "JSON is malformed: expected ':' (byte 5)"),
    ],
)
def test_other_reasons_are_as_they_are(data: bytes, said: str) -> None:
    assert reason(data) == said


def test_metadata_names_a_lone_surrogate() -> None:
    with pytest.raises(ValueError, match=r"metadata: it holds the lone surrogate \\uD800"):
        decode_metadata(rb'{"a": "\uD800"}')
