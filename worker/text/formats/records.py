"""Reads JSON and JSON Lines: a record is a paragraph, with a line for each value."""

import json
import re
from collections.abc import Iterator
from typing import Any, Final

from worker.text.config import ReadingConfig
from worker.text.decoding.decode import decode
from worker.text.parts import ExtractedDocument, Part

TYPES: Final = (
    "application/json",
    "application/jsonl",
    "application/x-ndjson",
    "text/json",
)
MAX_DEPTH: Final = 200
"""Deeper JSON stays as it is."""
MAX_INDENT: Final = 8
"""Levels; else the text of a deep structure would be many times as long as its JSON."""
NAMED_LINES: Final = 10
"""So many lines that are not valid are named."""
COMMENT: Final = re.compile(
    r'("(?:[^"\\]|\\.)*+(?:"|\Z))|//[^\n]*+|/\*(?:[^*]|\*(?!/))*+(?:\*/|\Z)', re.DOTALL
)
TRAILING_COMMA: Final = re.compile(r'("(?:[^"\\]|\\.)*+(?:"|\Z))|,(?=\s*+[}\]])', re.DOTALL)
BLANK_LINES: Final = re.compile(r"\n\s*\n")


class JsonObject(list[tuple[str, Any]]):
    """The names and values of an object, with those that it has twice."""


class _TooDeep(Exception):
    """A value is nested too deeply to be shown."""


def read(data: bytes, media_type: str, reading: ReadingConfig) -> ExtractedDocument:
    """Return what ``data`` says: JSON, perhaps with comments or trailing commas, or JSON Lines.

    Lines that are not valid stay as they are, and the warnings name them; so does a text without
    any JSON. Raises DocumentRejected if it is not text.
    """
    decoded = decode(data, reading.languages)
    text, warnings = _read(decoded.text)
    return ExtractedDocument((Part(text),), warnings=(*decoded.warnings, *warnings))


def _read(text: str) -> tuple[str, tuple[str, ...]]:
    try:
        return _shown(_parsed(text)), ()
    except (ValueError, RecursionError, _TooDeep) as error:
        whole = error
    lines = list(_lines(text))
    invalid = [number for number, _, is_valid in lines if not is_valid]
    if len(invalid) * 2 <= len(lines) and len(lines) > 1:
        records = "\n\n".join(shown for _, shown, _ in lines) + "\n"
        return records, (_invalid(invalid),) if invalid else ()
    try:
        return _shown(_parsed(_without_extensions(text))), ()
    except (ValueError, RecursionError, _TooDeep):
        return text, (f"it is not valid JSON ({_reason(whole)}), and was read as plain text",)


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"line {error.lineno:,}, column {error.colno:,}: {error.msg}"
    return "it is nested too deeply"


def _invalid(numbers: list[int]) -> str:
    if len(numbers) == 1:
        return f"line {numbers[0]:,} is not valid JSON, and was read as plain text"
    named = ", ".join(f"{number:,}" for number in numbers[:NAMED_LINES])
    more = ", …" if len(numbers) > NAMED_LINES else ""
    return f"{len(numbers):,} lines are not valid JSON, and were read as plain text: {named}{more}"


def _lines(text: str) -> Iterator[tuple[int, str, bool]]:
    """Yield each line of JSON Lines: its number, what it says, and whether it is valid."""
    for number, line in enumerate(text.split("\n"), 1):
        if stripped := line.strip():
            try:
                yield number, _shown(_parsed(stripped)).strip("\n"), True
            except (ValueError, RecursionError, _TooDeep):
                yield number, stripped, False


def _parsed(text: str) -> Any:
    # Numbers stay as they are written.
    return json.loads(
        text, object_pairs_hook=JsonObject, parse_int=str, parse_float=str, parse_constant=str
    )


def _without_extensions(text: str) -> str:
    text = COMMENT.sub(lambda found: found[1] or " ", text)
    return TRAILING_COMMA.sub(lambda found: found[1] or " ", text)


def _shown(value: Any) -> str:
    """Return a text of ``value``; its records are paragraphs. Raises _TooDeep."""
    return "".join(_paragraphs(value)).strip("\n") + "\n"


def _paragraphs(value: Any) -> Iterator[str]:
    """Yield the lines of ``value``, with a blank line between the records of its outermost list."""
    if _is_list_of_records(value):
        for record in value:
            yield from _value_lines(record, 0)
            yield "\n"
    elif isinstance(value, JsonObject):
        for name, own in value:
            if _is_list_of_records(own):
                yield f"\n{_one_line(name)}:\n"
                yield from _paragraphs(own)
            else:
                yield from _named(name, own, 0)
    else:
        yield from _value_lines(value, 0)


def _is_list_of_records(value: Any) -> bool:
    return type(value) is list and any(isinstance(item, list) for item in value)


def _value_lines(value: Any, depth: int) -> Iterator[str]:
    if depth > MAX_DEPTH:
        raise _TooDeep
    indent = "  " * min(depth, MAX_INDENT)
    if isinstance(value, JsonObject):
        for name, own in value:
            yield from _named(name, own, depth)
    elif _is_list_of_records(value):
        for item in value:
            yield f"{indent}-\n"
            yield from _value_lines(item, depth + 1)
    else:
        yield f"{indent}{_scalar(value)}\n"


def _named(name: str, value: Any, depth: int) -> Iterator[str]:
    indent = "  " * min(depth, MAX_INDENT)
    if (isinstance(value, JsonObject) and value) or _is_list_of_records(value):
        yield f"{indent}{_one_line(name)}:\n"
        yield from _value_lines(value, depth + 1)
    else:
        yield f"{indent}{_one_line(name)}: {_scalar(value)}\n"


def _scalar(value: Any) -> str:
    if isinstance(value, str):
        return BLANK_LINES.sub("\n", value.replace("\r\n", "\n")).strip()
    if isinstance(value, list):
        return ", ".join(map(_scalar, value))
    return json.dumps(value)  # null, true or false


def _one_line(name: str) -> str:
    return " ".join(name.split())
