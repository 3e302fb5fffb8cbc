"""Reads OpenDocument files: text (.odt), spreadsheets (.ods) and presentations (.odp)."""

import re
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Final

from lxml import etree

from ingestq.core.errors import DocumentRejected
from worker.text.config import ReadingConfig
from worker.text.formats.formula import linear
from worker.text.formats.numbering import BULLET, column_letters, integer, letters, roman
from worker.text.formats.package import BrokenPart, Package
from worker.text.formats.sheet import Sheet
from worker.text.formats.tables import Cells, TooManyCells, sparse_table
from worker.text.parser import MAX_TABLE_CELLS
from worker.text.parts import ExtractedDocument, Part

NAMESPACE: Final = "{urn:oasis:names:tc:opendocument:xmlns:%s:1.0}"
TEXT: Final = NAMESPACE % "text"
TABLE: Final = NAMESPACE % "table"
DRAW: Final = NAMESPACE % "drawing"
OFFICE: Final = NAMESPACE % "office"
STYLE: Final = NAMESPACE % "style"
PRESENTATION: Final = NAMESPACE % "presentation"
LINK: Final = "{http://www.w3.org/1999/xlink}href"
CREATOR: Final = "{http://purl.org/dc/elements/1.1/}creator"
CONTENT: Final = "content.xml"
STYLES: Final = "styles.xml"
MAX_HEADING: Final = 6
MAX_SPACES: Final = 100
"""Of a run of spaces: more say nothing."""
INDENT: Final = "  "
PARAGRAPHS: Final = (f"{TEXT}p", f"{TEXT}h")
SIGNS: Final = {f"{TEXT}s": " ", f"{TEXT}tab": "\t", f"{TEXT}line-break": "\n"}
AFTERWARDS: Final = (f"{OFFICE}annotation", f"{TEXT}note")
"""What is written after the paragraph that it is in."""
CELLS: Final = (f"{TABLE}table-cell", f"{TABLE}covered-table-cell")
UNREAD: Final = frozenset(
    {
        f"{DRAW}layer-set",
        f"{OFFICE}forms",
        f"{TEXT}alphabetical-index-source",
        f"{TEXT}illustration-index-source",
        f"{TEXT}note-citation",
        f"{TEXT}ruby-text",  # how the base is read aloud
        f"{TEXT}sequence-decls",
        f"{TEXT}table-of-content-source",
        f"{TEXT}tracked-changes",  # what was deleted
        f"{NAMESPACE % 'svg-compatible'}desc",
        f"{NAMESPACE % 'svg-compatible'}title",
    }
)
HIDDEN: Final = (
    (f"{TEXT}display", "none"),
    (f"{TABLE}display", "false"),
    (f"{PRESENTATION}visibility", "hidden"),
)
"""Properties of the styles of what is not shown, and their values."""
NUMBERS: Final[dict[str, Callable[[int], str]]] = {
    "a": letters,
    "A": lambda number: letters(number).upper(),
    "i": roman,
    "I": lambda number: roman(number).upper(),
}
ROW_GROUPS: Final = tuple(
    TABLE + name for name in ("table-header-rows", "table-row-group", "table-rows")
)
MAX_REPEATS: Final = 256
"""A row or cell that is repeated more often fills the rest of a sheet."""
MAX_INDENTS: Final = 9
WHITE_SPACE: Final = re.compile(r"[ \t\r\n]+")
HIDDEN_SLIDE: Final = "(hidden slide)"


def read_text_document(data: bytes, media_type: str, reading: ReadingConfig) -> ExtractedDocument:
    """Read a text document (.odt). Raises DocumentRejected."""
    package = Package.open(data, media_type)
    flow = _flow(package, media_type)
    try:
        body = package.children(CONTENT, f"{OFFICE}text", "*")
        blocks = [block for each in body for block in flow.blocks([each])]
    except BrokenPart as error:
        raise DocumentRejected(f"cannot be read as {media_type}: {error}") from error
    blocks = [*_margins(package, flow, "header"), *blocks, *_margins(package, flow, "footer")]
    part = Part("\n\n".join(blocks), markdown=True)
    return ExtractedDocument((part,), package.title("meta.xml"), tuple(flow.warnings))


def read_spreadsheet(data: bytes, media_type: str, reading: ReadingConfig) -> ExtractedDocument:
    """Read a spreadsheet (.ods): one part for each sheet. Raises DocumentRejected."""
    package = Package.open(data, media_type)
    flow = _flow(package, media_type)
    try:
        parts = tuple(_sheets(package, flow))
    except BrokenPart as error:
        raise DocumentRejected(f"cannot be read as {media_type}: {error}") from error
    return ExtractedDocument(parts, package.title("meta.xml"), tuple(flow.warnings))


