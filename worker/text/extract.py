"""Extracts the text of files. Runs in parse processes, because parsers are slow and may crash.

The content of a file decides its format. Formats with a reader in `worker.text.formats`, and those
that the parser reads, become Markdown, so that the chunker sees their headings and tables. Markdown
and all other text, such as source code, stays as it is.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Final

from ingestq.core.errors import DocumentRejected
from ingestq.core.unicode_forms import composed
from worker.text import media_types
from worker.text.config import DEFAULT_READING, ReadingConfig
from worker.text.decoding.cleaning import is_blank
from worker.text.decoding.decode import decode
from worker.text.formats import delimited, records
from worker.text.formats.archive import ARCHIVE_TYPES, read_archive
from worker.text.formats.epub import EPUB_TYPES, read_epub
from worker.text.formats.excel97 import read_old_workbook
from worker.text.formats.excel_xml import read_xml_workbook
from worker.text.formats.html import HTML_TYPES, read_page
from worker.text.formats.image import read_image
from worker.text.formats.mail import read_mail
from worker.text.formats.main_text import read_main_text
from worker.text.formats.mbox import read_mbox
from worker.text.formats.notebook import read_notebook
from worker.text.formats.opendocument import (
    read_presentation,
    read_spreadsheet,
    read_text_document,
)
from worker.text.formats.outlook import read_outlook
from worker.text.formats.pdf import read_pdf
from worker.text.formats.rich_text import read_rich_text
from worker.text.formats.slides import read_slides
from worker.text.formats.word import read_word
from worker.text.formats.workbook import read_workbook
from worker.text.formats.xml import XML_TYPES, read_xml
from worker.text.media_types import (
    MAIL,
    MARKDOWN,
    MBOX,
    NOTEBOOK,
    PDF,
    PLAIN_TEXT,
    has_signature,
    is_decoded_only,
    likely_types,
)
from worker.text.members import Members, UnpackBudget
from worker.text.parser import CertainRejection, NotParsed, ParsedFile, parse
from worker.text.parts import EMPTY, NO_TEXT, NOINDEX, ExtractedDocument, Part

READABLE_SOURCES: Final = frozenset(
    {
        "application/x-bibtex",
        "application/x-latex",
        "text/mdx",
        "text/org",
        "text/prs.fallenstein.rst",
        "text/x-bibtex",
        "text/x-commonmark",
        "text/x-org",
        "text/x-rst",
        "text/x-tex",
    }
)
"""Formats whose source is readable: it is the text if the parser finds none, or pads it."""

MAX_GROWTH: Final = 4
"""A table of single digits is at most so much longer in Markdown than in CSV, unless its rows have
different lengths."""
PADDED_CHARACTERS: Final = 64 * 1024
"""Shorter Markdown may have any number of empty cells."""
SLOW_MARKUP: Final = frozenset(
    {
        "application/x-latex",
        "application/x-typst",
        "text/mdx",
        "text/org",
        "text/prs.fallenstein.rst",
        "text/x-commonmark",
        "text/x-org",
        "text/x-rst",
        "text/x-tex",
    }
)
"""Formats of which the parser may take quadratic time for a paragraph."""
PARAGRAPH_CHARACTERS: Final = 8 * 1024
"""Text in such a format with a longer paragraph is not parsed, but stays as it is. Parsing one of
this length takes a tenth of a second at most."""

Reader = Callable[[bytes, str, ReadingConfig], ExtractedDocument]
READERS: Final[dict[str, Reader]] = {
    NOTEBOOK: read_notebook,
    media_types.DOCX: read_word,
    media_types.EXCEL_XML: read_xml_workbook,
    media_types.ODP: read_presentation,
    media_types.ODS: read_spreadsheet,
    media_types.ODT: read_text_document,
    media_types.PPTX: read_slides,
    media_types.RTF: read_rich_text,
    media_types.XLS: read_old_workbook,
    media_types.XLSX: read_workbook,
    **dict.fromkeys(HTML_TYPES, read_page),
    media_types.WEB_PAGE: read_main_text,
    **dict.fromkeys(XML_TYPES, read_xml),
    **dict.fromkeys(delimited.TYPES, delimited.read),
    **dict.fromkeys(records.TYPES, records.read),
}
"""Media types with a reader of their own in `worker.text.formats`. The parser reads all others."""
ContainerReader = Callable[[bytes, ReadingConfig, Members], ExtractedDocument]
CONTAINERS: Final[dict[str, ContainerReader]] = {
    **dict.fromkeys(ARCHIVE_TYPES, read_archive),
    **dict.fromkeys(EPUB_TYPES, read_epub),
    MAIL: read_mail,
    MBOX: read_mbox,
    media_types.MSG: read_outlook,
    PDF: read_pdf,
}
"""Media types of documents that contain others."""
TITLE_CHARACTERS: Final = 1000
"""Every chunk is stored with the title."""


def extract(
    data: bytes,
    media_type: str | None,
    reading: ReadingConfig = DEFAULT_READING,
    budget: UnpackBudget | None = None,
) -> ExtractedDocument:
    """Extract what the document ``data`` says. Its text is in NFC, and without NUL.

    ``media_type`` is the type that the file's name suggests; None means to detect it from the
    content, which also decides if the two differ. ``budget`` is that of the document that contains
    ``data``, if it is inside another. An empty document has no parts and a warning. Raises
    DocumentRejected, with a reason for the user, if it cannot be read, or if nothing can be read of
    it but something may be there.
    """
    if not data.strip():
        return ExtractedDocument((), warnings=(EMPTY,))
    budget = budget or UnpackBudget.of(data)
    extracted = _first_readable(data, media_type, reading, budget)
    if not is_blank(extracted.text):
        return extracted
    if NOINDEX in extracted.warnings:
        return ExtractedDocument((), warnings=(NOINDEX,))
    if unread := [each for each in extracted.warnings if not each.endswith((EMPTY, NO_TEXT))]:
        raise DocumentRejected(f"{NO_TEXT}: {'; '.join(unread)}")
    return ExtractedDocument((), extracted.title, (NO_TEXT,))


def _first_readable(
    data: bytes, media_type: str | None, reading: ReadingConfig, budget: UnpackBudget
) -> ExtractedDocument:
    """Return ``data`` as the likeliest of its types in which it can be read."""
    rejections = []
    types = likely_types(data, media_type)
    for likely in types:
        try:
            extracted = _read(data, likely, reading, budget)
        except CertainRejection as rejection:
            raise DocumentRejected(str(rejection)) from rejection
        except DocumentRejected as rejection:
            rejections.append(rejection)
        else:
            failed = tuple(f"it was read as {likely}: {each}" for each in rejections)
            return replace(extracted, warnings=(*failed, *extracted.warnings))
    if media_type is not None and has_signature(media_type) and types[-1] == PLAIN_TEXT:
        raise DocumentRejected(
            f"cannot be read as {media_type}: it does not begin as such a file does"
        ) from rejections[0]
    raise rejections[0]


def _read(
    data: bytes, media_type: str, reading: ReadingConfig, budget: UnpackBudget
) -> ExtractedDocument:
    if media_type == media_types.PROTECTED:
        raise DocumentRejected("it is protected by a password")
    if is_decoded_only(media_type):  # which composes the text, too
        return _decoded(data, reading, markdown=media_type == MARKDOWN)
    return _normalised(_read_parsed(data, media_type, reading, budget))


def _read_parsed(
    data: bytes, media_type: str, reading: ReadingConfig, budget: UnpackBudget
) -> ExtractedDocument:
    if reader := READERS.get(media_type):
        return reader(data, media_type, reading)
    if container := CONTAINERS.get(media_type):
        members = Members(partial(extract, reading=reading, budget=budget), budget)
        try:
            return container(data, reading, members)
        except DocumentRejected as rejection:
            if media_type in (MAIL, MBOX):  # any text is a message, so the reason lies in it
                raise CertainRejection(str(rejection)) from rejection
            raise
    if media_type.startswith("image/"):
        return read_image(data, media_type, reading)
    return _parse(data, media_type, reading)


def _normalised(extracted: ExtractedDocument) -> ExtractedDocument:
    parts = tuple(
        replace(part, text=_clean(part.text), name=None if part.name is None else _clean(part.name))
        for part in extracted.parts
    )
    title = _clean(extracted.title or "")[:TITLE_CHARACTERS].strip()
    return ExtractedDocument(parts, title or None, extracted.warnings)


def _clean(text: str) -> str:
    return composed(text.replace("\0", ""))


def _decoded(data: bytes, reading: ReadingConfig, *, markdown: bool = False) -> ExtractedDocument:
    decoded = decode(data, reading.languages)
    return ExtractedDocument((Part(decoded.text, markdown),), warnings=decoded.warnings)


def _parse(data: bytes, media_type: str, reading: ReadingConfig) -> ExtractedDocument:
    warnings: tuple[str, ...] = ()
    if media_type in SLOW_MARKUP:
        decoded = decode(data, reading.languages)
        if _longest_paragraph(decoded.text) > PARAGRAPH_CHARACTERS:
            return _decoded(data, reading)
        data, warnings = decoded.text.encode("utf-8", "replace"), decoded.warnings
    try:
        parsed = parse(data, media_type)
    except NotParsed:
        return _decoded(data, reading)
    if media_type in READABLE_SOURCES and not _is_better(parsed.markdown, data):
        return _decoded(data, reading)
    if not parsed.markdown.strip() and has_signature(media_type):
        raise CertainRejection(_why_empty(parsed))  # the parser tells no damage from emptiness
    title = parsed.title or parsed.subject
    part = Part(parsed.markdown, markdown=True)
    return ExtractedDocument((part,), title, (*warnings, *parsed.warnings))


def _longest_paragraph(text: str) -> int:
    return max(map(len, text.replace("\r\n", "\n").split("\n\n")))


def _is_better(markdown: str, source: bytes) -> bool:
    """Return True if ``markdown`` has text, and is not mostly the lines of an empty table."""
    too_long = len(markdown) > max(PADDED_CHARACTERS, MAX_GROWTH * len(source))
    return bool(markdown.strip()) and not too_long


def _why_empty(parsed: ParsedFile) -> str:
    """Return the reason to reject a file in which the parser found no text."""
    reason = f"no text can be read from this {parsed.media_type} file"
    return f"{reason}: {'; '.join(parsed.warnings)}" if parsed.warnings else reason
