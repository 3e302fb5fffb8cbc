"""Reads documents of Word (.docx and its kin) as they stand with all tracked changes accepted."""

import re
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from operator import itemgetter
from typing import Final

from lxml import etree

from ingestq.core.errors import DocumentRejected
from worker.text.config import ReadingConfig
from worker.text.formats.drawing import COMPATIBILITY, chosen, embedded, graphic
from worker.text.formats.formula import MATH, linear
from worker.text.formats.numbering import BULLET, LEVELS, VALUE, WORD, Numbering, integer
from worker.text.formats.package import BrokenPart, Package, relation_id
from worker.text.formats.symbols import symbol, with_symbols
from worker.text.formats.tables import TooManyCells, sparse_table
from worker.text.parts import ExtractedDocument, Part

MAX_HEADING: Final = 6
HEADING: Final = "heading "
"""Word's own styles are named so in files, in every language."""
SOFT_HYPHEN: Final = "\N{SOFT HYPHEN}"
INDENT: Final = "  "
WRAPPERS: Final = tuple(WORD + name for name in ("customXml", "ins", "moveTo", "smartTag"))
"""Elements around paragraphs, rows or cells that are as if they were not there."""
BLOCKS: Final = (
    *WRAPPERS,
    f"{WORD}p",
    f"{WORD}tbl",
    f"{WORD}sdt",
    f"{COMPATIBILITY}AlternateContent",
)
REMOVED: Final = frozenset(
    WORD + name for name in ("del", "moveFrom", "delText", "delInstrText", "instrText", "rPrChange")
)
CHARACTERS: Final = {
    f"{WORD}tab": "\t",
    f"{WORD}ptab": "\t",
    f"{WORD}br": "\n",
    f"{WORD}cr": "\n",
    f"{WORD}noBreakHyphen": "-",
    f"{WORD}softHyphen": "",
}
NOTES: Final = {"footnote": "Footnote", "endnote": "Endnote", "comment": "Comment"}
UNREAD_NOTES: Final = ("separator", "continuationSeparator", "continuationNotice")
HEXADECIMAL: Final = re.compile(r"[0-9A-Fa-f]{1,6}")
OFF: Final = ("0", "false", "off", "none")
CHECKED: Final = {True: "☒", False: "☐"}


def read_word(data: bytes, media_type: str, reading: ReadingConfig) -> ExtractedDocument:
    """Read a document of Word. Raises DocumentRejected."""
    package = Package.open(data, media_type)
    try:
        document = _Document(package)
        text = "\n\n".join(document.blocks())
    except BrokenPart as error:
        raise DocumentRejected(f"cannot be read as {media_type}: {error}") from error
    part = Part(text, markdown=True)
    return ExtractedDocument((part,), package.title(), tuple(document.warnings))


class _Styles:
    """What the styles of paragraphs and runs say of their meaning."""

    def __init__(self, root: etree._Element | None) -> None:
        self.headings: dict[str, int] = {}
        self.lists: dict[str, etree._Element] = {}
        self.hidden: set[str] = set()
        based_on: dict[str, str] = {}
        for style in root.iterchildren(f"{WORD}style") if root is not None else ():
            name = style.get(f"{WORD}styleId", "")
            based_on[name] = _value(style, f"{WORD}basedOn") or ""
            level = _heading_level(style)
            if level is not None:
                self.headings[name] = level
            if (numbered := style.find(f"{WORD}pPr/{WORD}numPr")) is not None:
                self.lists[name] = numbered
            if _is_on(style.find(f"{WORD}rPr/{WORD}vanish")):
                self.hidden.add(name)
        for name in based_on:
            self._inherit(name, based_on)

    def _inherit(self, name: str, based_on: dict[str, str]) -> None:
        """Give the style ``name`` what the nearest style that it is based on says."""
        above = name
        for _ in range(LEVELS):
            above = based_on.get(above, "")
            if above in self.headings:
                self.headings.setdefault(name, self.headings[above])
            if above in self.lists:
                self.lists.setdefault(name, self.lists[above])


def _heading_level(style: etree._Element) -> int | None:
    named = (_value(style, f"{WORD}name") or "").lower()
    if named == "title":
        return 1
    if named.startswith(HEADING):
        return min(integer(named.removeprefix(HEADING), 1), MAX_HEADING)
    outline = integer(_value(style, f"{WORD}pPr/{WORD}outlineLvl"), LEVELS)
    return min(outline + 1, MAX_HEADING) if outline < LEVELS else None


