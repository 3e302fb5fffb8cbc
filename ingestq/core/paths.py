"""File names: as text, and what their suffixes say about the content."""

import hashlib
import mimetypes
import os
import time
from pathlib import Path, PurePath
from typing import Final
from urllib.parse import quote_from_bytes, unquote_to_bytes

import msgspec

from ingestq.core.documents import Document

SETTLED_NS: Final = 2_000_000_000
"""A file system's clock may tick as rarely as this (FAT does)."""
_URI_PREFIX: Final = "file://"


def path_to_text(path: Path) -> str:
    """Write ``path`` as text that survives any encoding."""
    raw = os.fsencode(path)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return _URI_PREFIX + quote_from_bytes(raw)


def file_state(document: Document, status: os.stat_result) -> str | None:
    """Name the state that a document's file is in, so that the same name means the same document.

    It covers size, time of modification, and what is stored besides the content. None while the
    file was modified so shortly ago that a later change might leave the time as it is.
    """
    if time.time_ns() - status.st_mtime_ns < SETTLED_NS:
        return None
    stored = (document.source, document.media_type, sorted(document.metadata.items()))
    digest = hashlib.blake2b(msgspec.msgpack.encode(stored), digest_size=8).hexdigest()
    return f"{status.st_size}:{status.st_mtime_ns}:{digest}"


def folders_of(doc_id: str) -> tuple[str, ...]:
    """The ids of all folders in which a scanned document lies."""
    return tuple(
        path_to_text(path) for path in text_to_path(doc_id).parents if path.name or path.root
    )


def text_to_path(text: str) -> Path:
    """Read back what `path_to_text` wrote."""
    if text.startswith(_URI_PREFIX):
        return Path(os.fsdecode(unquote_to_bytes(text.removeprefix(_URI_PREFIX))))
    return Path(text)


BEYOND_THE_STANDARD_LIBRARY: Final = {
    ".docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    ".eml": "message/rfc822",
    ".epub": "application/epub+zip",
    ".ipynb": "application/x-ipynb+json",
    ".jsonl": "application/x-ndjson",
    ".md": "text/markdown",
    ".markdown": "text/markdown",
    ".msg": "application/vnd.ms-outlook",
    ".odp": "application/vnd.oasis.opendocument.presentation",
    ".ods": "application/vnd.oasis.opendocument.spreadsheet",
    ".odt": "application/vnd.oasis.opendocument.text",
    ".org": "text/x-org",
    ".pptx": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
    ".rst": "text/x-rst",
    ".rtf": "application/rtf",
    ".toml": "application/toml",
    ".ts": "text/plain",
    ".xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    ".xml": "application/xml",
    ".yaml": "application/yaml",
    ".yml": "application/yaml",
}
"""Types that ``mimetypes`` only knows where the system's own table does, or takes for others."""

_table: Final = mimetypes.MimeTypes(filenames=())
"""Without the system's table, so that every machine gives the same answer."""


def guess_media_type(name: str) -> str | None:
    """The media type that ``name`` suggests, or None if its suffix is unknown."""
    suffix = PurePath(name).suffix.lower()
    return BEYOND_THE_STANDARD_LIBRARY.get(suffix) or _table.guess_type(f"x{suffix}")[0]
