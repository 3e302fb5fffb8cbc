"""Reads XML and SVG: what elements and attributes say, without the tags.

Expat works in linear time, and expands entities only up to a limit. It opens nothing: external
entities are left out.
"""

import html
import re
from dataclasses import dataclass
from typing import Final
from xml.parsers import expat

from worker.text.config import ReadingConfig
from worker.text.decoding.decode import decode
from worker.text.media_types import SVG
from worker.text.parser import CertainRejection
from worker.text.parts import ExtractedDocument, Part

XML_TYPES: Final = frozenset({"application/xml", "text/xml", SVG})
MAX_NESTING: Final = 256
MAX_ENTITY_GROWTH: Final = 10
"""Names of products and chapters make text little longer."""
MIN_ENTITY_CHARACTERS: Final = 1024 * 1024
SILENT: Final = frozenset({"script", "style"})
INLINE_CHARACTERS: Final = 200
"""An element without others in it, and with no longer text, is a value with its name."""
DECLARATION: Final = re.compile(r"\s*<\?xml[^>]*\?>")
BOMB: Final = "its entities expand to far more text than it has, as only XML bombs do"
TOO_DEEP: Final = f"its content is nested more than {MAX_NESTING} levels deep"
LONG_VALUE: Final = 1000
"""A longer attribute is data for a program."""
SETUP: Final = ("xmlns", "xsi:", "xml:")
BASE64: Final = re.compile(r"\s*+(?:[A-Za-z0-9+/]{60,}+\s*+)++[A-Za-z0-9+/\s]*+={0,2}\s*+")
BLANK_LINES: Final = re.compile(r"\n{3,}+")
AMPLIFICATION: Final = 43
"""Expat's code for entities that expand to too much; `pyexpat` has no name for it."""


def read_xml(data: bytes, media_type: str, reading: ReadingConfig) -> ExtractedDocument:
    """Return the text of the XML ``data``: a line for each value, with the name of its element.

    What is no well-formed XML stays as it is. Raises DocumentRejected if entities or nesting
    exceed limits.
    """
    decoded = decode(data, reading.languages)
    declaration = DECLARATION.match(decoded.text)
    text = decoded.text[declaration.end() :] if declaration else decoded.text
    writer = _Writer(svg=media_type == SVG, limit=len(decoded.text))
    parser = expat.ParserCreate("utf-8")
    parser.buffer_text = True
    parser.UseForeignDTD(True)  # so that an unknown entity is no error
    parser.StartElementHandler = writer.start
    parser.EndElementHandler = writer.end
    parser.CharacterDataHandler = writer.write
    parser.SkippedEntityHandler = writer.skip_entity
    try:
        parser.Parse(text.encode("utf-8", "replace"), True)
    except expat.ExpatError as error:
        if error.code == AMPLIFICATION:
            raise CertainRejection(BOMB) from error
        return ExtractedDocument((Part(decoded.text),), warnings=decoded.warnings)
    return ExtractedDocument((Part(writer.text()),), writer.title, decoded.warnings)


@dataclass
class _Element:
    name: str
    attributes: str
    has_text: bool = False
    has_elements: bool = False
    inline: bool = False


