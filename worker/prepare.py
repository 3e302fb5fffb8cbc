"""A document to chunks that are ready to be embedded. Runs in the pool's children.

Reading, parsing and cutting happen together, so a file's bytes never pass through the process
that runs the event loop.
"""

import hashlib
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import msgspec

from broker.contract import Document
from broker.errors import DocumentRejected
from broker.paths import file_state, text_to_path
from worker.chunk import Chunker, SizedText
from worker.extract import PLAIN_TEXT, extract
from worker.points import SparseVector


@dataclass(frozen=True)
class Unprepared:
    """The document's content is the one that is known already: there is nothing to prepare.

    ``file`` is the state of the file it was read from, see `broker.paths.file_state`.
    """

    content_hash: str
    file: str | None = None


@dataclass(frozen=True)
class Part:
    """Chunks of a document, one after the other; ``tokens`` has how many each counts as having.

    ``sparse`` has the sparse vector of each; it is empty if none are wanted.
    """

    chunks: tuple[str, ...]
    tokens: tuple[int, ...]
    sparse: tuple[SparseVector, ...] = ()

    @classmethod
    def of(
        cls, chunks: Sequence[SizedText], sparse: Callable[[str], SparseVector] | None = None
    ) -> Self:
        """``chunks``, with what ``sparse``, if there is one, makes of their text."""
        texts = tuple(chunk.text for chunk in chunks)
        words = tuple(map(sparse, texts)) if sparse else ()
        return cls(texts, tuple(chunk.tokens for chunk in chunks), words)


@dataclass(frozen=True)
class Prepared:
    """A document cut into chunks. ``content_hash`` covers everything that is stored of it.

    ``file`` is the state of the file it was read from, see `broker.paths.file_state`.
    """

    content_hash: str
    file: str | None
    title: str | None
    part: Part


def prepare(
    document: Document,
    known_hash: str | None,
    max_bytes: int,
    chunker: Chunker,
    sparse: Callable[[str], SparseVector] | None,
) -> Prepared | Unprepared:
    """Read ``document``, extract its text and cut it, unless its content is ``known_hash``.

    Its chunks get the vectors that ``sparse``, if there is one, makes of their text.
    Raises DocumentRejected if it cannot be read, is larger than ``max_bytes`` or holds no text.
    """
    data, media_type, file = _content(document, max_bytes)
    found_hash = _hash(document, data)
    if found_hash == known_hash:
        return Unprepared(found_hash, file)
    extracted = extract(data, media_type)
    chunks = chunker.chunks(extracted.text, markdown=extracted.markdown)
    return Prepared(
        content_hash=found_hash,
        file=file,
        title=extracted.title,
        part=Part.of(chunks, sparse),
    )


def content_hash(document: Document, max_bytes: int) -> str:
    """The hash that `prepare` would give ``document``. Raises DocumentRejected as that does."""
    data, _, _ = _content(document, max_bytes)
    return _hash(document, data)


def _content(document: Document, max_bytes: int) -> tuple[bytes, str | None, str | None]:
    """The content of ``document``, its media type, and the state of its file."""
    if document.text is not None:
        data = document.text.encode()
        if len(data) > max_bytes:
            raise DocumentRejected(too_large(len(data), max_bytes))
        return data, document.media_type or PLAIN_TEXT, None
    assert document.path is not None, "the contract allows text or path"
    data, status = _read(text_to_path(document.path), max_bytes)
    return data, document.media_type, file_state(document, status)


def _read(path: Path, max_bytes: int) -> tuple[bytes, os.stat_result]:
    try:
        # Looked at before it is read: what is written meanwhile makes it another state.
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise DocumentRejected("not a regular file")
        if status.st_size > max_bytes:
            raise DocumentRejected(too_large(status.st_size, max_bytes))
        return path.read_bytes(), status
    except FileNotFoundError as error:
        raise DocumentRejected("the file is gone, or not visible from the worker") from error
    except OSError as error:
        raise DocumentRejected(f"cannot be read: {error.strerror}") from error


def too_large(size: int, max_bytes: int) -> str:
    """Reason of the rejection of a document of ``size`` bytes."""
    return f"{size:,} bytes; the limit is {max_bytes:,} (INGESTQ_MAX_DOCUMENT_BYTES)"


def _hash(document: Document, data: bytes) -> str:
    digest = hashlib.blake2b(data, digest_size=16)
    stored = (document.source, document.media_type, sorted(document.metadata.items()))
    digest.update(msgspec.msgpack.encode(stored))
    return digest.hexdigest()
