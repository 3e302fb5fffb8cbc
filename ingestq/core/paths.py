"""Paths as text, the state of a file, and media types by file name."""

import hashlib
import mimetypes
import os
import re
import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path, PurePath
from typing import Final
from urllib.parse import quote_from_bytes, unquote_to_bytes

import msgspec

from ingestq.core.documents import Document
from ingestq.core.errors import UsageError
from ingestq.core.urls import is_url

MTIME_RESOLUTION_NS: Final = 2_000_000_000
"""The coarsest resolution of mtimes: that of FAT."""
CACHED_FOLDERS: Final = 512
"""Folders whose own folders are remembered: many documents of a scan are in the same one."""
_URI_PREFIX: Final = "file://"
PROCESSES_PREFIX: Final = "ingestq-processes-"
BLOB_PREFIX: Final = "ingestq-blob-"
"""Beginnings of the names of ingestq's own folders in the temporary directory."""


def expanded(path: Path) -> Path:
    """Return ``path`` with the home directory in place of "~".

    Raises UsageError if it is that of a user who does not exist, such as "~jo".
    """
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise UsageError(f"{path}: there is no home directory of {path.parts[0][1:]!r}") from error


def path_to_text(path: Path) -> str:
    """Return ``path`` as text that every encoding can hold. `text_to_path` reads it back."""
    raw = os.fsencode(path)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return _URI_PREFIX + quote_from_bytes(raw)


def file_state(document: Document, status: os.stat_result) -> str | None:
    """Return a name for the state of a document's file. The same name means the same document.

    It covers size, mtime, ctime, and what is stored besides the content. The ctime tells another
    file that has the mtime of the first, as archives are unpacked and backups restored. Returns
    None if the file was modified so recently that a later change might leave its times as they are.
    """
    if time.time_ns() - status.st_mtime_ns < MTIME_RESOLUTION_NS:
        return None
    return f"{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}:{_digest(document)}"


def object_state(document: Document, size: int | None, tag: str | None) -> str | None:
    """Return a name for the state of a remote object, as `file_state` does for a file.

    The store gives the object another ``tag``, such as an ETag, whenever it is written. Returns
    None if the store gives none: then nothing tells whether the object has changed.
    """
    if tag is None:
        return None
    return f"{'' if size is None else size}:{tag}:{_digest(document)}"


def _digest(document: Document) -> str:
    """Return a digest of what is stored of a document besides its content."""
    stored = (document.source, document.media_type, sorted(document.metadata.items()))
    return hashlib.blake2b(msgspec.msgpack.encode(stored), digest_size=8).hexdigest()


def size_in_state(state: str) -> int | None:
    """Return the size in bytes that a file's or object's ``state`` names; None if it has none."""
    size, _, _ = state.partition(":")
    return int(size) if size.isdecimal() else None


def folders_of(doc_id: str) -> tuple[str, ...]:
    """Return the ids of all folders that contain a scanned document, innermost first."""
    name = doc_id[doc_id.rfind("/") + 1 :]
    if name in ("", "."):  # no name of a file: the path ends before it
        return _parents(doc_id)
    return _parents(f"{doc_id.removesuffix(name)}-")


@lru_cache(CACHED_FOLDERS)
def _parents(doc_id: str) -> tuple[str, ...]:
    if is_url(doc_id) and not doc_id.startswith(_URI_PREFIX):
        return tuple(_folders_in_url(doc_id))
    parents = text_to_path(doc_id).parents
    return tuple(path_to_text(path) for path in parents if path.name or path.root)


def _folders_in_url(url: str) -> Iterator[str]:
    """Yield the URLs of all folders that contain the object at ``url``, innermost first.

    Keys of objects are no paths: "a//b" and "a/./b" are others than "a/b".
    """
    start = url.index("://") + len("://")
    end = url.rfind("/")
    while end > start:
        yield url[:end]
        end = url.rfind("/", start, end)


def text_to_path(text: str) -> Path:
    """Return the path that `path_to_text` wrote as ``text``."""
    if text.startswith(_URI_PREFIX):
        return Path(os.fsdecode(unquote_to_bytes(text.removeprefix(_URI_PREFIX))))
    return Path(os.fsdecode(text.encode(errors="surrogateescape")))  # in any locale


EXTRA_MEDIA_TYPES: Final = {
    ".docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    ".eml": "message/rfc822",
    ".epub": "application/epub+zip",
    ".hwp": "application/x-hwp",
    ".hwpx": "application/haansofthwpx",
    ".ipynb": "application/x-ipynb+json",
    ".jsonl": "application/x-ndjson",
    ".mbox": "application/mbox",
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
"""Media types that Python's own table lacks or has wrong."""

_table: Final = mimetypes.MimeTypes(filenames=())
"""The system's table is left out, so that every machine gives the same answer."""


MAILDIR_FOLDERS: Final = frozenset({"cur", "new"})
MAILDIR_NAME: Final = re.compile(r"\d{9,}\.[^./]+\..+")
"""The unique name of a message: the time in seconds, what differs within it, and the host."""


def media_type_of(path: PurePath) -> str | None:
    """Return the media type that ``path`` suggests, also of a message in a Maildir.

    The names of these end with that of a host and with flags, and no suffix.
    """
    if path.parent.name in MAILDIR_FOLDERS and MAILDIR_NAME.fullmatch(path.name):
        return EXTRA_MEDIA_TYPES[".eml"]
    return guess_media_type(path.name)


def guess_media_type(name: str) -> str | None:
    """Return the media type that the suffix of ``name`` suggests; None if it is unknown."""
    suffix = PurePath(name).suffix.lower()
    return EXTRA_MEDIA_TYPES.get(suffix) or _table.guess_type(f"x{suffix}")[0]