class _Writer:
    """Writes what the parser finds; see `read_xml`."""

    def __init__(self, *, svg: bool, limit: int) -> None:
        self.title: str | None = None
        self._svg = svg
        self._left = max(MIN_ENTITY_CHARACTERS, MAX_ENTITY_GROWTH * limit)
        self._open: list[_Element] = []
        self._out: list[str] = []
        self._value: list[str] = []  # the text since the last tag

    def text(self) -> str:
        """Return everything that was written."""
        return BLANK_LINES.sub("\n\n", "".join(self._out)).strip()

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if len(self._open) >= MAX_NESTING:
            raise CertainRejection(TOO_DEEP)
        self._flush()
        inline = False
        if self._open:
            around = self._open[-1]
            inline = around.has_text
            if not around.has_elements and not inline:
                self._begin(around)
            around.has_elements = True
        self._open.append(_Element(_local(name), self._shown(attributes), inline=inline))

    def end(self, name: str) -> None:
        element = self._open[-1]
        if element.inline or element.has_elements or element.has_text:
            self._flush()
            self._open.pop()
        else:
            self._open.pop()
            value = _tidy("".join(self._value)).strip()
            self._value.clear()
            self._write_value(element, value)
        if element.has_elements and not element.inline:
            self._out.append("\n\n")

    def write(self, text: str) -> None:
        self._left -= len(text)
        if self._left < 0:
            raise CertainRejection(BOMB)
        if self._open and self._open[-1].name not in SILENT:
            self._value.append(text)

    def skip_entity(self, name: str, is_parameter: bool) -> None:
        if not is_parameter:
            self.write(html.unescape(f"&{name};"))

    def _begin(self, element: _Element) -> None:
        """Write the line of an element that contains others, if it says anything itself."""
        if element.attributes:
            self._write_line(f"{element.name}{element.attributes}")

    def _write_value(self, element: _Element, value: str) -> None:
        """Write an element without others in it on a line of its own."""
        if self._svg:
            if element.name == "title" and len(self._open) == 1:
                self.title = value or None
            self._write_line(value)
        elif len(value) > INLINE_CHARACTERS or "\n" in value:
            self._write_line("" if _is_data(value) else f"\n{value}\n")
        elif value:
            self._write_line(f"{element.name}{element.attributes}: {value}")
        elif element.attributes:
            self._write_line(f"{element.name}{element.attributes}")

    def _write_line(self, line: str) -> None:
        begun = self._out and not self._out[-1].endswith("\n")
        self._out.append(f"\n{line}\n" if begun else f"{line}\n")

    def _flush(self) -> None:
        """Write the text between two tags, if there is any."""
        value = "".join(self._value)
        self._value.clear()
        if not self._open or not value:
            return
        element = self._open[-1]
        if value.strip():
            if not (element.has_text or element.has_elements or element.inline):
                self._begin(element)
            element.has_text = True
            self._out.append("" if _is_data(value) else _tidy(value))
        elif element.has_text or element.inline:
            self._out.append(" ")

    def _shown(self, attributes: dict[str, str]) -> str:
        if self._svg:
            return ""
        return "".join(
            f' {_local(name)}="{_tidy(value).strip()}"'
            for name, value in attributes.items()
            if not name.startswith(SETUP) and 0 < len(value) <= LONG_VALUE
        )


def elements(data: bytes) -> list[tuple[str, dict[str, str], str]]:
    """Return the local names, attributes and text of all elements that the XML ``data`` has.

    The text of an element with others in it is that after the last of them. Raises ValueError if
    it is not well-formed.
    """
    found: list[tuple[str, dict[str, str], str]] = []
    open_: list[tuple[str, dict[str, str]]] = []
    text: list[str] = []

    def start(name: str, attributes: dict[str, str]) -> None:
        open_.append((_local(name), attributes))
        text.clear()

    def end(name: str) -> None:
        found.append((*open_.pop(), "".join(text).strip()))
        text.clear()

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = text.append
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise ValueError(str(error)) from error
    return found


def _local(name: str) -> str:
    return name.rpartition(":")[2]


def _tidy(text: str) -> str:
    """Return ``text`` without indents and blank lines, but with a space where it has one."""
    tidy = "\n".join(filter(None, (" ".join(line.split()) for line in text.split("\n"))))
    before = " " if text[:1].isspace() else ""
    after = " " if text[-1:].isspace() else ""
    return f"{before}{tidy}{after}" if tidy else ""


def _is_data(value: str) -> bool:
    """Return True if ``value`` is data in base64, not text."""
    return len(value) > INLINE_CHARACTERS and BASE64.fullmatch(value) is not None
