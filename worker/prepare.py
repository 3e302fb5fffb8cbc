"""A document to chunks that are ready to be embedded. Runs in the pool's children.

Reading, parsing and cutting happen together, so a file's bytes never pass through the process
that runs the event loop.
"""

import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import Final, Self

import msgspec

from broker.contract import Document
from broker.errors import DocumentRejected, SourceChanged
from broker.paths import file_state, text_to_path
from worker import text_file
from worker.chunk import Chunker, SizedText
from worker.extract import PLAIN_TEXT, extract
from worker.points import SparseVector
from worker.text_file import Place

HASH_BYTES: Final = 16


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

    ``sparse`` has the sparse vector of each; it is empty if none are wanted. ``rest`` is where the
    next part begins, see `prepare_rest`; None after the last.
    """

    chunks: tuple[str, ...]
    tokens: tuple[int, ...]
    sparse: tuple[SparseVector, ...] = ()
    rest: Place | None = None

    @classmethod
    def of(
        cls,
        chunks: Sequence[SizedText],
        sparse: Callable[[str], SparseVector] | None = None,
        rest: Place | None = None,
    ) -> Self:
        """``chunks``, with what ``sparse``, if there is one, makes of their text."""
        texts = tuple(chunk.text for chunk in chunks)
        words = tuple(map(sparse, texts)) if sparse else ()
        return cls(texts, tuple(chunk.tokens for chunk in chunks), words, rest)


@dataclass(frozen=True)
class Prepared:
    """A document cut into chunks; ``part`` are the first of them, or all.

    ``content_hash`` covers everything that is stored of it.

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

    Its chunks get the vectors that ``sparse``, if there is one, makes of their text. A large file
    that is text as it is is read part by part, anything else as a whole.
    Raises DocumentRejected if it cannot be read, is larger than ``max_bytes`` or holds no text, and
    SourceChanged.
    """
    if document.text is not None:
        data = document.text.encode()
        if len(data) > max_bytes:
            raise DocumentRejected(too_large(len(data), max_bytes))
        return _prepare_whole(document, data, None, known_hash, chunker, sparse)
    path = path_of(document)
    with reading(path, max_bytes) as status:
        file = file_state(document, status)
        if status.st_size <= chunker.part_characters:
            data = path.read_bytes()
            return _prepare_whole(document, data, file, known_hash, chunker, sparse)
        found_hash = _hash_of_file(document, path)
        if found_hash == known_hash:
            return Unprepared(found_hash, file)
        place = text_file.scan(path, document.media_type)
        if place is None:
            return _prepare_whole(document, path.read_bytes(), file, known_hash, chunker, sparse)
        if place.status != text_file.Status.of(status):
            raise SourceChanged("the file was changed while it was read")
        return Prepared(found_hash, file, None, prepare_rest(document, place, chunker, sparse))


def prepare_rest(
    document: Document,
    place: Place,
    chunker: Chunker,
    sparse: Callable[[str], SparseVector] | None,
) -> Part:
    """The part of ``document`` at ``place``, which was the ``rest`` of the one before it.

    Raises SourceChanged if its file is another one by now.
    """
    try:
        chunks, rest = text_file.read_part(path_of(document), place, chunker)
    except OSError as error:
        raise SourceChanged(f"the file was removed while it was read: {error.strerror}") from error
    return Part.of(chunks, sparse, rest)


def content_hash(document: Document, max_bytes: int) -> str:
    """The hash that `prepare` would give ``document``, which has a path.

    Raises DocumentRejected as that does.
    """
    path = path_of(document)
    with reading(path, max_bytes):
        return _hash_of_file(document, path)


def path_of(document: Document) -> Path:
    """Where the file of a document is that came without its text."""
    assert document.path is not None, "what is in the spool has been fetched"
    return text_to_path(document.path)


def _prepare_whole(
    document: Document,
    data: bytes,
    file: str | None,
    known_hash: str | None,
    chunker: Chunker,
    sparse: Callable[[str], SparseVector] | None,
) -> Prepared | Unprepared:
    found_hash = _hash(document, BytesIO(data))
    if found_hash == known_hash:
        return Unprepared(found_hash, file)
    unnamed = None if document.text is None else PLAIN_TEXT
    extracted = extract(data, document.media_type or unnamed)
    chunks = chunker.chunks(extracted.text, markdown=extracted.markdown)
    return Prepared(found_hash, file, extracted.title, Part.of(chunks, sparse))


@contextmanager
def reading(path: Path, max_bytes: int) -> Iterator[os.stat_result]:
    """What the file is like before it is read inside.

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
    """Reason of the rejection of a document of ``size`` bytes."""
    return f"{size:,} bytes; the limit is {max_bytes:,} (INGESTQ_MAX_DOCUMENT_BYTES)"


def _hash_of_file(document: Document, path: Path) -> str:
    with path.open("rb") as file:
        return _hash(document, file)


def _hash(document: Document, content: BytesIO | BufferedReader) -> str:
    digest = hashlib.file_digest(content, lambda: hashlib.blake2b(digest_size=HASH_BYTES))
    stored = (document.source, document.media_type, sorted(document.metadata.items()))
    digest.update(msgspec.msgpack.encode(stored))
    return digest.hexdigest()