class _Document:
    def __init__(self, package: Package) -> None:
        self.warnings: list[str] = []
        self._package = package
        self._main = package.main_part("word/document.xml")
        self._relations = package.relations(self._main)
        self._styles = _Styles(self._optional("styles"))
        self._numbering = Numbering(self._optional("numbering"))
        self._notes = {kind: self._read_notes(kind) for kind in NOTES}

    def _optional(self, kind: str) -> etree._Element | None:
        """Return the root of the file of ``kind``; None if there is none that can be read."""
        for relation in self._relations.values():
            if relation.kind == kind and relation.target in self._package:
                try:
                    return self._package.tree(relation.target)
                except BrokenPart as error:
                    self.warnings.append(f"{kind} could not be read: {error}")
        return None

    def _read_notes(self, kind: str) -> dict[str, etree._Element]:
        root = self._optional(f"{kind}s")
        return {
            each.get(f"{WORD}id", ""): each
            for each in (root.iterchildren(WORD + kind) if root is not None else ())
            if each.get(f"{WORD}type") not in UNREAD_NOTES
        }

    def blocks(self) -> Iterator[str]:
        """Yield the paragraphs and tables. Raises BrokenPart."""
        yield from self._margins("header")
        body = f"{WORD}body"
        yield from self.written(self._package.children(self._main, body, *BLOCKS))
        for kind, notes in self._notes.items():
            for name in list(notes):  # that nothing refers to
                yield from self.note(kind, name)
        yield from self._margins("footer")
        self.warnings += embedded(self._relations)

    def _margins(self, kind: str) -> Iterator[str]:
        """Yield the headers or footers of pages, each text once."""
        seen = set()
        for relation in self._relations.values():
            if relation.kind != kind or relation.target not in self._package:
                continue
            try:
                root = self._package.tree(relation.target)
            except BrokenPart as error:
                self.warnings.append(f"a page {kind} could not be read: {error}")
                continue
            text = "\n\n".join(self.written(root.iterchildren("*")))
            if text and text not in seen:
                seen.add(text)
                yield f"Page {kind}: {text}"

    def written(
        self, elements: Iterator[etree._Element], *, in_cell: bool = False
    ) -> Iterator[str]:
        """Yield the text of ``elements``, paragraphs and tables, and of what they refer to."""
        joined = _Paragraph(self)
        for element in _unwrapped(elements):
            if element.tag == f"{WORD}tbl":
                yield from self._table(element, in_cell=in_cell)
            elif element.tag == f"{WORD}p":
                joined.add(element)
                if element.find(f"{WORD}pPr/{WORD}rPr/{WORD}del") is None:
                    yield from joined.blocks()
                    joined = _Paragraph(self)
        yield from joined.blocks()

    def _table(self, element: etree._Element, *, in_cell: bool) -> Iterator[str]:
        rows = [
            list(self._cells(row))
            for row in _unwrapped(element.iterchildren("*"))
            if row.tag == f"{WORD}tr" and row.find(f"{WORD}trPr/{WORD}del") is None
        ]
        if sum(map(len, rows)) == 1:  # a frame around text
            yield from rows[0][0][1] if rows[0] else ()
            return
        flat = [[(column, " ".join(blocks)) for column, blocks in row] for row in rows]
        if in_cell:
            lines = (", ".join(text for _, text in row if text) for row in flat)
            yield from filter(None, ["; ".join(filter(None, lines))])
            return
        try:
            yield from filter(None, [sparse_table(flat)])
        except TooManyCells as error:
            self.warnings.append(f"a table was skipped: {error}")

    def _cells(self, row: etree._Element) -> Iterator[tuple[int, list[str]]]:
        """Yield the column and the blocks of each cell of ``row``."""
        column = integer(_value(row, f"{WORD}trPr/{WORD}gridBefore"), 0)
        for cell in _unwrapped(row.iterchildren("*")):
            properties = f"{WORD}tcPr/{WORD}"
            if cell.tag == f"{WORD}tc" and cell.find(f"{properties}cellDel") is None:
                yield column, list(self.written(cell.iterchildren("*"), in_cell=True))
                column += integer(_value(cell, f"{properties}gridSpan"), 1)

    def note(self, kind: str, name: str) -> Iterator[str]:
        """Yield a note or comment, once."""
        if (element := self._notes[kind].pop(name, None)) is not None:
            author = element.get(f"{WORD}author", "")
            label = NOTES[kind] + (f" by {author}" if author else "")
            if text := "\n\n".join(self.written(element.iterchildren("*"))):
                yield f"{label}: {text}"

    def graphics(self, element: etree._Element) -> Iterator[str]:
        """Yield the text of the charts and the SmartArt in ``element``."""
        try:
            yield from filter(None, graphic(element, self._package, self._relations))
        except (BrokenPart, TooManyCells) as error:
            self.warnings.append(f"a chart could not be read: {error}")

    def url(self, hyperlink: etree._Element) -> str:
        """Return the URL of a link to the web; "" if it leads elsewhere."""
        relation = self._relations.get(relation_id(hyperlink))
        target = relation.target if relation is not None and relation.external else ""
        return target if target.startswith(("http://", "https://")) else ""

    def is_hidden(self, run: etree._Element) -> bool:
        """Return True if Word does not show ``run``."""
        own = run.find(f"{WORD}rPr/{WORD}vanish")
        style = _value(run, f"{WORD}rPr/{WORD}rStyle")
        return style in self._styles.hidden if own is None else _is_on(own)

    def begin(self, paragraph: etree._Element) -> str:
        """Return what stands before the text of ``paragraph``: the marks of a heading or item."""
        properties = f"{WORD}pPr/{WORD}"
        style = _value(paragraph, f"{properties}pStyle") or ""
        heading = self._styles.headings.get(style, 0)
        outline = integer(_value(paragraph, f"{properties}outlineLvl"), LEVELS)
        if outline < LEVELS:
            heading = min(outline + 1, MAX_HEADING)
        inherited = self._styles.lists.get(style)
        numbered = paragraph.find(f"{properties}numPr")
        places = [each for each in (numbered, inherited) if each is not None]
        name = next(filter(None, (_value(each, f"{WORD}numId") for each in places)), "")
        level = next(filter(None, (_value(each, f"{WORD}ilvl") for each in places)), "")
        depth = max(0, min(integer(level, 0), LEVELS - 1))
        label = self._numbering.label(name, depth)
        if heading:
            return f"{'#' * heading} " + (f"{label} " if label not in ("", BULLET) else "")
        return f"{INDENT * depth}{label} " if label else ""


