"""Reads a document's content within the size limit, and hashes it."""

import hashlib
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

import msgspec

from ingestq.client.object_store import RANGE_BYTES, look_at, open_ranges
from ingestq.client.regular_file import Opener, regular_only, regular_within
from ingestq.core.documents import Document
from ingestq.core.errors import DocumentRejected, SourceChanged
from ingestq.core.paths import file_state, object_state, text_to_path
from ingestq.core.remote import RemoteObject
from ingestq.outbound.store_errors import CHANGED
from worker.text.parts import FileStat

HASH_BYTES: Final = 16
BYTES_HASH_DIGITS: Final = 16
"""Digits of a `ContentHashes.of_bytes`: 64 bits. What relies on it survives a collision."""
BLOCK_BYTES: Final = 1024 * 1024
FILE_GONE: Final = "the file is gone, or the worker cannot see it"


class ContentHashes(NamedTuple):
    """The hash of everything that is stored of a document, and that of its bytes alone.

    Copies of a file under other names differ in the first, and agree in the second.
    """

    of_document: str
    of_bytes: str


def content_hash(document: Document, max_bytes: int) -> str:
    """Return the content hash of ``document``, which is not inline, as `prepare` computes it.

    Raises DocumentRejected if its file cannot be read or is larger than ``max_bytes``.
    """
    with open_content(document, max_bytes) as content:
        return hashes_of(document, blocks_of(content.file, max_bytes)).of_document


class OpenContent(NamedTuple):
    """The content of a document that is being read, and the state in which it was opened.

    ``state`` is what the ledger keeps of that. ``now`` returns the present ``stat``.
    """

    file: BinaryIO
    stat: FileStat
    state: str | None
    now: Callable[[], FileStat]


@contextmanager
def open_content(
    document: Document, max_bytes: int, ahead_bytes: int = RANGE_BYTES
) -> Iterator[OpenContent]:
    """Open the file, or the remote object, of a document without inline text.

    Requests to the store read ``ahead_bytes`` more than is asked for.
    Raises as `opened` does, and SourceChanged if a remote object is not the one that the document
    names, or changes while it is read.
    """
    if document.url is not None:
        with _open_object(document, document.url, max_bytes, ahead_bytes) as content:
            yield content
        return
    with opened(path_of(document), max_bytes, opener_of(document)) as (file, status):
        yield OpenContent(
            file,
            FileStat.of(status),
            file_state(document, status),
            lambda: FileStat.of(os.fstat(file.fileno())),
        )


@contextmanager
def _open_object(
    document: Document, url: str, max_bytes: int, ahead_bytes: int
) -> Iterator[OpenContent]:
    with open_ranges(url, ahead_bytes) as (file, found):
        if found.size is not None and found.size > max_bytes:
            raise DocumentRejected(too_large(found.size, max_bytes))
        state = object_state(document, found.size, found.tag)
        if document.file is not None and state != document.file:
            raise SourceChanged(CHANGED)
        yield OpenContent(file, _stat_of(found), state, lambda: _stat_of(look_at(url)))


def _stat_of(found: RemoteObject) -> FileStat:
    return FileStat(found.size or 0, 0, zlib.crc32((found.tag or "").encode()))


def path_of(document: Document) -> Path:
    """Return the path of the file of a document without inline text."""
    assert document.path is not None, "blobs have been fetched to a file"
    return text_to_path(document.path)


def opener_of(document: Document) -> Opener:
    """Return what opens the file of ``document``: only in the folder that it must lie within."""
    if document.within is None:
        return regular_only
    return regular_within(text_to_path(document.within))


@contextmanager
def opened(
    path: Path, max_bytes: int, opener: Opener = regular_only
) -> Iterator[tuple[BinaryIO, os.stat_result]]:
    """Open the file at ``path``, and yield it with its status. Read it inside this context.

    Raises DocumentRejected if the file cannot be read, inside the context too, is not a regular
    file, or is larger than ``max_bytes``. It may still have more bytes than its status says: files
    grow, and those of /proc have a size of 0.
    """
    try:
        with open(path, "rb", opener=opener) as file:
            # Before reading, so that a change during reading is noticed as a new state of the file.
            status = os.fstat(file.fileno())
            if status.st_size > max_bytes:
                raise DocumentRejected(too_large(status.st_size, max_bytes))
            yield file, status
    except FileNotFoundError as error:
        raise DocumentRejected(FILE_GONE) from error
    except OSError as error:
        raise DocumentRejected(f"cannot be read: {error.strerror}") from error


def too_large(size: int, max_bytes: int) -> str:
    """Return the reason to reject a document of ``size`` bytes."""
    return f"{size:,} bytes; the limit is {max_bytes:,} (INGESTQ_MAX_DOCUMENT_BYTES)"


def read_all(file: BinaryIO, max_bytes: int) -> bytes:
    """Return all of ``file``. Raises DocumentRejected if it has more than ``max_bytes``."""
    return b"".join(blocks_of(file, max_bytes))


def blocks_of(file: BinaryIO, max_bytes: int) -> Iterator[bytes]:
    """Yield all of ``file``. Raises DocumentRejected if it has more than ``max_bytes``."""
    size = 0
    while block := file.read(min(BLOCK_BYTES, max_bytes + 1 - size)):
        size += len(block)
        if size > max_bytes:
            raise DocumentRejected(
                f"more than {max_bytes:,} bytes, which is the limit (INGESTQ_MAX_DOCUMENT_BYTES)"
            )
        yield block


def hashes_of(document: Document, content: Iterator[bytes]) -> ContentHashes:
    """Return the hashes of ``document``, whose bytes are ``content``."""
    digest = hashlib.blake2b(digest_size=HASH_BYTES)
    for block in content:
        digest.update(block)
    of_bytes = digest.hexdigest()[:BYTES_HASH_DIGITS]
    stored = (document.source, document.media_type, sorted(document.metadata.items()))
    digest.update(msgspec.msgpack.encode(stored))
    return ContentHashes(digest.hexdigest(), of_bytes)
