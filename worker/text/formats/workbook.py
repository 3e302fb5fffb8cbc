"""Reads workbooks of Excel (.xlsx and its kin): one part for each sheet, with values as shown."""

import math
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Final

from lxml import etree

from ingestq.core.errors import DocumentRejected
from worker.text.config import ReadingConfig
from worker.text.formats.drawing import embedded, paragraphs
from worker.text.formats.number_format import BUILT_IN, GENERAL, formatted, general
from worker.text.formats.package import BrokenPart, Package, Relation, relation_id
from worker.text.formats.sheet import Sheet
from worker.text.formats.tables import TooManyCells
from worker.text.parts import ExtractedDocument, Part

SHEET: Final = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
CELL: Final = f"{SHEET}c"
VALUE: Final = f"{SHEET}v"
FORMULA: Final = f"{SHEET}f"
INLINE: Final = f"{SHEET}is"
REFERENCE: Final = re.compile(r"\$?([A-Z]{1,3})\$?(\d{1,7})")
ESCAPED: Final = re.compile(r"_x([0-9A-Fa-f]{4})_")
"""A character that Excel cannot write in XML, or an underscore that would seem to begin one."""
HIDDEN: Final = ("hidden", "veryHidden")
SHEETS: Final = ("worksheet", "xlMacrosheet", "xlIntlMacrosheet")
"""Kinds of relations to sheets that have cells."""
THREADED: Final = "tc="
"""The author of a comment that is there for older versions of Excel begins so."""
MAX_CACHED: Final = 16_384
"""Columns of a sheet."""


def read_workbook(data: bytes, media_type: str, reading: ReadingConfig) -> ExtractedDocument:
    """Read a workbook. Raises DocumentRejected."""
    package = Package.open(data, media_type)
    try:
        workbook = _Workbook(package)
    except BrokenPart as error:
        raise DocumentRejected(f"cannot be read as {media_type}: {error}") from error
    parts, warnings = [], []
    for name, hidden, relation in workbook.sheets():
        try:
            text = workbook.read(relation.target, hidden=hidden)
        except (BrokenPart, TooManyCells) as error:
            warnings.append(f"sheet {name!r} was skipped: {error}")
            continue
        missing = embedded(package.relations(relation.target))
        warnings += [f"sheet {name!r}: {each}" for each in missing]
        if text:
            parts.append(Part(text, markdown=True, name=name))
    return ExtractedDocument(tuple(parts), package.title(), tuple(warnings))


