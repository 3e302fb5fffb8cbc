"""The content of a document: its file, within the size limit, and its hash."""

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
    """Return the hash that `prepare` would give ``document``, which has a path.

    Raises DocumentRejected as that does.
    """
    path = path_of(document)
    with reading(path, max_bytes):
        return hash_of_file(document, path)


def path_of(document: Document) -> Path:
    """Return where the file of a document is that came without its text."""
    assert document.path is not None, "what is in the blob store has been fetched"
    return text_to_path(document.path)


@contextmanager
def reading(path: Path, max_bytes: int) -> Iterator[os.stat_result]:
    """Yield the status of the file from before it is read inside.

    Raises DocumentRejected if it cannot be, or is larger than ``max_bytes``.
    """
    try:
        # Looked at before it is read: what is written meanwhile makes it another state.
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise DocumentRejected("not a regular file")
        if status.st_size > max_bytes:
            raise DocumentRejected(too_large(status.st_size, max_bytes))
        yield status
    except FileNotFoundError as error:
        raise DocumentRejected("the file is gone, or not visible from the worker") from error
    except OSError as error:
        raise DocumentRejected(f"cannot be read: {error.strerror}") from error


def too_large(size: int, max_bytes: int) -> str:
    """Return the reason to reject a document of ``size`` bytes."""
    return f"{size:,} bytes; the limit is {max_bytes:,} (INGESTQ_MAX_DOCUMENT_BYTES)"


def hash_of_file(document: Document, path: Path) -> str:
    with path.open("rb") as file:
        return hash_of(document, file)


def hash_of(document: Document, content: BytesIO | BufferedReader) -> str:
    digest = hashlib.file_digest(content, lambda: hashlib.blake2b(digest_size=HASH_BYTES))
    stored = (document.source, document.media_type, sorted(document.metadata.items()))
    digest.update(msgspec.msgpack.encode(stored))
    return digest.hexdigest()
