"""Reads what the formats of Office share: text of shapes, tables, charts and SmartArt."""

from collections.abc import Iterator
from typing import Final

from lxml import etree

from worker.text.formats.formula import MATH, linear
from worker.text.formats.number_format import GENERAL, formatted
from worker.text.formats.package import Package, Relation, all_text, relation_id
from worker.text.formats.tables import table

DRAWING: Final = "{http://schemas.openxmlformats.org/drawingml/2006/main}"
CHART: Final = "{http://schemas.openxmlformats.org/drawingml/2006/chart}"
DIAGRAM: Final = "{http://schemas.openxmlformats.org/drawingml/2006/diagram}"
COMPATIBILITY: Final = "{http://schemas.openxmlformats.org/markup-compatibility/2006}"
TEXT_POINTS: Final = (None, "node", "asst")
"""Kinds of the points of a diagram that hold text; the others lay it out."""
EMBEDDED: Final = ("aFChunk", "oleObject", "package")
"""Kinds of relations to files of other formats inside a document."""
UNREAD_FIELDS: Final = ("slidenum", "datetime")


def embedded(relations: dict[str, Relation]) -> list[str]:
    """Return a warning if files of other formats are embedded, which are not read."""
    count = sum(relation.kind in EMBEDDED for relation in relations.values())
    what = "an embedded object was" if count == 1 else f"{count} embedded objects were"
    return [f"{what} not read"] if count else []


def paragraphs(body: etree._Element) -> list[str]:
    """Return the paragraphs of a text body that are not blank."""
    found = (paragraph(element) for element in body.iterchildren(f"{DRAWING}p"))
    return [text for text in found if text]


def paragraph(element: etree._Element) -> str:
    """Return the text of a paragraph."""
    return "".join(_runs(element)).strip()


def _runs(element: etree._Element) -> Iterator[str]:
    for child in element.iterchildren("*"):
        if child.tag == f"{DRAWING}br":
            yield "\n"
        elif child.tag == f"{DRAWING}t":
            yield child.text or ""
        elif child.tag == f"{MATH}oMath":
            yield linear(child)
        elif child.tag == f"{COMPATIBILITY}AlternateContent":
            yield from _runs(chosen(child))
        elif not child.get("type", "").startswith(UNREAD_FIELDS):
            yield from _runs(child)


def chosen(alternatives: etree._Element) -> etree._Element:
    """Return that of ``alternatives`` that a new Office shows; the element itself if it is empty.

    Each of them has the same text.
    """
    return next(alternatives.iterchildren("*"), alternatives)


def drawn_table(element: etree._Element) -> str:
    """Return the table ``element`` in Markdown. Raises TooManyCells."""
    return table(
        [
            " ".join(paragraph(each) for each in cell.iter(f"{DRAWING}p"))
            for cell in row.iterchildren(f"{DRAWING}tc")
        ]
        for row in element.iterchildren(f"{DRAWING}tr")
    )


def graphic(
    element: etree._Element, package: Package, relations: dict[str, Relation]
) -> Iterator[str]:
    """Yield the text of the charts and the SmartArt that ``element`` shows.

    Raises BrokenPart, TooManyCells.
    """
    for shown in element.iter(f"{DIAGRAM}relIds", "{*}chart"):
        is_diagram = shown.tag == f"{DIAGRAM}relIds"
        relation = relations.get(relation_id(shown, "dm" if is_diagram else "id"))
        if relation is not None and relation.target in package:
            root = package.tree(relation.target)
            yield _diagram(root) if is_diagram else _chart(root)


def _diagram(root: etree._Element) -> str:
    texts = []
    for point in root.iter(f"{DIAGRAM}pt"):
        body = point.find(f"{DIAGRAM}t")
        if body is not None and point.get("type") in TEXT_POINTS:
            texts.append(" ".join(paragraphs(body)))
    return "\n".join(f"- {text}" for text in texts if text)


def _chart(root: etree._Element) -> str:
    """Return titles and values of a chart: a column for each series, a row for each category."""
    titles = [all_text(each).strip() for each in root.iter(f"{CHART}title")]
    if (series := list(root.iter(f"{CHART}ser"))) == []:
        # Newer kinds of charts: their names and values, without relation.
        return "\n".join(text for each in root.itertext() if (text := str(each).strip()))
    names = [
        " ".join(_points(each.find(f"{CHART}tx")).values()) or f"Series {number}"
        for number, each in enumerate(series, 1)
    ]
    values = [_points(_either(each, "val", "yVal")) for each in series]
    categories: dict[int, str] = {}
    for each in series:
        categories |= _points(_either(each, "cat", "xVal"))
    places = sorted(set(categories).union(*values))
    rows = [
        [categories.get(place, ""), *(points.get(place, "") for points in values)]
        for place in places
    ]
    return "\n\n".join([*filter(None, titles), table([["", *names], *rows])])


def _either(element: etree._Element, *names: str) -> etree._Element | None:
    return next(element.iterchildren(*(CHART + name for name in names)), None)


def _points(element: etree._Element | None) -> dict[int, str]:
    """Return the values that a chart keeps in ``element``, by their place."""
    if element is None:
        return {}
    code = next((each.text or GENERAL for each in element.iter(f"{CHART}formatCode")), "")
    points: dict[int, str] = {}
    for point in element.iter(f"{CHART}pt"):
        text = all_text(point).strip()
        place = int(point.get("idx", "0"))
        levels = [points[place]] if place in points else []  # of categories with sub-categories
        points[place] = " ".join([_shown(text, code), *levels])
    return points or {0: all_text(element).strip()}


def _shown(text: str, code: str) -> str:
    try:
        return formatted(float(text), code) if code else text
    except (ValueError, OverflowError):
        return text
