"""Parses Office, PDF, web and other formats into Markdown, within limits. Runs in parse processes.

The parser is xberg. It works in this process and its threads, without a network, a model, a cache
or a file: it never sees a path.
"""

import asyncio
import atexit
import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import xberg

from ingestq.core.errors import DocumentRejected
from worker.text.decoding.decode import BINARY
from worker.text.parts import INSIDE

UNKNOWN: Final = "application/octet-stream"
"""The media type of a file whose format the parser is to detect."""
MEBIBYTE: Final = 1024 * 1024

# The limits let ordinary documents of 64 MiB pass, and end those that are small files but eat all
# memory or time. The memory limit of the parse process is the last resort behind them.
MAX_UNPACKED_BYTES: Final = 1024 * MEBIBYTE
"""A workbook of 64 MiB unpacks to ten or fifteen times its size."""
MAX_COMPRESSION_RATIO: Final = 200
"""XML of generated tables reaches 50, and 100 if every row is the same; zip bombs reach 1,000."""
MAX_ARCHIVE_FILES: Final = 10_000
"""Each image of a document is a file in its archive."""
MAX_ARCHIVE_DEPTH: Final = 3
"""Levels of archives in archives, and of messages that are attached to messages."""
MAX_NESTING: Final = 256
"""Levels of XML or other structures; documents of word processors have about 50. Deeper ones might
overflow the stack of the parser's thread."""
MAX_TOKEN_BYTES: Final = 16 * MEBIBYTE
"""Of an attribute or entity in XML, which may hold an image."""
MAX_TEXT_BYTES: Final = 256 * MEBIBYTE
"""Markdown of a table takes more bytes than the table in CSV, but not four times as many."""
MAX_ITERATIONS: Final = 100_000_000
"""Steps through a document, such as XML tags or table cells: more than it has bytes."""
MAX_TABLE_CELLS: Final = 10_000_000
"""Empty cells count, up to the last row and column: each takes memory."""
MAX_PAGES: Final = 50_000
MAX_HTML_DEPTH: Final = 250
"""Nested elements of a page; see `worker.text.formats.web_page`. About 500 overflow the stack."""
REASON_CHARACTERS: Final = 200
LETTING_GO_SECONDS: Final = 0.05
"""Takes microseconds, unless the machine is busy."""

PARSED_TYPES: Final = frozenset(
    {
        UNKNOWN,
        "application/docbook+xml",
        "application/epub+zip",
        "application/gzip",
        "application/haansofthwpx",
        "application/java-archive",
        "application/json",
        "application/jsonl",
        "application/mbox",
        "application/msword",
        "application/pdf",
        "application/rtf",
        "application/tar",
        "application/vnd.ms-excel",
        "application/vnd.ms-excel.addin.macroEnabled.12",
        "application/vnd.ms-excel.sheet.binary.macroEnabled.12",
        "application/vnd.ms-excel.sheet.macroEnabled.12",
        "application/vnd.ms-excel.template.macroEnabled.12",
        "application/vnd.ms-excel.xml",
        "application/vnd.ms-outlook",
        "application/vnd.ms-outlook-pst",
        "application/vnd.ms-powerpoint",
        "application/vnd.ms-powerpoint.presentation.macroEnabled.12",
        "application/vnd.ms-powerpoint.template.macroEnabled.12",
        "application/vnd.ms-word.document.macroEnabled.12",
        "application/vnd.ms-word.template.macroEnabled.12",
        "application/vnd.oasis.opendocument.presentation",
        "application/vnd.oasis.opendocument.spreadsheet",
        "application/vnd.oasis.opendocument.text",
        "application/vnd.openxmlformats-officedocument.presentationml.presentation",
        "application/vnd.openxmlformats-officedocument.presentationml.slideshow",
        "application/vnd.openxmlformats-officedocument.presentationml.template",
        "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
        "application/vnd.openxmlformats-officedocument.spreadsheetml.template",
        "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
        "application/vnd.openxmlformats-officedocument.wordprocessingml.template",
        "application/x-7z-compressed",
        "application/x-bibtex",
        "application/x-bzip2",
        "application/x-compressed-tar",
        "application/x-dbf",
        "application/x-endnote+xml",
        "application/x-epub+zip",
        "application/x-fictionbook+xml",
        "application/x-gtar",
        "application/x-gzip",
        "application/x-hwp",
        "application/x-ipynb+json",
        "application/x-iwork-keynote-sffkey",
        "application/x-iwork-numbers-sffnumbers",
        "application/x-iwork-pages-sffpages",
        "application/x-jats+xml",
        "application/x-latex",
        "application/x-ndjson",
        "application/x-pubmed",
        "application/x-research-info-systems",
        "application/x-tar",
        "application/x-typst",
        "application/x-ustar",
        "application/x-xz",
        "application/x-zip-compressed",
        "application/xhtml+xml",
        "application/xml",
        "application/xml+opml",
        "application/zip",
        "image/svg+xml",
        "message/rfc822",
        "text/csv",
        "text/html",
        "text/json",
        "text/mdx",
        "text/org",
        "text/prs.fallenstein.rst",
        "text/rtf",
        "text/tab-separated-values",
        "text/x-bibtex",
        "text/x-commonmark",
        "text/x-org",
        "text/x-rst",
        "text/x-tex",
        "text/x-web-page",
        "text/xml",
    }
)
"""Media types that are parsed. Everything else is decoded as text: the parser reads more formats,
but joins the lines of text, and never sees audio or video, for which it would need a model."""

