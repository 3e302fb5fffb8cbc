"""Reads PDFs page by page: text, tables, comments, form values, scanned pages and attachments.

The parser and PDFium each read the whole file; see `worker.text.formats.pdf_page`. Pages without
text are drawn by PDFium and read by OCR.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Final

import pypdfium2 as pdfium
import pypdfium2.raw as pdfium_raw

from ingestq.core.errors import DocumentRejected
from worker.text.config import OcrMode, ReadingConfig
from worker.text.formats.pdf_page import (
    PageText,
    joined,
    letters_in,
    lines_of,
    page_text,
    running_lines,
    share_of_words,
    tidied,
)
from worker.text.media_types import PDF
from worker.text.members import Members
from worker.text.ocr import DPI, recognize, why_unavailable
from worker.text.parser import MAX_PAGES, Annotation, FormField, ParsedFile, parse
from worker.text.parts import ExtractedDocument, Part

END: Final = b"%%EOF"
END_BYTES: Final = 1024
"""Readers look for the mark in so many last bytes."""
ENCRYPTED: Final = "it is encrypted; save it without a password"
POINTS_PER_INCH: Final = 72
MAX_PIXELS: Final = 25_000_000
"""Of a page that is drawn: A2 at 200 dots per inch. Larger ones are drawn more coarsely."""
LITTLE_TEXT: Final = 50
"""Letters: a scanned page with fewer, such as a stamped number, has no text of its own."""
SCAN_SHARE: Final = 0.5
"""Of a page that a scan covers at least."""
MAX_OBJECTS: Final = 10_000
"""So many objects of a page are looked at; a scan is among the first."""
MIN_OUTLINES: Final = 50
"""A page with so many lines and curves may have text that is drawn, not written."""
UNKNOWN_SIGNS: Final = 0.3
"""A text of which a larger share is no characters cannot be read; its font does not say how."""
SAME_TEXT: Final = 0.7
"""OCR by two programs has more of its words in common."""
SHOWN_PAGES: Final = 10
"""Page numbers in a warning."""
PLAIN_ONLY: Final = "only its plain text was read, without tables, comments and form values"
NOTHING_FOUND: Final = "text that OCR can read"
NO_TIME: Final = "text from OCR, which had no time left (split the document)"
PLACEHOLDERS: Final = frozenset({"untitled", "anonymous", "unspecified"})
"""Titles that programs write if there is none."""
LINK: Final = "link"


@dataclass(frozen=True)
class _Page:
    """What PDFium finds on a page: its ``lines``, and whether there is something for OCR.

    ``is_broken`` is True if it can read nothing.
    """

    lines: tuple[str, ...] = ()
    is_scan: bool = False
    is_broken: bool = False


def read_pdf(data: bytes, reading: ReadingConfig, members: Members) -> ExtractedDocument:
    """Return what the PDF ``data`` says, a part for each page and one or more per attachment.

    Raises DocumentRejected if it cannot be read.
    """
    pdf = _opened(data)
    if pdf is None:
        parsed = _parsed(data)
        if not parsed.markdown.strip():
            raise DocumentRejected(_why_empty(data))
        warnings = (*parsed.warnings, *_cut_off(data))
        return ExtractedDocument(_parsed_pages(parsed), _title(parsed), warnings)
    with closing(pdf):
        return _read(data, pdf, reading, members)


def _read(
    data: bytes, pdf: pdfium.PdfDocument, reading: ReadingConfig, members: Members
) -> ExtractedDocument:
    if len(pdf) > MAX_PAGES:
        raise DocumentRejected(f"it has more than {MAX_PAGES:,} pages")
    pages = [_look_at(pdf, number) for number in range(len(pdf))]
    try:
        parsed = _parsed(data)
    except DocumentRejected as error:
        if all(page.is_broken for page in pages):
            raise DocumentRejected(f"cannot be read as {PDF}: it has no readable page") from error
        if not any(page.lines or page.is_scan for page in pages):
            raise
        parsed = ParsedFile("", PDF, warnings=(PLAIN_ONLY,))
    texts = _texts(pages, parsed)
    warnings = list(_cut_off(data))
    if any(page.is_broken for page in pages):  # which says what the parser says in other words
        warnings += _unreadable(pages, texts)
    else:
        warnings += parsed.warnings
    warnings += _recognize(pdf, pages, texts, reading)
    _read_attachments(pdf, members)
    parts = tuple(
        Part(text.text, text.markdown, page=number)
        for number, text in enumerate(_with_notes(texts, parsed), 1)
        if text.text.strip()
    )
    try:
        return members.document(parts, _title(parsed), tuple(warnings))
    except DocumentRejected as error:
        raise DocumentRejected("; ".join(warnings) or _why_empty(data)) from error


def _opened(data: bytes) -> pdfium.PdfDocument | None:
    """Return the PDF, None if PDFium cannot read it. Raises DocumentRejected if it is encrypted."""
    try:
        return pdfium.PdfDocument(data)
    except pdfium.PdfiumError as error:
        if error.err_code == pdfium_raw.FPDF_ERR_PASSWORD:
            raise DocumentRejected(ENCRYPTED) from error
        return None


def _parsed(data: bytes) -> ParsedFile:
    try:
        return parse(data, PDF)
    except DocumentRejected as error:
        if END not in data[-END_BYTES:]:
            raise DocumentRejected(_why_empty(data)) from error
        raise


def _cut_off(data: bytes) -> Iterator[str]:
    if END not in data[-END_BYTES:]:
        yield "its end is missing, so it was cut off: pages may be missing"


def _why_empty(data: bytes) -> str:
    if END not in data[-END_BYTES:]:
        return f"cannot be read as {PDF}: its end is missing, so it was cut off"
    return f"cannot be read as {PDF}: it is damaged"


def _title(parsed: ParsedFile) -> str | None:
    title = parsed.title or ""
    return None if title.strip("()").lower() in PLACEHOLDERS else title or None


def _parsed_pages(parsed: ParsedFile) -> tuple[Part, ...]:
    return tuple(
        Part(tidied(page.markdown), markdown=True, page=page.number) for page in parsed.pages
    )


def _look_at(pdf: pdfium.PdfDocument, number: int) -> _Page:
    """Return what PDFium finds on a page."""
    try:
        return _looked_at(pdf[number])
    except pdfium.PdfiumError:
        return _Page(is_broken=True)


def _looked_at(page: pdfium.PdfPage) -> _Page:
    with closing(page):
        if page.get_rotation() and _is_upright(page):
            page.set_rotation(0)  # PDFium would read its lines from the last to the first
        with closing(page.get_textpage()) as text:
            lines = lines_of(text.get_text_range())
        if _is_garbled(lines):
            return _Page(is_scan=True)
        return _Page(lines, _is_scan(page, letters_in(lines)))


def _is_upright(page: pdfium.PdfPage) -> bool:
    """Return True if text is written along the page before it is turned."""
    with closing(page.get_textpage()) as text:
        count = min(text.count_chars(), LITTLE_TEXT)
        angles = [pdfium_raw.FPDFText_GetCharAngle(text, place) for place in range(count)]
    return angles.count(0.0) * 2 > len(angles)


def _is_garbled(lines: Sequence[str]) -> bool:
    """Return True if most of the text is no characters: replacements, or for private use."""
    text = "".join(lines)
    unknown = sum(sign == "\ufffd" or "\ue000" <= sign <= "\uf8ff" for sign in text)
    return unknown > UNKNOWN_SIGNS * len(text)


def _is_scan(page: pdfium.PdfPage, letters: int) -> bool:
    """Return True if the page has next to no text, but a picture or drawing that may be some."""
    if letters >= LITTLE_TEXT:
        return False
    covered = outlines = 0.0
    for item in islice(page.get_objects(max_depth=3), MAX_OBJECTS):
        if item.type == pdfium_raw.FPDF_PAGEOBJ_IMAGE:
            left, bottom, right, top = item.get_bounds()
            covered += abs((right - left) * (top - bottom))
        elif item.type == pdfium_raw.FPDF_PAGEOBJ_PATH:
            outlines += 1
    width, height = page.get_size()
    is_covered = bool(covered >= SCAN_SHARE * width * height)
    return is_covered or (letters == 0 and (covered > 0 or outlines >= MIN_OUTLINES))


def _texts(pages: Sequence[_Page], parsed: ParsedFile) -> list[PageText]:
    """Return the text of each page, without OCR."""
    markdown = {page.number: page.markdown for page in parsed.pages}
    for number, page in enumerate(pages, 1):
        # In place of a damaged page, the parser may read another one again.
        if page.is_broken and list(markdown.values()).count(markdown.get(number, "")) > 1:
            markdown[number] = ""
    running = running_lines([page.lines for page in pages])
    seen: set[str] = set()
    return [
        page_text(page.lines, markdown.get(number, ""), running[number - 1], seen)
        for number, page in enumerate(pages, 1)
    ]


def _unreadable(pages: Sequence[_Page], texts: Sequence[PageText]) -> Iterator[str]:
    lost = [
        number for number, page in enumerate(pages) if page.is_broken and not texts[number].text
    ]
    if lost:
        yield f"{len(lost):,} of {len(pages):,} pages cannot be read: {_shown(lost)}"


def _recognize(
    pdf: pdfium.PdfDocument, pages: Sequence[_Page], texts: list[PageText], reading: ReadingConfig
) -> Iterator[str]:
    """Add to ``texts`` what OCR reads; yield warnings of pages without text."""
    readable = [number for number, page in enumerate(pages) if not page.is_broken]
    scans = [number for number in readable if pages[number].is_scan]
    wanted = readable if reading.ocr is OcrMode.FORCE else scans
    if not wanted:
        return
    if problem := why_unavailable(reading):
        yield (
            _lacking(scans, pages, f"text ({problem})") if scans else f"OCR was not done: {problem}"
        )
        return
    yield from _read_scans(pdf, pages, texts, wanted, reading)


def _read_scans(
    pdf: pdfium.PdfDocument,
    pages: Sequence[_Page],
    texts: list[PageText],
    wanted: Sequence[int],
    reading: ReadingConfig,
) -> Iterator[str]:
    """Add to ``texts`` what OCR reads on the ``wanted`` pages; yield warnings of the others."""
    lacking: dict[str, list[int]] = {}
    for number in wanted:
        try:
            found = _recognized(pdf, number, reading)
        except (DocumentRejected, pdfium.PdfiumError) as error:
            lacking.setdefault(f"text from OCR, which failed ({error})", []).append(number)
            continue
        if found:
            texts[number] = _combined(texts[number], found, reading)
        elif found is None:
            lacking.setdefault(NO_TIME, []).append(number)
        elif not texts[number].text and pages[number].is_scan:
            lacking.setdefault(NOTHING_FOUND, []).append(number)
    for what, numbers in lacking.items():
        yield _lacking(numbers, pages, what)


def _recognized(pdf: pdfium.PdfDocument, number: int, reading: ReadingConfig) -> str | None:
    """Return the text that OCR finds on a page; None if it had no time left."""
    with closing(pdf[number]) as page:
        width, height = (max(1.0, points) for points in page.get_size())
        scale = min(DPI / POINTS_PER_INCH, (MAX_PIXELS / (width * height)) ** 0.5)
        with closing(page.render(scale=scale, grayscale=True, may_draw_forms=False)) as bitmap:
            image = bitmap.to_pil().copy()
    return recognize(image, reading)


def _combined(own: PageText, recognized: str, reading: ReadingConfig) -> PageText:
    """Return what a page says, of which OCR read ``recognized``."""
    recognized = joined(tidied(recognized))
    if reading.ocr is OcrMode.FORCE or share_of_words(own.text, recognized) == 1:
        return PageText(recognized, markdown=False)
    if share_of_words(recognized, own.text) >= SAME_TEXT:
        return own  # an earlier OCR, which the page has as invisible text
    return PageText(f"{own.text}\n\n{recognized}", markdown=own.markdown)


def _with_notes(texts: Sequence[PageText], parsed: ParsedFile) -> Iterator[PageText]:
    """Yield ``texts`` with the comments and form values of each page below."""
    notes: dict[int, list[str]] = {}
    for field in parsed.fields:
        notes.setdefault(field.page or 1, []).append(_shown_field(field))
    for annotation in parsed.annotations:
        if annotation.kind != LINK:
            notes.setdefault(annotation.page, []).append(_shown_annotation(annotation))
    for number, text in enumerate(texts, 1):
        found = [note for note in notes.get(number, ()) if note not in text.text]
        yield PageText("\n\n".join(filter(None, (text.text, *found))), text.markdown)


def _shown_field(field: FormField) -> str:
    return tidied(f"{field.name}: {field.value}")


def _shown_annotation(annotation: Annotation) -> str:
    author = f"{annotation.author}: " if annotation.author else ""
    return tidied(f"{author}{annotation.text}")


def _read_attachments(pdf: pdfium.PdfDocument, members: Members) -> None:
    for number in range(pdf.count_attachments()):
        if members.exceeded:
            members.stop(members.budget.exceeded)
            return
        name = str(number + 1)
        try:
            attachment = pdf.get_attachment(number)
            name = attachment.get_name() or name
            data = bytes(attachment.get_data())
        except (pdfium.PdfiumError, UnicodeDecodeError):
            members.skip(name, "it cannot be read")
        else:
            members.read(name, data)


def _lacking(numbers: Sequence[int], pages: Sequence[_Page], what: str) -> str:
    """Say which pages lack ``what``: "2 of 5 pages have no text: 1, 4"."""
    if len(pages) == 1:
        return f"the page has no {what}"
    verb = "has" if len(numbers) == 1 else "have"
    return f"{len(numbers):,} of {len(pages):,} pages {verb} no {what}: {_shown(numbers)}"


def _shown(numbers: Sequence[int]) -> str:
    """Return page numbers, which are counted from 0, as the user counts them."""
    more = ", …" if len(numbers) > SHOWN_PAGES else ""
    return ", ".join(str(number + 1) for number in numbers[:SHOWN_PAGES]) + more