def read_presentation(data: bytes, media_type: str, reading: ReadingConfig) -> ExtractedDocument:
    """Read a presentation (.odp) or drawing (.odg): one part for each slide or page.

    Raises DocumentRejected.
    """
    package = Package.open(data, media_type)
    flow = _flow(package, media_type)
    parts = []
    try:
        for number, page in enumerate(package.elements(CONTENT, f"{DRAW}page"), 1):
            blocks = list(flow.slide(page))
            if page.get(f"{DRAW}style-name") in flow.styles.hidden:
                blocks.insert(0, HIDDEN_SLIDE)
            if blocks:
                parts.append(Part("\n\n".join(blocks), markdown=True, page=number))
    except BrokenPart as error:
        raise DocumentRejected(f"cannot be read as {media_type}: {error}") from error
    return ExtractedDocument(tuple(parts), package.title("meta.xml"), tuple(flow.warnings))


class _Styles:
    """What the styles of a document say of its meaning."""

    def __init__(self, package: Package) -> None:
        self.hidden: set[str] = set()  # styles of runs, sheets and slides
        self.numbers: dict[tuple[str, int], str] = {}  # formats by style of list and level
        for root in self._roots(package):
            for style in root.iter(f"{STYLE}style"):
                if any(
                    properties.get(name) == value
                    for properties in style.iterchildren("*")
                    for name, value in HIDDEN
                ):
                    self.hidden.add(style.get(f"{STYLE}name", ""))
            for style in root.iter(f"{TEXT}list-style"):
                for level in style.iterchildren(f"{TEXT}list-level-style-number"):
                    place = integer(level.get(f"{TEXT}level"), 1)
                    if code := level.get(f"{STYLE}num-format"):
                        self.numbers[style.get(f"{STYLE}name", ""), place] = code

    @staticmethod
    def _roots(package: Package) -> Iterator[etree._Element]:
        if STYLES in package:
            yield package.tree(STYLES)
        # They stand before the text, which is not read twice.
        yield from islice(package.elements(CONTENT, f"{OFFICE}automatic-styles"), 1)


