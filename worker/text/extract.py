"""Extracts the text of files. Runs in parse processes, because parsers are slow and may crash.

Formats that kreuzberg reads (PDF, Office, HTML, e-mail, tables, …) become Markdown, so that the
chunker sees their headings and tables. Markdown and all other text, such as source code, stays as
it is.
"""

import html
import re
from dataclasses import dataclass
from functools import cache
from typing import Final

import charset_normalizer
import kreuzberg

from ingestq.core.errors import DocumentRejected

PLAIN_TEXT: Final = "text/plain"
MARKDOWN: Final = "text/markdown"
SVG: Final = "image/svg+xml"
UNKNOWN: Final = "application/octet-stream"
HTML_TYPES: Final = frozenset({"text/html", "application/xhtml+xml"})
DECODED_AS_IS: Final = frozenset({PLAIN_TEXT, "application/toml", "application/yaml"})
"""Not parsed: kreuzberg would join lines, or wrap the text in a code block."""

CHARSET_SAMPLE_BYTES: Final = 64 * 1024
"""Detecting an encoding is slow, and the beginning of a file is enough."""
REASON_CHARACTERS: Final = 200
BINARY: Final = "a binary file, although its name says otherwise"
"""Reason to reject a file that contains no text."""


@dataclass(frozen=True)
class ExtractedText:
    """The text of a document; ``markdown`` if its headings, tables and code are in Markdown."""

    text: str
    markdown: bool
    title: str | None


def extract(data: bytes, media_type: str | None) -> ExtractedText:
    """Extract the text of ``data``.

    ``media_type`` is the type that the file's name suggests; None means to detect it from the
    content. Raises DocumentRejected, with a reason for the user, if there is no text.
    """
    if not data:
        raise DocumentRejected("the file is empty")
    media_type = known_type(data, media_type)
    if is_decoded_only(media_type):
        extracted = ExtractedText(_decode(data), markdown=media_type == MARKDOWN, title=None)
    elif media_type.startswith("image/") and media_type != SVG:
        raise DocumentRejected(f"{media_type}: text in images is not supported (no OCR)")
    else:
        extracted = _parse(data, media_type)
    if not extracted.text.strip():
        raise DocumentRejected(no_text(media_type))
    return extracted


def known_type(data: bytes, media_type: str | None) -> str:
    """Return ``media_type``; if it is unknown, the type of a file that begins with ``data``."""
    return _detect(data) if media_type is None or media_type == UNKNOWN else media_type


def is_decoded_only(media_type: str) -> bool:
    """Return True if files of this type are only decoded, False if they are parsed."""
    return media_type in {MARKDOWN, *DECODED_AS_IS} or not _kreuzberg_reads(media_type)


def no_text(media_type: str) -> str:
    """Return the reason to reject a file without text."""
    return f"there is no text in this {media_type} file"


def _detect(data: bytes) -> str:
    try:
        return kreuzberg.detect_mime_type(data)
    except (RuntimeError, kreuzberg.KreuzbergError):
        return PLAIN_TEXT  # not UTF-8, or not text at all: decoding will find out


@cache
def _kreuzberg_reads(media_type: str) -> bool:
    try:
        kreuzberg.validate_mime_type(media_type)
    except (RuntimeError, kreuzberg.KreuzbergError):
        return False
    return True


def _decode(data: bytes) -> str:
    """Decode text in any encoding. Raises DocumentRejected if it is not text."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = _decode_legacy(data)
    if "\0" in text:
        raise DocumentRejected(BINARY)
    return text


def _decode_legacy(data: bytes) -> str:
    if charset_normalizer.is_binary(data[:CHARSET_SAMPLE_BYTES]):
        raise DocumentRejected(BINARY)
    best = charset_normalizer.from_bytes(data[:CHARSET_SAMPLE_BYTES]).best()
    if best is None:
        raise DocumentRejected("the encoding of the text cannot be detected; save it as UTF-8")
    try:
        return data.decode(best.encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise DocumentRejected(
            f"the text begins as {best.encoding}, but byte {error.start} is not valid in it; save "
            "it as UTF-8"
        ) from error


@cache
def _config() -> kreuzberg.ExtractionConfig:
    return kreuzberg.ExtractionConfig(
        use_cache=False,
        output_format="markdown",
        concurrency=kreuzberg.ConcurrencyConfig(max_threads=1),
    )


def _parse(data: bytes, media_type: str) -> ExtractedText:
    title = None
    if media_type in HTML_TYPES:
        title, data = _split_head(_decode(data))
    try:
        result = kreuzberg.extract_bytes_sync(data, media_type, _config())
    except kreuzberg.ValidationError as error:
        raise DocumentRejected(f"files of type {media_type} are not supported") from error
    except (kreuzberg.KreuzbergError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0].strip()[:REASON_CHARACTERS]
        raise DocumentRejected(f"cannot be read as {media_type}: {reason}") from error
    found = result.metadata.get("title") or result.metadata.get("subject")
    return ExtractedText(
        result.content, markdown=True, title=title or (str(found) if found else None)
    )


def _split_head(page: str) -> tuple[str | None, bytes]:
    """Return an HTML page's title, and the page without its head: kreuzberg takes it for text."""
    title = re.search(r"(?is)<title[^>]*>(.*?)</title", page)
    body = re.sub(r"(?is)<head\b.*?</head\s*>", "<head><meta charset=utf-8></head>", page, count=1)
    return (html.unescape(title[1]).strip() or None) if title else None, body.encode()
