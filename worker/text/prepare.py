"""Turns a document into chunks that are ready to be embedded. Runs in parse processes.

Reading, parsing and chunking happen together, so a file's bytes never pass through the process that
runs the event loop. A large text file is read segment by segment, so that memory does not depend on
its size. Nothing is kept between segments: any process may continue where another ended.
"""

import codecs
import os
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Final

from ingestq.core.documents import Document
from ingestq.core.errors import DocumentRejected, SourceChanged
from ingestq.core.paths import file_state
from worker.text.chunker import Chunker
from worker.text.content import hash_of, hash_of_file, path_of, reading, too_large
from worker.text.extract import (
    BINARY,
    MARKDOWN,
    PLAIN_TEXT,
    extract,
    is_decoded_only,
    known_type,
    no_text,
)
from worker.text.parts import (
    FileStat,
    PreparedDocument,
    Segment,
    SegmentStart,
    SizedText,
    SparseVector,
    UnchangedContent,
)

BLOCK_BYTES: Final = 1024 * 1024
MAX_BYTES_PER_CHARACTER: Final = 4
"""In UTF-8."""


def prepare(
    document: Document,
    known_hash: str | None,
    max_bytes: int,
    chunker: Chunker,
    encode: Callable[[str], SparseVector] | None,
) -> PreparedDocument | UnchangedContent:
    """Read and chunk ``document``, unless its content has the hash ``known_hash``.

    ``encode``, if given, makes the sparse vectors of the chunks. Of a large UTF-8 text file, only
    the first segment is returned; everything else is read as a whole. Raises DocumentRejected if
    the document cannot be read, is larger than ``max_bytes`` or contains no text, and SourceChanged
    if its file changes meanwhile.
    """
    if document.text is not None:
        data = document.text.encode()
        if len(data) > max_bytes:
            raise DocumentRejected(too_large(len(data), max_bytes))
        return _prepare_whole(document, data, None, known_hash, chunker, encode)
    path = path_of(document)
    with reading(path, max_bytes) as status:
        file = file_state(document, status)
        if status.st_size <= chunker.segment_characters:
            data = path.read_bytes()
            return _prepare_whole(document, data, file, known_hash, chunker, encode)
        found_hash = hash_of_file(document, path)
        if found_hash == known_hash:
            return UnchangedContent(found_hash, file)
        place = scan(path, document.media_type)
        if place is None:
            return _prepare_whole(document, path.read_bytes(), file, known_hash, chunker, encode)
        if place.status != FileStat.of(status):
            raise SourceChanged("the file was changed while it was read")
        return PreparedDocument(
            found_hash, file, None, prepare_rest(document, place, chunker, encode)
        )


def prepare_rest(
    document: Document,
    place: SegmentStart,
    chunker: Chunker,
    encode: Callable[[str], SparseVector] | None,
) -> Segment:
    """Read and chunk the segment of ``document`` at ``place``, the ``rest`` of the one before it.

    Raises SourceChanged if the file has changed since.
    """
    try:
        chunks, rest = read_segment(path_of(document), place, chunker)
    except OSError as error:
        raise SourceChanged(f"the file was removed while it was read: {error.strerror}") from error
    return Segment.of(chunks, encode, rest)


def _prepare_whole(
    document: Document,
    data: bytes,
    file: str | None,
    known_hash: str | None,
    chunker: Chunker,
    encode: Callable[[str], SparseVector] | None,
) -> PreparedDocument | UnchangedContent:
    found_hash = hash_of(document, BytesIO(data))
    if found_hash == known_hash:
        return UnchangedContent(found_hash, file)
    default_type = None if document.text is None else PLAIN_TEXT
    extracted = extract(data, document.media_type or default_type)
    chunks = chunker.chunks(extracted.text, markdown=extracted.markdown)
    return PreparedDocument(found_hash, file, extracted.title, Segment.of(chunks, encode))


def scan(path: Path, media_type: str | None) -> SegmentStart | None:
    """Return where the text of a file begins; None if the file has to be read as a whole.

    Only text in UTF-8 can be read segment by segment. Raises DocumentRejected if the file contains
    no text, and OSError.
    """
    with path.open("rb") as file:
        status = FileStat.of(os.fstat(file.fileno()))
        media_type = known_type(file.read(BLOCK_BYTES), media_type)
        if not is_decoded_only(media_type):
            return None
        file.seek(0)
        try:
            extent = _extent(file)
        except UnicodeDecodeError:
            return None
    if extent is None:
        raise DocumentRejected(no_text(media_type))
    return SegmentStart(*extent, media_type == MARKDOWN, "", status)


def read_segment(
    path: Path, place: SegmentStart, chunker: Chunker
) -> tuple[list[SizedText], SegmentStart | None]:
    """Return the chunks of the segment at ``place``, and where the next begins (None at the end).

    Raises SourceChanged if the file has changed, and OSError.
    """
    max_bytes = MAX_BYTES_PER_CHARACTER * (chunker.segment_characters + 1)
    with path.open("rb") as file:
        file.seek(place.start)
        data = file.read(min(max_bytes, place.end - place.start))
        if FileStat.of(os.fstat(file.fileno())) != place.status:
            raise SourceChanged("the file was changed while it was read")
    at_end = place.start + len(data) == place.end
    text = codecs.getincrementaldecoder("utf-8")().decode(data, final=at_end)
    cut = chunker.first_segment(text, markdown=place.markdown, fence=place.fence)
    start = place.start + len(text[: cut.characters].encode())
    if start == place.end:
        return cut.chunks, None
    return cut.chunks, SegmentStart(start, place.end, place.markdown, cut.fence, place.status)


def _extent(file: BinaryIO) -> tuple[int, int] | None:
    """Return the bytes at which the text begins and ends, without white space around it.

    None if there is no text. Raises DocumentRejected if the file is binary, and UnicodeDecodeError.
    """
    decoder = codecs.getincrementaldecoder("utf-8-sig")()  # without a byte order mark
    start, end, read, binary = -1, -1, 0, False
    while block := file.read(BLOCK_BYTES):
        text = decoder.decode(block)
        read += len(block)
        binary = binary or "\0" in text
        pending, _ = decoder.getstate()  # bytes of a character that the next block completes
        if stripped := text.lstrip():
            if start < 0:
                start = read - len(pending) - len(stripped.encode())
            end = read - len(pending) - len(stripped[len(stripped.rstrip()) :].encode())
    decoder.decode(b"", final=True)
    if binary:
        raise DocumentRejected(BINARY)
    return None if start < 0 else (start, end)
