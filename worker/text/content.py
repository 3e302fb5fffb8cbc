"""Reads a document's content within the size limit, and hashes it."""

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import Final

import msgspec

from ingestq.core.documents import Document
from ingestq.core.errors import DocumentRejected
from ingestq.core.paths import text_to_path

HASH_BYTES: Final = 16


def content_hash(document: Document, max_bytes: int) -> str:
    """Return the content hash of ``document``, which has a path, as `prepare` computes it.

    Raises DocumentRejected if its file cannot be read or is larger than ``max_bytes``.
    """
    path = path_of(document)
    with reading(path, max_bytes):
        return hash_of_file(document, path)


def path_of(document: Document) -> Path:
    """Return the path of the file of a document without inline text."""
    assert document.path is not None, "blobs have been fetched to a file"
    return text_to_path(document.path)


@contextmanager
def reading(path: Path, max_bytes: int) -> Iterator[os.stat_result]:
    """Check the file at ``path``, and yield its status. Read the file inside this context.

    Raises DocumentRejected if the file cannot be read, inside the context too, or is larger than
    ``max_bytes``.
    """
    try:
        # Before reading, so that a change during reading is noticed as a new state of the file.
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise DocumentRejected("not a regular file")
        if status.st_size > max_bytes:
            raise DocumentRejected(too_large(status.st_size, max_bytes))
        yield status
    except FileNotFoundError as error:
        raise DocumentRejected("the file is gone, or the worker cannot see it") from error
    except OSError as error:
        raise DocumentRejected(f"cannot be read: {error.strerror}") from error


def too_large(size: int, max_bytes: int) -> str:
    """Return the reason to reject a document of ``size`` bytes."""
    return f"{size:,} bytes; the limit is {max_bytes:,} (INGESTQ_MAX_DOCUMENT_BYTES)"


def hash_of_file(document: Document, path: Path) -> str:
    """Return the content hash of ``document``, whose content is the file at ``path``."""
    with path.open("rb") as file:
        return hash_of(document, file)


def hash_of(document: Document, content: BytesIO | BufferedReader) -> str:
    """Return a hash of ``content`` and of everything else that is stored of ``document``."""
    digest = hashlib.file_digest(content, lambda: hashlib.blake2b(digest_size=HASH_BYTES))
    stored = (document.source, document.media_type, sorted(document.metadata.items()))
    digest.update(msgspec.msgpack.encode(stored))
    return digest.hexdigest()
