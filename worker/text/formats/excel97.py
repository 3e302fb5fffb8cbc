"""Reads workbooks of Excel 97 and older (.xls): one part for each sheet, with values as shown."""

import io
import struct
from collections.abc import Iterator
from typing import Final

import xlrd
from xlrd.sheet import Cell
from xlrd.sheet import Sheet as OldSheet

from ingestq.core.errors import DocumentRejected
from worker.text.config import ReadingConfig
from worker.text.formats.number_format import BUILT_IN, GENERAL, formatted
from worker.text.formats.numbering import column_letters
from worker.text.formats.sheet import Sheet
from worker.text.formats.tables import TooManyCells
from worker.text.parts import ExtractedDocument, Part

NUMBERS: Final = (xlrd.XL_CELL_NUMBER, xlrd.XL_CELL_DATE)
ENCRYPTED: Final = "encrypted"
DAMAGED: Final = (
    xlrd.XLRDError,
    xlrd.compdoc.CompDocError,
    struct.error,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NotImplementedError,
    RecursionError,  # folders of the file that contain each other
    TypeError,
    ValueError,
)
"""What the library raises for damaged files, which it does not check before it reads them."""


def read_old_workbook(data: bytes, media_type: str, reading: ReadingConfig) -> ExtractedDocument:
    """Read a workbook. Raises DocumentRejected."""
    try:
        book = xlrd.open_workbook(
            file_contents=data, formatting_info=True, ragged_rows=True, logfile=io.StringIO()
        )
    except DAMAGED as error:
        if ENCRYPTED in str(error):
            raise DocumentRejected("it is protected by a password") from error
        raise DocumentRejected(f"cannot be read as {media_type}: it is damaged") from error
    parts, warnings = [], []
    for sheet in book.sheets():
        try:
            text = _read(book, sheet)
        except TooManyCells as error:
            warnings.append(f"sheet {sheet.name!r} was skipped: {error}")
            continue
        except DAMAGED:
            warnings.append(f"sheet {sheet.name!r} was skipped: it is damaged")
            continue
        if text:
            parts.append(Part(text, markdown=True, name=sheet.name))
    return ExtractedDocument(tuple(parts), warnings=tuple(warnings))


def _read(book: xlrd.Book, old: OldSheet) -> str:
    sheet = Sheet()
    for row in range(old.nrows):
        sheet.add(row, _cells(book, old.row(row)))
    for (row, column), note in sorted(old.cell_note_map.items()):
        by = f" by {note.author}" if note.author else ""
        text = " ".join(note.text.removeprefix(f"{note.author}:").split())
        sheet.note(f"Comment on {column_letters(column + 1)}{row + 1}{by}: {text}")
    return sheet.text(hidden=bool(old.visibility))


def _cells(book: xlrd.Book, row: list[Cell]) -> Iterator[tuple[int, str]]:
    for column, cell in enumerate(row):
        if text := _shown(book, cell):
            yield column, text


def _shown(book: xlrd.Book, cell: Cell) -> str:
    if cell.ctype in NUMBERS:
        return formatted(cell.value, _format(book, cell), from_1904=bool(book.datemode))
    if cell.ctype == xlrd.XL_CELL_BOOLEAN:
        return "TRUE" if cell.value else "FALSE"
    if cell.ctype == xlrd.XL_CELL_ERROR:
        return str(xlrd.error_text_from_code.get(cell.value, ""))
    return str(cell.value)


def _format(book: xlrd.Book, cell: Cell) -> str:
    """Return the format code of ``cell``."""
    number = book.xf_list[cell.xf_index].format_key
    if number in BUILT_IN:
        return BUILT_IN[number]
    known = book.format_map.get(number)
    return str(known.format_str) if known is not None else GENERAL
