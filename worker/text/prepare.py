"""Turns a document into chunks that are ready to be embedded. Runs in the parse processes.

Reading, parsing and cutting happen together, so a file's bytes never pass through the process
that runs the event loop.
"""

from collections.abc import Callable
from io import BytesIO

from ingestq.core.documents import Document
from ingestq.core.errors import DocumentRejected, SourceChanged
from ingestq.core.paths import file_state
from worker.text import text_file
from worker.text.chunker import Chunker
from worker.text.content import hash_of, hash_of_file, path_of, reading, too_large
from worker.text.extract import PLAIN_TEXT, extract
from worker.text.parts import (
    FileStat,
    PreparedDocument,
    Segment,
    SegmentStart,
    SparseVector,
    UnchangedContent,
)


def prepare(
    document: Document,
    known_hash: str | None,
    max_bytes: int,
    chunker: Chunker,
    sparse: Callable[[str], SparseVector] | None,
) -> PreparedDocument | UnchangedContent:
    """Read ``document``, extract its text and cut it, unless its content is ``known_hash``.

    Its chunks get the vectors that ``sparse``, if there is one, makes of their text. A large file
    that is plain text is read segment by segment, anything else as a whole.
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
        if status.st_size <= chunker.segment_characters:
            data = path.read_bytes()
            return _prepare_whole(document, data, file, known_hash, chunker, sparse)
        found_hash = hash_of_file(document, path)
        if found_hash == known_hash:
            return UnchangedContent(found_hash, file)
        place = text_file.scan(path, document.media_type)
        if place is None:
            return _prepare_whole(document, path.read_bytes(), file, known_hash, chunker, sparse)
        if place.status != FileStat.of(status):
            raise SourceChanged("the file was changed while it was read")
        return PreparedDocument(
            found_hash, file, None, prepare_rest(document, place, chunker, sparse)
        )


def prepare_rest(
    document: Document,
    place: SegmentStart,
    chunker: Chunker,
    sparse: Callable[[str], SparseVector] | None,
) -> Segment:
    """Prepare the segment of ``document`` at ``place``, the ``rest`` of the one before it.

    Raises SourceChanged if its file is another one by now.
    """
    try:
        chunks, rest = text_file.read_segment(path_of(document), place, chunker)
    except OSError as error:
        raise SourceChanged(f"the file was removed while it was read: {error.strerror}") from error
    return Segment.of(chunks, sparse, rest)


def _prepare_whole(
    document: Document,
    data: bytes,
    file: str | None,
    known_hash: str | None,
    chunker: Chunker,
    sparse: Callable[[str], SparseVector] | None,
) -> PreparedDocument | UnchangedContent:
    found_hash = hash_of(document, BytesIO(data))
    if found_hash == known_hash:
        return UnchangedContent(found_hash, file)
    unnamed = None if document.text is None else PLAIN_TEXT
    extracted = extract(data, document.media_type or unnamed)
    chunks = chunker.chunks(extracted.text, markdown=extracted.markdown)
    return PreparedDocument(found_hash, file, extracted.title, Segment.of(chunks, sparse))
