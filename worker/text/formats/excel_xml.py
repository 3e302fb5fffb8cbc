"""Reads workbooks in the XML of Excel 2003, which many programs write and name ``.xls``."""

from collections.abc import Iterator
from datetime import datetime
from typing import Final

from lxml import etree

from ingestq.core.errors import DocumentRejected
from worker.text.config import ReadingConfig
from worker.text.formats.number_format import EPOCH, GENERAL, ISO_DATE, formatted
from worker.text.formats.numbering import column_letters, integer
from worker.text.formats.package import BrokenPart, all_text, parse_xml
from worker.text.formats.sheet import Sheet
from worker.text.formats.tables import TooManyCells
from worker.text.parts import ExtractedDocument, Part

SHEET: Final = "{urn:schemas-microsoft-com:office:spreadsheet}"
EXCEL: Final = "{urn:schemas-microsoft-com:office:excel}"
NAMED: Final = {
    "Currency": "#,##0.00",
    "Euro Currency": "#,##0.00 €",
    "Fixed": "0.00",
    "General Date": f"{ISO_DATE} h:mm",
    "General Number": GENERAL,
    "Long Date": ISO_DATE,
    "Long Time": "h:mm:ss",
    "Medium Date": ISO_DATE,
    "Medium Time": "h:mm AM/PM",
    "Percent": "0.00%",
    "Scientific": "0.00E+00",
    "Short Date": ISO_DATE,
    "Short Time": "h:mm",
    "Standard": "#,##0.00",
}
"""Formats that have a name instead of a code."""


def read_xml_workbook(data: bytes, media_type: str, reading: ReadingConfig) -> ExtractedDocument:
    """Read a workbook. Raises DocumentRejected."""
    try:
        root = parse_xml(data, "the workbook")
    except BrokenPart as error:
        raise DocumentRejected(f"cannot be read as {media_type}: {error}") from error
    formats = {
        style.get(f"{SHEET}ID", ""): code
        for style in root.iter(f"{SHEET}Style")
        for each in style.iterchildren(f"{SHEET}NumberFormat")
        if (code := each.get(f"{SHEET}Format"))
    }
    parts, warnings = [], []
    for worksheet in root.iterchildren(f"{SHEET}Worksheet"):
        name = worksheet.get(f"{SHEET}Name", "")
        shown = worksheet.findtext(f"{EXCEL}WorksheetOptions/{EXCEL}Visible")
        try:
            text = _sheet(worksheet, formats).text(hidden=shown is not None)
        except TooManyCells as error:
            warnings.append(f"sheet {name!r} was skipped: {error}")
            continue
        if text:
            parts.append(Part(text, markdown=True, name=name))
    return ExtractedDocument(tuple(parts), warnings=tuple(warnings))


def _sheet(worksheet: etree._Element, formats: dict[str, str]) -> Sheet:
    """Return the sheet ``worksheet``. Raises TooManyCells."""
    sheet, number = Sheet(), 0
    for row in worksheet.iterfind(f"{SHEET}Table/{SHEET}Row"):
        number = integer(row.get(f"{SHEET}Index"), number + 1)
        sheet.add(number, _cells(row, formats))
        for column, cell in _columns(row):
            for comment in cell.iterchildren(f"{SHEET}Comment"):
                text = " ".join(all_text(comment).split())
                author = comment.get(f"{SHEET}Author")
                by = f" by {author}" if author else ""
                sheet.note(f"Comment on {column_letters(column)}{number}{by}: {text}")
    return sheet


def _columns(row: etree._Element) -> Iterator[tuple[int, etree._Element]]:
    column = 0
    for cell in row.iterchildren(f"{SHEET}Cell"):
        column = integer(cell.get(f"{SHEET}Index"), column + 1)
        yield column, cell
        column += integer(cell.get(f"{SHEET}MergeAcross"), 0)


def _cells(row: etree._Element, formats: dict[str, str]) -> Iterator[tuple[int, str]]:
    for column, cell in _columns(row):
        for value in cell.iterchildren("{*}Data"):
            code = formats.get(cell.get(f"{SHEET}StyleID", ""), GENERAL)
            text = all_text(value)
            yield column, _shown(text, value.get(f"{SHEET}Type", ""), NAMED.get(code, code))


def _shown(text: str, kind: str, code: str) -> str:
    try:
        if kind == "Number":
            return formatted(float(text), code)
        if kind == "DateTime":
            days = (datetime.fromisoformat(text) - EPOCH).total_seconds() / 86_400
            return formatted(days, f"{ISO_DATE} hh:mm" if code == GENERAL else code)
    except (ArithmeticError, TypeError, ValueError):
        return text
    if kind == "Boolean":
        return "TRUE" if text == "1" else "FALSE"
    return text