UNPARSED_SOURCES: Final = frozenset({"parse-fallback", "xml"})
"""Sources of the warnings that text in a format was not, or not all, read in that format."""
LOSSLESS_SOURCES: Final = frozenset({"exif", "ocr"})
"""Sources of warnings that no text is missing: of photos without camera data, and of pages that are
too short to tell whether their letters are mapped rightly."""
SHEET_SOURCE: Final = "excel"
"""Source of the warning that a sheet of a workbook was left out."""
SHEET: Final = re.compile(r"Sheet ('.*') ([^;]+)")
"""The sheet, and what it did wrong."""

REFUSALS: Final = (
    (
        "Table cell limit|Cell limit",
        f"a sheet or table has more than {MAX_TABLE_CELLS:,} cells, counting the empty ones up to "
        "its last row and column; delete the stray cells, or split it",
    ),
    (
        "ZIP bomb",
        f"it unpacks to more than {MAX_COMPRESSION_RATIO} times its size, as only zip bombs do",
    ),
    ("Archive too large", f"it unpacks to more than {MAX_UNPACKED_BYTES // MEBIBYTE:,} MiB"),
    ("too many files|entries", f"it contains more than {MAX_ARCHIVE_FILES:,} files"),
    ("Nesting too deep|epth limit", f"its content is nested more than {MAX_NESTING} levels deep"),
    (
        "Entity too long",
        f"a single value in it is longer than {MAX_TOKEN_BYTES // MEBIBYTE} MiB",
    ),
    (
        "Content too large|max_content_size",
        f"its text is longer than {MAX_TEXT_BYTES // MEBIBYTE} MiB",
    ),
    ("Too many iterations", f"reading it takes more than {MAX_ITERATIONS:,} steps"),
    ("too many pages", f"it has more than {MAX_PAGES:,} pages"),
    ("PasswordRequired", "it is encrypted"),
)
"""The parser's words for a limit that a document exceeds, and the reason to reject it."""
LIMIT_EXCEEDED: Final = re.compile("|".join(f"({words})" for words, _ in REFUSALS))
MALFORMED: Final = "Parsing error"
"""How the parser begins to say, in words for programmers, that a file is not as it should be."""
EMPTY_ROW: Final = re.compile(r"^\|[| ]*+\n", re.MULTILINE)
"""A row without text. A stray cell far out makes thousands of them."""


ATTACHED_MESSAGE: Final = "embedded_message_"
"""What the parser calls messages that are attached to others, before their numbers."""
ESCAPED: Final = re.compile(r"\\([!-/:-@\[-`{}~])")
"""A sign that Markdown escapes. The sign between the cells of a table is not among them."""
CODE_FENCE: Final = re.compile(r"^ *+(```|~~~)")


@dataclass(frozen=True)
class ParsedPage:
    """The Markdown of a page."""

    number: int
    markdown: str


@dataclass(frozen=True)
class Annotation:
    """A comment on a page of a PDF; ``kind`` is Text, Highlight, Link and so on."""

    page: int
    kind: str
    text: str
    author: str | None


@dataclass(frozen=True)
class FormField:
    """A field of a form with a value, and the page that it is on, if that is known."""

    name: str
    value: str
    page: int | None