class _Workbook:
    def __init__(self, package: Package) -> None:
        self._package = package
        main = package.main_part("xl/workbook.xml")
        self._root = package.tree(main)
        self._relations = package.relations(main)
        properties = self._root.find(f"{SHEET}workbookPr")
        self._from_1904 = properties is not None and _is_true(properties.get("date1904"))
        self._strings = self._read_strings()
        self._formats = self._read_formats()
        self._people = {
            each.get("id", ""): each.get("displayName", "")
            for each in self._related(self._relations, "person")
            for each in each.iter("{*}person")
        }

    def sheets(self) -> Iterator[tuple[str, bool, Relation]]:
        """Yield name, whether it is hidden, and the file of each sheet that has cells."""
        for sheet in self._root.iter(f"{SHEET}sheet"):
            relation = self._relations.get(relation_id(sheet))
            if relation is not None and relation.kind in SHEETS:
                yield sheet.get("name", ""), sheet.get("state") in HIDDEN, relation

    def read(self, name: str, *, hidden: bool) -> str:
        """Return the cells of a sheet, and what else it says. Raises BrokenPart, TooManyCells."""
        sheet = Sheet()
        place = 0
        for row in self._package.elements(name, f"{SHEET}row"):
            number = row.get("r", "")
            place = int(number) if number.isdecimal() else place + 1
            sheet.add(place, self._cells(row))
        relations = self._package.relations(name)
        for text in self._boxes(relations):
            sheet.note(text)
        for text in self._comments(relations):
            sheet.note(text)
        return sheet.text(hidden=hidden)

    def _cells(self, row: etree._Element) -> Iterator[tuple[int, str]]:
        column = 0
        for cell in row.iterchildren(CELL):
            reference = cell.get("r")
            column = _column(reference) if reference else column + 1
            if text := self._value(cell):
                yield column, text

    def _value(self, cell: etree._Element) -> str:
        kind, value, formula = cell.get("t", "n"), None, None
        for child in cell:
            if child.tag == VALUE:
                value = child.text
            elif child.tag == FORMULA:
                formula = child.text
            elif child.tag == INLINE:
                return _rich_text(child)
        if value is None:  # a formula that the program which wrote the file did not compute
            return f"={formula}" if formula else ""
        if kind == "n":
            return self._number(value, cell.get("s", "0"))
        if kind == "s":
            place = int(value) if value.isdecimal() else len(self._strings)
            return self._strings[place] if place < len(self._strings) else ""
        if kind == "b":
            return "TRUE" if value == "1" else "FALSE"
        return _unescaped(value)

    def _number(self, text: str, style: str) -> str:
        try:
            value = float(text)
        except ValueError:
            return text
        if not math.isfinite(value):
            return text
        code = self._formats.get(style, GENERAL)
        if code == GENERAL:
            return general(value)
        return formatted(value, code, from_1904=self._from_1904)

    def _related(self, relations: dict[str, Relation], kind: str) -> Iterator[etree._Element]:
        for relation in relations.values():
            if relation.kind == kind and relation.target in self._package:
                yield self._package.tree(relation.target)

    def _read_strings(self) -> list[str]:
        return [
            _rich_text(item)
            for relation in self._relations.values()
            if relation.kind == "sharedStrings" and relation.target in self._package
            for item in self._package.elements(relation.target, f"{SHEET}si")
        ]

    def _read_formats(self) -> dict[str, str]:
        """Return the format code of each style of cells, by its number."""
        formats = {}
        for root in self._related(self._relations, "styles"):
            own = {
                each.get("numFmtId", ""): each.get("formatCode", "")
                for each in root.iterfind(f"{SHEET}numFmts/{SHEET}numFmt")
            }
            for place, style in enumerate(root.iterfind(f"{SHEET}cellXfs/{SHEET}xf")):
                number = style.get("numFmtId", "0")
                known = BUILT_IN.get(int(number), GENERAL) if number.isdecimal() else GENERAL
                formats[str(place)] = own.get(number, known)
        return formats

    def _boxes(self, relations: dict[str, Relation]) -> Iterator[str]:
        """Yield the texts of boxes and shapes that lie on a sheet."""
        for root in self._related(relations, "drawing"):
            for body in root.iter("{*}txBody"):
                if text := "\n\n".join(paragraphs(body)):
                    yield text

    def _comments(self, relations: dict[str, Relation]) -> Iterator[str]:
        for root in self._related(relations, "threadedComment"):
            for comment in root.iter("{*}threadedComment"):
                author = self._people.get(comment.get("personId", ""), "")
                yield _comment(comment.get("ref", ""), author, comment.findtext("{*}text") or "")
        for root in self._related(relations, "comments"):
            authors = [each.text or "" for each in root.iter(f"{SHEET}author")]
            for comment in root.iter(f"{SHEET}comment"):
                at = comment.get("authorId", "")
                author = authors[int(at)] if at.isdecimal() and int(at) < len(authors) else ""
                text = comment.find(f"{SHEET}text")
                if text is not None and not author.startswith(THREADED):
                    yield _comment(comment.get("ref", ""), author, _rich_text(text))


def _comment(reference: str, author: str, text: str) -> str:
    by = f" by {author}" if author else ""
    return f"Comment on {reference}{by}: {' '.join(text.split())}"


def _rich_text(element: etree._Element) -> str:
    """Return the text of ``element``, without how it is read aloud (``rPh``)."""
    plain = element.findtext(f"{SHEET}t")
    runs = (run.findtext(f"{SHEET}t") or "" for run in element.iterchildren(f"{SHEET}r"))
    return _unescaped((plain or "") + "".join(runs))


def _unescaped(text: str) -> str:
    if "_x" not in text:
        return text
    return ESCAPED.sub(lambda found: chr(int(found[1], 16)), text)


def _is_true(text: str | None) -> bool:
    return text in ("1", "true", "on")


def _column(reference: str) -> int:
    """Return the number of the column of a cell such as ``AB12``, from 1; 0 if it is no cell."""
    found = REFERENCE.fullmatch(reference)
    return _column_number(found[1]) if found else 0


@lru_cache(MAX_CACHED)
def _column_number(letters: str) -> int:
    number = 0
    for letter in letters:
        number = number * 26 + ord(letter) - ord("A") + 1
    return number