class _Flow:
    """Writes the text of a document: paragraphs, lists, tables, frames and notes."""

    def __init__(self, package: Package, styles: _Styles) -> None:
        self.warnings: list[str] = []
        self.styles = styles
        self._package = package
        self._continued: dict[str, int] = {}  # the last number of a list, by its style

    def blocks(self, elements: Iterable[etree._Element], *, in_cell: bool = False) -> Iterator[str]:
        """Yield the paragraphs and tables of ``elements``, and what belongs to them."""
        for element in elements:
            if element.tag in PARAGRAPHS:
                yield from self._paragraph(element)
            elif element.tag == f"{TEXT}list":
                yield from self._list(element, "", 0)
            elif element.tag == f"{TABLE}table":
                yield from self._table(element, in_cell=in_cell)
            elif element.tag == f"{DRAW}object":
                yield from self._object(element)
            elif element.tag == f"{OFFICE}annotation":
                yield from self.comment(element)
            elif element.tag == f"{TEXT}note":
                yield from self._note(element)
            elif element.tag not in UNREAD:
                yield from self.blocks(element.iterchildren("*"), in_cell=in_cell)

    def slide(self, page: etree._Element) -> Iterator[str]:
        """Yield what a slide and its notes say."""
        notes = page.find(f"{PRESENTATION}notes")
        for shape in page.iterchildren("*"):
            if shape is not notes:
                is_title = shape.get(f"{PRESENTATION}class") == "title"
                for block in self.blocks([shape]):
                    yield f"# {' '.join(block.split())}" if is_title else block
        frames = notes.iterchildren(f"{DRAW}frame") if notes is not None else ()
        said = [
            block
            for frame in frames
            if frame.get(f"{PRESENTATION}class") in (None, "notes")
            for block in self.blocks([frame])
        ]
        if said:
            yield "Notes: " + "\n\n".join(said)

    def comment(self, element: etree._Element, place: str = "") -> Iterator[str]:
        """Yield a comment, on the cell at ``place`` if it is in a sheet."""
        author = element.findtext(CREATOR)
        label = "Comment" + (f" on {place}" if place else "") + (f" by {author}" if author else "")
        if text := " ".join(self.blocks(element.iterchildren(*PARAGRAPHS, f"{TEXT}list"))):
            yield f"{label}: {text}"

    def line(self, element: etree._Element, after: list[str]) -> str:
        """Return the text of a paragraph; add notes, comments and frames in it to ``after``."""
        pieces: list[str] = []
        self._walk(element, pieces, after)
        return "".join(pieces).strip()

    def _walk(self, element: etree._Element, pieces: list[str], after: list[str]) -> None:
        pieces.append(_collapsed(element.text, pieces))
        for child in element:
            if isinstance(child.tag, str):  # and not an entity, which is not expanded
                self._inline(child, pieces, after)
            pieces.append(_collapsed(child.tail, pieces))

    def _inline(self, child: etree._Element, pieces: list[str], after: list[str]) -> None:
        if child.tag in SIGNS:
            times = min(integer(child.get(f"{TEXT}c"), 1), MAX_SPACES)
            pieces.append(SIGNS[child.tag] * times)
        elif child.tag == f"{DRAW}frame" and child.find(f"{DRAW}object") is not None:
            for each in child.iterchildren(f"{DRAW}object"):
                pieces += self._object(each)
        elif child.tag in AFTERWARDS or child.tag.startswith((DRAW, TABLE)):
            after += self.blocks([child])
        elif child.tag == f"{TEXT}hidden-text":
            pieces.append(f"[hidden: {child.get(f'{TEXT}string-value', '')}]")
        elif child.get(f"{TEXT}style-name") in self.styles.hidden:
            hidden: list[str] = []
            self._walk(child, hidden, after)
            pieces.append(f"[hidden: {''.join(hidden)}]")
        elif child.tag == f"{TEXT}a":
            self._link(child, pieces, after)
        elif child.tag not in UNREAD:
            self._walk(child, pieces, after)

    def _note(self, element: etree._Element) -> Iterator[str]:
        kind = element.get(f"{TEXT}note-class", "footnote").capitalize()
        if text := "\n\n".join(self.blocks(element.iterchildren(f"{TEXT}note-body"))):
            yield f"{kind}: {text}"

    def _link(self, element: etree._Element, pieces: list[str], after: list[str]) -> None:
        written = len(pieces)
        self._walk(element, pieces, after)
        url, text = element.get(LINK, ""), "".join(pieces[written:])
        is_web = url.startswith(("http://", "https://"))
        if text.strip() and is_web and url.rstrip("/") not in text:
            pieces.append(f" ({url})")

    def _paragraph(self, element: etree._Element, begin: str = "") -> Iterator[str]:
        after: list[str] = []
        text = self.line(element, after)
        if element.tag == f"{TEXT}h" and text:
            level = integer(element.get(f"{TEXT}outline-level"), 1)
            begin = "#" * max(1, min(level, MAX_HEADING)) + " "
            text = " ".join(text.split())
        if text:
            yield begin + text
        yield from after

    def _list(self, element: etree._Element, style: str, depth: int) -> Iterator[str]:
        style = element.get(f"{TEXT}style-name", style)
        code = self.styles.numbers.get((style, depth + 1))
        write = NUMBERS.get(code or "", str)
        continues = element.get(f"{TEXT}continue-numbering") == "true"
        number = self._continued.get(style, 0) if continues else 0
        for item in element.iterchildren(f"{TEXT}list-item", f"{TEXT}list-header"):
            number = integer(item.get(f"{TEXT}start-value"), number + 1)
            label = BULLET if code is None else f"{write(number)}."
            begin = f"{INDENT * min(depth, MAX_INDENTS)}{label} "
            for child in item.iterchildren("*"):
                if child.tag == f"{TEXT}list":
                    yield from self._list(child, style, depth + 1)
                elif child.tag in PARAGRAPHS:
                    yield from self._paragraph(child, begin)
                    begin = ""
                else:
                    yield from self.blocks([child])
        self._continued[style] = number

    def _table(self, element: etree._Element, *, in_cell: bool) -> Iterator[str]:
        try:
            rows = list(self._rows(element))
            if in_cell:
                lines = (", ".join(text for _, text in row if text) for row in rows)
                yield from filter(None, ["; ".join(filter(None, lines))])
            else:
                yield from filter(None, [sparse_table(rows)])
        except TooManyCells as error:
            self.warnings.append(f"a table was skipped: {error}")

    def _rows(self, element: etree._Element) -> Iterator[Cells]:
        """Yield the rows of a table. Raises TooManyCells."""
        cells_yielded = 0
        for row in _own(element):
            cells = list(self._cells(row))
            for _ in range(_written(row, "rows")):
                cells_yielded += len(cells)
                if cells_yielded > MAX_TABLE_CELLS:
                    raise TooManyCells(cells_yielded)
                yield cells

    def _cells(self, row: etree._Element) -> Iterator[tuple[int, str]]:
        """Yield column and text of the cells that are not blank."""
        column = 0
        for cell in row.iterchildren(*CELLS):
            text = " ".join(self.blocks(_said(cell), in_cell=True)) or _value(cell)
            if text:
                for place in range(column, column + _written(cell, "columns")):
                    yield place, text
            column += _times(cell, "columns")

    def add_row(self, sheet: Sheet, number: int, row: etree._Element) -> None:
        """Add a row to a sheet, with the comments on its cells. Raises TooManyCells."""
        cells = list(self._cells(row))
        for place in range(number, number + _written(row, "rows")):
            sheet.add(place, cells)
        column = 1
        for cell in row.iterchildren(*CELLS):
            for comment in cell.iterchildren(f"{OFFICE}annotation"):
                for text in self.comment(comment, f"{column_letters(column)}{number + 1}"):
                    sheet.note(text)
            column += _times(cell, "columns")

    def _object(self, element: etree._Element) -> Iterator[str]:
        """Yield a formula, or what else is embedded as a document of its own."""
        name = element.get(LINK, "").removeprefix("./")
        try:
            root = next(element.iterchildren("{*}math"), None)
            if root is None and f"{name}/{CONTENT}" in self._package:
                root = self._package.tree(f"{name}/{CONTENT}")
        except BrokenPart as error:
            self.warnings.append(f"an embedded object could not be read: {error}")
            return
        if root is None:
            return
        if etree.QName(root).localname == "math":
            yield linear(root)
        else:
            body = root.find(f"{OFFICE}body")
            yield from self.blocks(body.iterchildren("*") if body is not None else ())


