"""Repairs HTML, so that the parser loses no text of it.

The parser drops the text of elements that are nested too deeply, of table cells without end tags,
and of rows outside cells. It nests paragraphs without end tags in each other, and takes the head of
a page for text. It flattens tables that only lay out a page, and writes pictures as base64. One
pass over the tags, in linear time, corrects that: it writes the end tags that HTML lets authors
leave out, and leaves out tags that are too deep, tables around tables, and pictures except for what
they say. It builds no tree.
"""

import html
import re
from collections import Counter
from typing import Final, NamedTuple

MAX_DEPTH: Final = 200
"""Tags of elements nested deeper are left out, their text is kept. The parser's own limit, in
`worker.text.parser`, also counts elements that have no tags."""
MAX_INDENTS: Final = 16
"""The same for quotations and lists: each level makes every line in it longer."""
TITLE_CHARACTERS: Final = 4000
"""A longer title is cut off. Python converts no character reference that is longer."""

TAG: Final = re.compile(
    r"<(/?)([a-zA-Z][a-zA-Z0-9:-]*+)(?:[^<>\"']++|\"[^\"]*+\"|'[^']*+')*+>|<!--|<(?=/?[a-zA-Z])"
)
"""A tag, the beginning of a comment, or a sign that seems to begin a tag, but does not.

Matching takes linear time: of any number of tags without end, only the last two can still be in
quotation marks.
"""
ATTRIBUTE: Final = re.compile(
    r"[\s/\"']([a-zA-Z-]++)\s*+=\s*+(?:\"([^\"]*+)\"|'([^']*+)'|([^\s\"'>]++))"
)
MAX_TAG_CHARACTERS: Final = 2000
"""A longer tag loses its attributes, as one with data in it does: that is no text."""
DATA: Final = re.compile(r"\bdata:", re.IGNORECASE)
LAYOUT_ROLES: Final = frozenset({"none", "presentation"})
HEAD_END: Final = re.compile(r"</head\s*+>|(?=<body[\s>])", re.IGNORECASE)


def _names(*names: str) -> frozenset[str]:
    return frozenset(" ".join(names).split())


VOID: Final = _names("area base br col embed hr img input link meta source track wbr")
"""Elements without content."""
VERBATIM: Final = _names("iframe noembed noframes script style textarea title xmp")
"""Elements whose content is not HTML."""
UNCOUNTED: Final = _names("body head html")
CELLS: Final = _names("caption td th")
ROW_GROUPS: Final = _names("colgroup tbody tfoot thead")
PICTURES: Final = _names("img svg")
"""Elements of which the text is kept, but no picture."""
DRAWN: Final = _names("desc text title tspan")
"""Elements with text in a drawing."""
TABLE_PARTS: Final = CELLS | ROW_GROUPS | {"tr"}
INDENTED: Final = _names("blockquote dd dir menu ol ul")
BLOCKS: Final = TABLE_PARTS | _names(
    "address article aside blockquote center dd details dialog dir div dl dt fieldset figcaption",
    "figure footer form h1 h2 h3 h4 h5 h6 header hgroup hr li main menu nav ol p pre section",
    "summary table ul",
)
"""Elements that begin a new line, and end an open paragraph."""


class ImpliedEnds(NamedTuple):
    """Which open elements end where an element starts, if they are not outside one of ``within``.

    See https://html.spec.whatwg.org/multipage/syntax.html#optional-tags
    """

    elements: frozenset[str]
    within: frozenset[str]


