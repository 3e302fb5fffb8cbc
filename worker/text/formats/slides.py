"""Reads presentations of PowerPoint (.pptx and its kin): one part for each slide."""

from collections.abc import Iterator
from typing import Final

from lxml import etree

from ingestq.core.errors import DocumentRejected
from worker.text.config import ReadingConfig
from worker.text.formats.drawing import (
    COMPATIBILITY,
    DRAWING,
    chosen,
    drawn_table,
    embedded,
    graphic,
    paragraphs,
)
from worker.text.formats.package import BrokenPart, Package, relation_id
from worker.text.formats.tables import TooManyCells
from worker.text.parts import ExtractedDocument, Part

SLIDES: Final = "{http://schemas.openxmlformats.org/presentationml/2006/main}"
TITLES: Final = ("title", "ctrTitle")
NUMBERS_AND_DATES: Final = ("dt", "sldNum", "sldImg")
"""Placeholders without text of the author."""
FOOTERS: Final = ("ftr", "hdr")
HIDDEN_SLIDE: Final = "(hidden slide)"


def read_slides(data: bytes, media_type: str, reading: ReadingConfig) -> ExtractedDocument:
    """Read a presentation. Raises DocumentRejected."""
    package = Package.open(data, media_type)
    try:
        main = package.main_part("ppt/presentation.xml")
        presentation = package.tree(main)
    except BrokenPart as error:
        raise DocumentRejected(f"cannot be read as {media_type}: {error}") from error
    relations = package.relations(main)
    parts, warnings, footers = [], [], set[str]()
    for page, listed in enumerate(presentation.iter(f"{SLIDES}sldId"), 1):
        relation = relations.get(relation_id(listed))
        try:
            slide = _Slide(package, relation.target if relation else "")
        except BrokenPart as error:
            warnings.append(f"slide {page} could not be read: {error}")
            continue
        text = slide.text(footers)
        warnings += [f"slide {page}: {missing}" for missing in slide.missing]
        if text:
            parts.append(Part(text, markdown=True, page=page))
    return ExtractedDocument(tuple(parts), package.title(), tuple(warnings))


class _Slide:
    def __init__(self, package: Package, name: str) -> None:
        self._package = package
        self._root = package.tree(name)
        self._relations = package.relations(name)
        self.missing = embedded(self._relations)  # what could not be read

    def text(self, footers: set[str]) -> str:
        """Return what the slide and its notes say, without ``footers``; add new ones to them."""
        titles, blocks = [], []
        for shape in _shapes(self._root.find(f"{SLIDES}cSld/{SLIDES}spTree")):
            kind = _placeholder(shape)
            for block in self._blocks(shape) if kind not in NUMBERS_AND_DATES else ():
                if kind in TITLES:
                    titles.append(f"# {' '.join(block.split())}")
                elif kind not in FOOTERS:
                    blocks.append(block)
                elif block not in footers:
                    footers.add(block)
                    blocks.append(block)
        if self._root.get("show") in ("0", "false"):
            titles.insert(0, HIDDEN_SLIDE)
        return "\n\n".join([*titles, *blocks, *self._notes(), *self._comments()])

    def _blocks(self, shape: etree._Element) -> Iterator[str]:
        body = shape.find(f"{SLIDES}txBody")
        if body is not None:
            yield from paragraphs(body)
        try:
            for drawn in shape.iter(f"{DRAWING}tbl"):
                yield drawn_table(drawn)
            if shape.tag == f"{SLIDES}graphicFrame":
                yield from filter(None, graphic(shape, self._package, self._relations))
        except (BrokenPart, TooManyCells) as error:
            self.missing.append(f"a table or chart could not be read: {error}")

    def _related(self, kind: str) -> Iterator[etree._Element]:
        """Yield the roots of the files of ``kind`` that belong to the slide."""
        for relation in self._relations.values():
            if relation.kind == kind and relation.target in self._package:
                try:
                    yield self._package.tree(relation.target)
                except BrokenPart as error:
                    self.missing.append(str(error))

    def _notes(self) -> Iterator[str]:
        for root in self._related("notesSlide"):
            said = [
                block
                for shape in _shapes(root.find(f"{SLIDES}cSld/{SLIDES}spTree"))
                if _placeholder(shape) not in (*NUMBERS_AND_DATES, *FOOTERS)
                for block in self._blocks(shape)
            ]
            if said:
                yield "Notes: " + "\n\n".join(said)

    def _comments(self) -> Iterator[str]:
        for root in self._related("comments"):
            for text in root.iter(f"{SLIDES}text"):
                yield f"Comment: {(text.text or '').strip()}"
            for body in root.iter("{*}txBody"):
                yield f"Comment: {' '.join(paragraphs(body))}"


def _shapes(tree: etree._Element | None) -> Iterator[etree._Element]:
    """Yield the shapes in ``tree``, also those in groups, in their order."""
    for child in tree.iterchildren("*") if tree is not None else ():
        if child.tag == f"{SLIDES}grpSp":
            yield from _shapes(child)
        elif child.tag == f"{COMPATIBILITY}AlternateContent":
            yield from _shapes(chosen(child))
        else:
            yield child


def _placeholder(shape: etree._Element) -> str | None:
    """Return the kind of the placeholder that ``shape`` fills; None if it fills none."""
    found = next(shape.iter(f"{SLIDES}ph"), None)
    return None if found is None else found.get("type", "obj")