def _flow(package: Package, media_type: str) -> _Flow:
    try:
        return _Flow(package, _Styles(package))
    except BrokenPart as error:
        raise DocumentRejected(f"cannot be read as {media_type}: {error}") from error


def _margins(package: Package, flow: _Flow, kind: str) -> list[str]:
    """Return the headers or footers of pages, each text once."""
    try:
        root = package.tree(STYLES) if STYLES in package else None
    except BrokenPart as error:
        flow.warnings.append(f"page {kind}s could not be read: {error}")
        return []
    names = [f"{STYLE}{kind}{which}" for which in ("", "-left", "-first")]
    texts = (
        "\n\n".join(flow.blocks(each.iterchildren("*")))
        for each in (root.iter(*names) if root is not None else ())
    )
    return [f"Page {kind}: {text}" for text in dict.fromkeys(filter(None, texts))]


def _sheets(package: Package, flow: _Flow) -> Iterator[Part]:
    """Yield the sheets that are not blank. Raises BrokenPart."""
    sheet, row, skipped = Sheet(), 0, ""
    for element in package.elements(
        CONTENT, f"{TABLE}shapes", f"{TABLE}table-row", f"{TABLE}table"
    ):
        if element.tag == f"{TABLE}shapes":
            for text in flow.blocks(element.iterchildren("*")):
                sheet.note(text)
        elif element.tag == f"{TABLE}table-row":
            try:
                flow.add_row(sheet, row, element)
            except TooManyCells as error:
                skipped = str(error)
            row += _times(element, "rows")
        else:
            name = element.get(f"{TABLE}name", "")
            is_hidden = element.get(f"{TABLE}style-name") in flow.styles.hidden
            try:
                text = "" if skipped else sheet.text(hidden=is_hidden)
            except TooManyCells as error:
                skipped = str(error)
            if skipped:
                flow.warnings.append(f"sheet {name!r} was skipped: {skipped}")
            elif text:
                yield Part(text, markdown=True, name=name)
            sheet, row, skipped = Sheet(), 0, ""


def _value(cell: etree._Element) -> str:
    """Return the value of a cell that a program wrote without the text that shows it."""
    values = (cell.get(f"{OFFICE}{kind}value") for kind in ("string-", "date-", "time-", ""))
    return next(filter(None, values), "")


def _said(cell: etree._Element) -> Iterator[etree._Element]:
    """Yield the content of ``cell`` without comments."""
    return (each for each in cell.iterchildren("*") if each.tag != f"{OFFICE}annotation")


def _own(element: etree._Element) -> Iterator[etree._Element]:
    """Yield the rows of a table, without those of tables in it."""
    for child in element.iterchildren("*"):
        if child.tag == f"{TABLE}table-row":
            yield child
        elif child.tag in ROW_GROUPS:
            yield from _own(child)


def _times(element: etree._Element, what: str) -> int:
    """Return how often a row or cell follows itself."""
    return max(1, integer(element.get(f"{TABLE}number-{what}-repeated"), 1))


def _written(element: etree._Element, what: str) -> int:
    """Return how often a row or cell with text is written: once if it only fills the sheet."""
    times = _times(element, what)
    return times if times <= MAX_REPEATS else 1


def _collapsed(text: str | None, pieces: list[str]) -> str:
    """Return ``text`` after ``pieces`` with each run of white space as one space."""
    collapsed = WHITE_SPACE.sub(" ", text or "")
    after_space = bool(pieces) and pieces[-1].endswith((" ", "\n"))
    return collapsed.removeprefix(" ") if after_space else collapsed