TABLE: Final = _names("table")
BLOCK_ENDS: Final = ImpliedEnds(_names("p"), CELLS | _names("button object table"))
IMPLIED_ENDS: Final = (
    dict.fromkeys(BLOCKS, BLOCK_ENDS)
    | dict.fromkeys(CELLS, ImpliedEnds(CELLS | {"colgroup"}, TABLE))
    | dict.fromkeys(["tr"], ImpliedEnds(CELLS | {"colgroup", "tr"}, TABLE))
    | dict.fromkeys(ROW_GROUPS, ImpliedEnds(TABLE_PARTS, TABLE))
    | dict.fromkeys(["li"], ImpliedEnds(_names("li p"), CELLS | _names("dir menu ol table ul")))
    | dict.fromkeys(["dd", "dt"], ImpliedEnds(_names("dd dt p"), CELLS | _names("dl table")))
    | dict.fromkeys(["rp", "rt"], ImpliedEnds(_names("rp rt"), _names("ruby")))
    | dict.fromkeys(["option"], ImpliedEnds(_names("option"), _names("datalist select")))
    | dict.fromkeys(["optgroup"], ImpliedEnds(_names("optgroup option"), _names("select")))
)


def repair(page: str) -> tuple[str | None, str]:
    """Return the title of an HTML ``page``, None if it has none, and the page without its head."""
    repair = _Repair(page)
    body = repair.run()
    return repair.title, body


def _attribute(tag: str, name: str) -> str:
    """Return the value of the attribute ``name`` of ``tag``; empty if it has none."""
    values = (found for found in ATTRIBUTE.finditer(tag) if found[1].lower() == name)
    value = next(values, None)
    return html.unescape(value[2] or value[3] or value[4] or "").strip() if value else ""


def _without_data(name: str, tag: str) -> str:
    """Return ``tag`` without attributes if it has data; nothing is left of such a link."""
    if name in PICTURES or (len(tag) <= MAX_TAG_CHARACTERS and not DATA.search(tag)):
        return tag
    if name == "a":
        return ""
    return f"<{name}/>" if tag.endswith("/>") else f"<{name}>"