class _Paragraph:
    """A paragraph, or several whose marks between them were deleted."""

    def __init__(self, document: _Document) -> None:
        self._document = document
        self._begin: str | None = None
        self._pieces: list[tuple[bool, str]] = []  # hidden or not, and text
        self._after: list[str] = []  # notes and boxes
        self._hidden, self._font = False, ""

    def add(self, element: etree._Element) -> None:
        """Add the paragraph ``element``."""
        begin = self._document.begin(element)
        self._begin = begin if self._begin is None else self._begin
        self._walk(element)

    def blocks(self) -> Iterator[str]:
        """Yield the text, if there is any, and then the notes and boxes that belong to it."""
        grouped = (
            (hidden, "".join(text for _, text in pieces))
            for hidden, pieces in groupby(self._pieces, key=itemgetter(0))
        )
        text = "".join(
            f"[hidden: {text}]" if hidden and text.strip() else text for hidden, text in grouped
        ).strip()
        begin = self._begin or ""
        if text:
            yield begin + (" ".join(text.split()) if begin.startswith("#") else text)
        yield from self._after

    def _walk(self, element: etree._Element) -> None:
        for child in element.iterchildren("*"):
            tag = child.tag
            if tag == f"{WORD}t":
                self._write(with_symbols(child.text or "", self._font).replace(SOFT_HYPHEN, ""))
            elif tag in CHARACTERS:
                self._write(CHARACTERS[tag])
            elif tag in HANDLERS:
                HANDLERS[tag](self, child)
            elif tag not in REMOVED:
                self._walk(child)

    def _write(self, text: str) -> None:
        self._pieces.append((self._hidden, text))

    def _run(self, run: etree._Element) -> None:
        outer = self._hidden, self._font
        fonts = run.find(f"{WORD}rPr/{WORD}rFonts")
        self._font = "" if fonts is None else fonts.get(f"{WORD}ascii", "")
        self._hidden = self._hidden or self._document.is_hidden(run)
        self._walk(run)
        self._hidden, self._font = outer

    def _symbol(self, element: etree._Element) -> None:
        code = element.get(f"{WORD}char", "")
        known = int(code, 16) if HEXADECIMAL.fullmatch(code) else 0
        self._write(symbol(known, element.get(f"{WORD}font", "")))

    def _link(self, element: etree._Element) -> None:
        written = len(self._pieces)
        self._walk(element)
        url = self._document.url(element)
        text = "".join(text for _, text in self._pieces[written:])
        if text.strip() and url and url.rstrip("/") not in text:
            self._write(f" ({url})")

    def _control(self, element: etree._Element) -> None:
        content = element.find(f"{WORD}sdtContent")
        if content is not None and not _is_placeholder(element):
            self._walk(content)

    def _alternatives(self, element: etree._Element) -> None:
        self._walk(chosen(element))

    def _drawing(self, element: etree._Element) -> None:
        self._walk(element)
        self._after += self._document.graphics(element)

    def _box(self, element: etree._Element) -> None:
        self._after += self._document.written(element.iterchildren("*"))

    def _formula(self, element: etree._Element) -> None:
        self._write(linear(element))

    def _reference(self, element: etree._Element) -> None:
        kind = etree.QName(element).localname.removesuffix("Reference")
        self._after += self._document.note(kind, element.get(f"{WORD}id", ""))

    def _field(self, element: etree._Element) -> None:
        """Write the value of a check box or a list of a form; other fields have theirs as text."""
        if (box := element.find(f"{WORD}ffData/{WORD}checkBox")) is not None:
            states = [box.find(WORD + name) for name in ("checked", "default")]
            self._write(CHECKED[_is_on(next((each for each in states if each is not None), None))])
        elif (choice := element.find(f"{WORD}ffData/{WORD}ddList")) is not None:
            entries = [each.get(VALUE, "") for each in choice.iterchildren(f"{WORD}listEntry")]
            at = integer(_value(choice, f"{WORD}result") or _value(choice, f"{WORD}default"), 0)
            self._write(entries[at] if 0 <= at < len(entries) else "")


