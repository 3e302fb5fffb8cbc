"""JSON is read record by record; what is not valid is said and kept."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.text.config import DEFAULT_READING
from worker.text.extract import extract
from worker.text.formats.records import read
from worker.text.parts import NO_TEXT, ExtractedDocument

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.from_regex(r"\A[a-z]{1,8}\Z"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.from_regex(r"\A[a-z]{1,8}\Z"), inner, max_size=3)
    ),
    max_leaves=20,
)


def shown(text: str) -> ExtractedDocument:
    return read(text.encode(), "application/json", DEFAULT_READING)


def words(value: Any) -> list[str]:
    """Return the names and values in ``value``, in order."""
    if isinstance(value, dict):
        return [word for name, own in value.items() for word in (name, *words(own))]
    if isinstance(value, list):
        return [word for item in value for word in words(item)]
    return [value if isinstance(value, str) else json.dumps(value)]


@given(value=values)
def test_no_name_or_value_is_lost(value: Any) -> None:
    extracted = shown(json.dumps(value))
    found = extracted.text.replace(":", " ").replace(",", " ").split()
    assert [word for word in found if word != "-"] == words(value)
    assert not extracted.warnings


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[{"a": 1, "b": "x"}, {"a": 2}]', "a: 1\nb: x\n\na: 2\n"),
        ('{"a": 1}\n{"a": 2}\n', "a: 1\n\na: 2\n"),
        ('\ufeff{"a": "caf\\u00e9", "n": 1.50}', "a: café\nn: 1.50\n"),
        (
            '{"v": 1, "birds": [{"n": "goose"}, {"n": "duck"}]}',
            "v: 1\n\nbirds:\nn: goose\n\nn: duck\n",
        ),
        ('{"a": {"b": [1, 2]}}', "a:\n  b: 1, 2\n"),
        ('{"a": 1, "a": 2}', "a: 1\na: 2\n"),
        ('{"t": "one\\n\\ntwo"}', "t: one\ntwo\n"),
        ('// c\n{"u": "http://x", /* d */ "l": [1, 2,],}', "u: http://x\nl: 1, 2\n"),
    ],
)
def test_records(text: str, expected: str) -> None:
    extracted = shown(text)
    assert extracted.text == expected
    assert not extracted.warnings


def test_a_bad_line_is_said_and_kept() -> None:
    extracted = shown('{"a": 1}\n{"a": tru\n{"a": 3}\n')
    assert extracted.text == 'a: 1\n\n{"a": tru\n\na: 3\n'
    assert extracted.warnings == ("line 2 is not valid JSON, and was read as plain text",)


def test_many_bad_lines_are_counted() -> None:
    [warning] = shown('{"a": 1}\n{\n' * 30).warnings
    assert warning.startswith("30 lines are not valid JSON")
    assert warning.endswith("2, 4, 6, 8, 10, 12, 14, 16, 18, 20, …")


@pytest.mark.parametrize("text", ["no JSON at all", "{'a': 1}", "[" * 100_000, '{"a":' * 5000])
def test_what_is_no_json_is_plain_text_with_a_warning(text: str) -> None:
    extracted = shown(text)
    assert extracted.text == text
    assert "is not valid JSON" in extracted.warnings[0]


def test_deep_json_does_not_grow() -> None:
    text = "[[" * 90 + "1," * 10_000 + "1" + "]]" * 90
    assert len(shown(text).text) < 40 * len(text)


def test_json_without_a_value_has_no_text() -> None:
    extracted = extract(b"[]", "application/json")
    assert (extracted.parts, extracted.warnings) == ((), (NO_TEXT,))