class _Repair:
    def __init__(self, page: str) -> None:
        self.title: str | None = None
        self._page = page
        self._out: list[str] = []
        self._open: list[str] = []  # the names of the open elements, outermost first
        self._counts: Counter[str] = Counter()  # of the open elements
        self._left_out: Counter[str] = Counter()  # elements whose start tag was left out
        self._missing: set[str] = set()  # ends that do not come any more
        self._has_head = True
        self._in_drawing = False

    def run(self) -> str:
        """Return the repaired page."""
        page, copied = self._page, 0
        while (found := TAG.search(page, copied)) is not None:
            self._write_text(page[copied : found.start()])
            copied = self._after(found)
        self._write_text(page[copied:])
        return "".join(self._out)

    def _write_text(self, text: str) -> None:
        if text and not text.isspace():
            self._begin_cell()
        self._out.append(text)

    def _begin_cell(self) -> None:
        """Begin a cell if a row is open but no cell: the parser drops what is between cells."""
        if self._open and self._open[-1] in ROW_GROUPS:
            self._begin("tr", "<tr>")
        if self._open and self._open[-1] == "tr":
            self._begin("td", "<td>")

    def _after(self, found: re.Match[str]) -> int:
        """Write what replaces the tag or comment ``found``, and return where it ends."""
        if found[0] == "<":
            self._write_text("&lt;")  # the parser would look for its end, each time anew
            return found.end()
        if found[2] is None:
            # Without an end it is no comment, but text.
            return self._end("-->", found.end()) or found.end()
        name = found[2].lower()
        if self._in_drawing and name in DRAWN:
            self._out.append(" ")  # its end begins a new text
        elif found[1]:
            self._close(name)
        elif name == "head" and self._has_head:
            return self._skip_head(found.end())
        elif name in VERBATIM:
            return self._copy_verbatim(name, found)
        elif name in UNCOUNTED:
            self._out.append(found[0])
        else:
            self._start(name, _without_data(name, found[0]))
        return found.end()

    def _start(self, name: str, tag: str) -> None:
        self._end_implied(name)
        if not tag:
            return
        if name in PICTURES:
            self._in_drawing = self._in_drawing or (name == "svg" and not tag.endswith("/>"))
            if alternative := _attribute(tag, "alt"):
                self._write_text(f" {html.escape(alternative)} ")
            return
        if name == "table":
            self._end_table_around()
            if _attribute(tag, "role") in LAYOUT_ROLES:
                self._out.append("<br>")
                return
        if name not in TABLE_PARTS:
            self._begin_cell()
        if name in VOID or tag.endswith("/>"):
            self._out.append(tag)
        elif name in TABLE_PARTS and not self._counts["table"]:
            self._out.append("<br>")
        else:
            self._begin(name, tag)

    def _begin(self, name: str, tag: str) -> None:
        if len(self._open) < MAX_DEPTH and not self._is_too_far_in(name):
            self._open.append(name)
            self._counts[name] += 1
            self._out.append(tag)
        else:
            self._left_out[name] += 1
            self._out.append("<br>" if name in BLOCKS else "")

    def _is_too_far_in(self, name: str) -> bool:
        return name in INDENTED and sum(map(self._counts.__getitem__, INDENTED)) >= MAX_INDENTS

    def _end_table_around(self) -> None:
        """End the table around a table: it lays out a page, and its other cells are paragraphs."""
        if self._counts["table"]:
            self._end_from(self._open.index("table"))

    def _end_implied(self, name: str) -> None:
        """End the open elements that end where an element ``name`` starts."""
        ends = IMPLIED_ENDS.get(name)
        if ends is None or not any(self._counts[ended] for ended in ends.elements):
            return
        first = None
        for index in range(len(self._open) - 1, -1, -1):
            if self._open[index] in ends.within and self._open[index] not in ends.elements:
                break
            if self._open[index] in ends.elements:
                first = index
        if first is not None:
            self._end_from(first)

    def _close(self, name: str) -> None:
        self._in_drawing = self._in_drawing and name != "svg"
        if self._left_out[name]:
            self._left_out[name] -= 1
            self._out.append("<br>" if name in BLOCKS else "")
        elif self._counts[name]:
            index = len(self._open) - 1
            while self._open[index] not in (name, "table"):
                index -= 1
            if self._open[index] == name:  # an end tag in a table ends nothing outside it
                self._end_from(index)

    def _end_from(self, first: int) -> None:
        """End the open element with the index ``first``, and all in it."""
        while len(self._open) > first:
            ended = self._open.pop()
            self._counts[ended] -= 1
            self._out.append(f"</{ended}>")

    def _skip_head(self, start: int) -> int:
        """Return where the head that begins at ``start`` ends; its start if it has no end."""
        self._has_head = False
        end = HEAD_END.search(self._page, start)
        if end is None:
            return start
        self._out.append("<head><meta charset=utf-8></head>")
        title = TAG.search(self._page, start, end.start())
        while title is not None and title[0][:6].lower() != "<title":
            title = TAG.search(self._page, title.end(), end.start())
        if title is not None:
            self._read_title(title.end())
        return end.end()

    def _read_title(self, start: int) -> int | None:
        """Read the title, and return where it ends; None if it does not end."""
        end = self._end("</title", start)
        if end is not None and self.title is None:
            text = self._page[start : end - len("</title")][:TITLE_CHARACTERS]
            self.title = html.unescape(text).strip() or None
        return end

    def _copy_verbatim(self, name: str, found: re.Match[str]) -> int:
        """Copy the element ``name``; leave out its tag if it has no end tag."""
        start = found.end()
        end = self._read_title(start) if name == "title" else self._end(f"</{name}", start)
        if end is None:
            return start
        self._out.append(self._page[found.start() : end])
        return end

    def _end(self, end: str, start: int) -> int | None:
        """Return where the next ``end`` after ``start`` ends; None if there is none."""
        if end in self._missing:
            return None
        found = re.compile(re.escape(end), re.IGNORECASE).search(self._page, start)
        if found is None:
            self._missing.add(end)  # looking again for each start would take quadratic time
            return None
        return found.end()