def _ignore(paragraph: _Paragraph, element: etree._Element) -> None:
    """Write nothing."""


HANDLERS: Final[dict[str, Callable[[_Paragraph, etree._Element], None]]] = {
    f"{COMPATIBILITY}AlternateContent": _Paragraph._alternatives,
    f"{MATH}oMath": _Paragraph._formula,
    f"{WORD}commentReference": _Paragraph._reference,
    f"{WORD}drawing": _Paragraph._drawing,
    f"{WORD}endnoteReference": _Paragraph._reference,
    f"{WORD}fldChar": _Paragraph._field,
    f"{WORD}footnoteReference": _Paragraph._reference,
    f"{WORD}hyperlink": _Paragraph._link,
    f"{WORD}pPr": _ignore,
    f"{WORD}r": _Paragraph._run,
    f"{WORD}rPr": _ignore,
    f"{WORD}rt": _ignore,  # how the base is read aloud
    f"{WORD}sdt": _Paragraph._control,
    f"{WORD}sym": _Paragraph._symbol,
    f"{WORD}txbxContent": _Paragraph._box,
}


def _unwrapped(elements: Iterable[etree._Element]) -> Iterator[etree._Element]:
    """Yield ``elements``; in place of controls and of accepted insertions, what is in them."""
    for element in elements:
        if element.tag == f"{WORD}sdt":
            content = element.find(f"{WORD}sdtContent")
            if content is not None and not _is_placeholder(element):
                yield from _unwrapped(content.iterchildren("*"))
        elif element.tag in WRAPPERS:
            yield from _unwrapped(element.iterchildren("*"))
        elif element.tag == f"{COMPATIBILITY}AlternateContent":
            yield from _unwrapped(chosen(element).iterchildren("*"))
        else:
            yield element


def _is_placeholder(control: etree._Element) -> bool:
    """Return True if a content control only shows what to enter."""
    return _is_on(control.find(f"{WORD}sdtPr/{WORD}showingPlcHdr"))


def _is_on(element: etree._Element | None) -> bool:
    return element is not None and element.get(VALUE, "1") not in OFF


def _value(element: etree._Element, path: str) -> str | None:
    found = element.find(path)
    return None if found is None else found.get(VALUE)
