"""Reads tables in delimited text: CSV, TSV, and what spreadsheets save as text."""

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from typing import Final, Literal

from worker.text.config import ReadingConfig
from worker.text.decoding.decode import decode
from worker.text.parts import ExtractedDocument, Part

TYPES: Final = ("text/csv", "text/tab-separated-values")
DELIMITERS: Final = ",;\t|"
SAMPLE_CHARACTERS: Final = 64 * 1024
"""So much shows the delimiter."""
MIN_REGULAR: Final = 0.6
"""In a table, at least this share of the rows has the same number of cells."""
MAX_CELL_LINES: Final = 500
"""A cell with more lines was opened by a quotation mark that is none."""
SEPARATOR_LINE: Final = re.compile(r'\A"?sep=([,;\t|])"?[ \t]*(?:\r\n|\n|\r)', re.IGNORECASE)
"""Tells spreadsheet programs the delimiter."""
LINE_END: Final = re.compile(r"\s*(?:\r\n|\n|\r)\s*")
SPACES: Final = re.compile(r"[^\S ]+")


class _OpenQuote(Exception):
    """A quotation mark opens a cell that does not end where it should."""


def read(data: bytes, media_type: str, reading: ReadingConfig) -> ExtractedDocument:
    """Return the table in ``data`` in Markdown, its first regular row as the header.

    Rows before that are text. A line end in a cell becomes ``<br>``. What is no table stays as it
    is. Raises DocumentRejected if it is not text.
    """
    decoded = decode(data, reading.languages)
    text, delimiter = decoded.text, None
    if (separator := SEPARATOR_LINE.match(text)) is not None:
        text, delimiter = text[separator.end() :], separator[1]
    width, delimiter = _regular(text, delimiter or DELIMITERS)
    if not width:
        return ExtractedDocument((Part(decoded.text),), warnings=decoded.warnings)
    try:
        markdown = _table(_rows(text, delimiter, quoted=True), width)
    except _OpenQuote:
        markdown = _table(_rows(text, delimiter, quoted=False), width)
    return ExtractedDocument((Part(markdown, markdown=True),), warnings=decoded.warnings)


def _regular(text: str, delimiters: str) -> tuple[int, str]:
    """Return the number of cells that most rows have, and the delimiter; 0 if it is no table."""
    sample = text[:SAMPLE_CHARACTERS]
    if len(text) > len(sample):
        sample = sample[: sample.rfind("\n") + 1] or sample
    best = (0.0, 0, "")
    for delimiter in delimiters:
        rows = [row for row in _cells(sample, delimiter, quoted=True) if any(row)]
        widths = Counter(len(row) for row in rows if len(row) > 1)
        if widths:
            width, count = widths.most_common(1)[0]
            filled = max(len(_filled(row)) for row in rows if len(row) == width)
            best = max(best, (round(count / len(rows), 1), filled, delimiter))
    share, width, delimiter = best
    return (width, delimiter) if share >= MIN_REGULAR else (0, "")


def _filled(row: list[str]) -> list[str]:
    """Return ``row`` without the empty cells at its end."""
    end = len(row)
    while end and not row[end - 1].strip():
        end -= 1
    return row[:end]


def _cells(text: str, delimiter: str, *, quoted: bool) -> Iterator[list[str]]:
    csv.field_size_limit(max(1, len(text)))  # else 128 KiB, and a longer field is an error
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    return csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting)


def _rows(text: str, delimiter: str, *, quoted: bool) -> Iterator[list[str]]:
    """Yield the rows that have text, each without empty cells at its end."""
    for row in _cells(text, delimiter, quoted=quoted):
        if any(cell.count("\n") > MAX_CELL_LINES for cell in row):
            raise _OpenQuote
        if filled := _filled(row):
            yield filled


def _table(rows: Iterator[list[str]], width: int) -> str:
    before: list[str] = []
    header: list[str] = []
    for row in rows:
        if len(row) * 2 > width:
            header = row + [""] * (width - len(row))
            break
        before.append(" ".join(row))
    lines = map(_line, chain([header, ["---"] * len(header)], rows) if header else ())
    return "\n".join([*before, *([""] if before else []), *lines, ""])


def _line(row: list[str]) -> str:
    return f"| {' | '.join(map(_escaped, row))} |"


def _escaped(cell: str) -> str:
    return SPACES.sub(" ", LINE_END.sub("<br>", cell.strip())).replace("|", "\\|")