@dataclass(frozen=True)
class ParsedFile:
    """What the parser found in a file: its Markdown, and the same page by page.

    ``title`` and ``subject`` are what the file's metadata says. ``warnings`` say what could not be
    read, for the user.
    """

    markdown: str
    media_type: str
    title: str | None = None
    subject: str | None = None
    pages: tuple[ParsedPage, ...] = ()
    annotations: tuple[Annotation, ...] = ()
    fields: tuple[FormField, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class RecognizedText:
    """The text in an image, and how sure OCR is, from 0 to 1; None if it does not say."""

    text: str
    confidence: float | None


@dataclass(frozen=True)
class ParsedArchive:
    """The names and the Markdown of the members of an archive, which unpacks to so many bytes."""

    unpacked_bytes: int
    members: tuple[tuple[str, str], ...]


class CertainRejection(DocumentRejected):
    """A document was rejected for a reason that reading it in another format would not change.

    `extract` raises a plain DocumentRejected instead, which is what parse processes can send.
    """


class NotParsed(Exception):
    """A text file, such as JSON or XML, is not valid in its format, or exceeds a limit."""


def parses(media_type: str) -> bool:
    """Return True if files of ``media_type`` are parsed."""
    return media_type in PARSED_TYPES


def parse(data: bytes, media_type: str, *, attachments: bool = True) -> ParsedFile:
    """Return what ``data`` says; what is inside or attached to it only with ``attachments``.

    Raises DocumentRejected if the file cannot be read, and NotParsed if it can only be read as
    plain text.
    """
    document = _extract(data, media_type, _config(MAX_ARCHIVE_DEPTH if attachments else 0))
    if any(warning.source in UNPARSED_SOURCES for warning in document.processing_warnings):
        raise NotParsed
    return ParsedFile(
        EMPTY_ROW.sub("", unescaped(document.content)),
        document.mime_type,
        _text(document.metadata.title),
        _text(document.metadata.subject),
        tuple(
            ParsedPage(page.page_number, EMPTY_ROW.sub("", unescaped(page.content)))
            for page in document.pages or ()
        ),
        tuple(
            Annotation(note.page_number, str(note.annotation_type), note.content, note.author)
            for note in document.annotations or ()
            if note.content
        ),
        tuple(
            FormField(field.tooltip or field.name, field.value, field.page)
            for field in document.form_fields
            if field.value
        ),
        tuple(_warnings(document.processing_warnings)),
    )


def recognize(
    image: bytes, languages: Sequence[str], tessdata: Path, dpi: int, layout: int
) -> RecognizedText:
    """Return the text in ``image``, a PNG file of ``dpi`` dots per inch, by Tesseract.

    The folder ``tessdata`` must have the data of all ``languages``. ``layout`` is Tesseract's page
    segmentation mode. Raises DocumentRejected if the image cannot be read.
    """
    names = list(languages)
    document = _extract(image, "image/png", _ocr_config(tuple(names), tessdata, dpi, layout))
    scores = [page.ocr_confidence.score for page in document.pages or () if page.ocr_confidence]
    return RecognizedText(document.content.strip(), scores[0] if scores else None)


def unescaped(markdown: str) -> str:
    """Return ``markdown`` without escapes outside code, so that its text is as it was written."""
    if "\\" not in markdown:
        return markdown
    fence, lines = None, []
    for line in markdown.split("\n"):
        if mark := CODE_FENCE.match(line):
            fence = mark[1] if fence is None else None if mark[1] == fence else fence
        lines.append(line if fence else ESCAPED.sub(r"\1", line))
    return "\n".join(lines)


def _extract(
    data: bytes, media_type: str, config: xberg.ExtractionConfig
) -> xberg.ExtractedDocument:
    given = xberg.ExtractInput(kind="bytes", bytes=data, mime_type=media_type)
    try:
        [document] = _runner().run(xberg.extract(given, config)).results
    except (xberg.XbergError, RuntimeError, ValueError) as error:
        raise _rejection(str(error), media_type) from error
    return document


def _warnings(found: Iterable[xberg.ProcessingWarning]) -> Iterable[str]:
    """Yield the warnings that matter to the user."""
    for warning in found:
        if warning.source in LOSSLESS_SOURCES:
            continue
        sheet = SHEET.match(warning.message) if warning.source == SHEET_SOURCE else None
        if sheet is not None:
            yield f"sheet {sheet[1]} was skipped: it {sheet[2]}; delete the stray cells"
        else:
            yield _shortened(warning.message)


def _text(found: object) -> str | None:
    return str(found).strip() or None if found else None


def parse_archive(data: bytes, media_type: str) -> ParsedArchive:
    """Return the Markdown of each member of the archive ``data``.

    Raises DocumentRejected if the archive cannot be read.
    """
    archive = _extract(data, media_type, _config())
    described = archive.metadata.format and archive.metadata.format.archive
    size = described.total_size if described else 0
    return ParsedArchive(size, tuple(_members(archive.children, "")))


def parse_attached_messages(data: bytes, media_type: str) -> list[str]:
    """Return the Markdown of each message that is attached to the message ``data``, in order.

    Raises DocumentRejected if it cannot be read.
    """
    attached = _extract(data, media_type, _config()).children or []
    return [
        unescaped(child.result.content)
        for child in attached
        if child.path.startswith(ATTACHED_MESSAGE)
    ]


def _members(children: list[xberg.ArchiveEntry] | None, around: str) -> Iterator[tuple[str, str]]:
    for child in sorted(children or [], key=lambda child: child.path):
        if child.result.children:
            yield from _members(child.result.children, f"{around}{child.path}{INSIDE}")
        else:
            yield f"{around}{child.path}", child.result.content


def _rejection(message: str, media_type: str) -> DocumentRejected:
    """Return why a file is rejected over which the parser said ``message``."""
    exceeded = LIMIT_EXCEEDED.search(message)
    if exceeded is not None and exceeded.lastindex is not None:
        return CertainRejection(REFUSALS[exceeded.lastindex - 1][1])
    if media_type == UNKNOWN and message.startswith("Unsupported format"):
        return DocumentRejected(BINARY)
    read_as = "" if media_type == UNKNOWN else f" as {media_type}"
    if message.startswith(MALFORMED):
        return DocumentRejected(f"cannot be read{read_as}: it is damaged or was cut off")
    return DocumentRejected(f"cannot be read{read_as}: {_shortened(message)}")


def _shortened(message: str) -> str:
    return message.strip().partition("\n")[0][:REASON_CHARACTERS]


@cache
def _runner() -> asyncio.Runner:
    """Return the event loop of this process, in which nothing else runs."""
    # One document at a time needs no more; by default there is a thread for each core.
    os.environ["TOKIO_WORKER_THREADS"] = "1"
    os.environ["RAYON_NUM_THREADS"] = "1"
    runner = asyncio.Runner()
    atexit.register(_close, runner)
    return runner


def _close(runner: asyncio.Runner) -> None:
    """Close the event loop, and let the parser's thread let go of its last result.

    Python crashes if it ends while that thread holds one.
    """
    runner.close()
    time.sleep(LETTING_GO_SECONDS)


@cache
def _config(archive_depth: int = MAX_ARCHIVE_DEPTH) -> xberg.ExtractionConfig:
    return xberg.ExtractionConfig(
        use_cache=False,
        max_archive_depth=archive_depth,
        output_format="markdown",
        escape_markdown=False,
        disable_ocr=True,
        concurrency=xberg.ConcurrencyConfig(max_threads=1),
        pages=xberg.PageConfig(extract_pages=True),
        pdf_options=xberg.PdfConfig(extract_annotations=True),
        # What repeats is removed by `worker.text.formats.pdf`, which keeps it once.
        content_filter=xberg.ContentFilterConfig(
            include_headers=True, include_footers=True, strip_repeating_text=False
        ),
        html_options=xberg.ConversionOptions(max_depth=MAX_HTML_DEPTH),
        tree_sitter=xberg.TreeSitterConfig(enabled=False),  # it downloads grammars
        security_limits=_security_limits(),
    )


@cache
def _ocr_config(
    languages: tuple[str, ...], tessdata: Path, dpi: int, layout: int
) -> xberg.ExtractionConfig:
    names = list(languages)
    return xberg.ExtractionConfig(
        use_cache=False,
        output_format="plain",
        concurrency=xberg.ConcurrencyConfig(max_threads=1),
        pages=xberg.PageConfig(extract_pages=True),
        ocr=xberg.OcrConfig(
            backend="tesseract",
            language=names,
            tessdata_path=str(tessdata),
            tesseract_config=xberg.TesseractConfig(
                language=names,
                psm=layout,
                output_format="text",
                use_cache=False,
                enable_table_detection=False,  # it takes columns for tables
                preprocessing=xberg.ImagePreprocessingConfig(target_dpi=dpi, deskew=False),
            ),
        ),
        security_limits=_security_limits(),
    )


def _security_limits() -> xberg.SecurityLimits:
    return xberg.SecurityLimits(
        max_archive_size=MAX_UNPACKED_BYTES,
        max_compression_ratio=MAX_COMPRESSION_RATIO,
        max_files_in_archive=MAX_ARCHIVE_FILES,
        max_nesting_depth=MAX_NESTING,
        max_entity_length=MAX_TOKEN_BYTES,
        max_content_size=MAX_TEXT_BYTES,
        max_iterations=MAX_ITERATIONS,
        max_xml_depth=MAX_NESTING,
        max_table_cells=MAX_TABLE_CELLS,
        max_pages=MAX_PAGES,
    )
