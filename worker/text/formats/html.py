"""Reads web pages."""

from typing import Final

from worker.text.config import ReadingConfig
from worker.text.decoding.decode import decode
from worker.text.formats.web_page import repair
from worker.text.media_types import HTML
from worker.text.parser import parse
from worker.text.parts import ExtractedDocument, Part

HTML_TYPES: Final = frozenset({HTML, "application/xhtml+xml"})
SOFT_HYPHEN: Final = "\u00ad"
"""Where a browser may break a word; searching for the word would not find it."""


def read_page(data: bytes, media_type: str, reading: ReadingConfig) -> ExtractedDocument:
    """Return the text of the web page ``data`` in Markdown, and its title."""
    decoded = decode(data, reading.languages)
    return read_html(decoded.text, decoded.warnings)


def read_html(page: str, warnings: tuple[str, ...] = ()) -> ExtractedDocument:
    """Return the text of ``page`` in Markdown, and its title."""
    title, body = repair(page)
    markdown = parse(body.encode("utf-8", "replace"), HTML).markdown.replace(SOFT_HYPHEN, "")
    return ExtractedDocument((Part(markdown, markdown=True),), title, warnings)
