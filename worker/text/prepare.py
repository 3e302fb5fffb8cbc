"""Turns a document into chunks that are ready to be embedded. Runs in parse processes.

Reading, parsing and chunking happen together, so a file's bytes never pass through the process that
runs the event loop. A large text file is read segment by segment, so that memory does not depend on
its size. Nothing is kept between segments: any process may continue where another ended.
"""

import codecs
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import groupby
from operator import attrgetter
from pathlib import PurePath
from typing import Final

from ingestq.core.documents import Document
from ingestq.core.errors import DocumentRejected, SourceChanged
from ingestq.core.metrics import PipelineStage
from worker.text.chunking.chunker import Chunker
from worker.text.chunking.context import TITLE_WITHIN, Origin, file_title, joined, title_of
from worker.text.config import DEFAULT_READING, ReadingConfig
from worker.text.content import (
    ContentHashes,
    blocks_of,
    hashes_of,
    open_content,
    read_all,
    too_large,
)
from worker.text.extract import extract
from worker.text.media_types import MARKDOWN, PLAIN_TEXT, is_decoded_only
from worker.text.parts import (
    Chunk,
    ExtractedDocument,
    Heading,
    OpenBlocks,
    Part,
    PreparedDocument,
    Segment,
    SegmentStart,
    SparseVector,
    UnchangedContent,
)
from worker.text.stage_times import timed
from worker.text.text_file import read_segment, scan, text_at

SEGMENT_AHEAD_BYTES: Final = 256 * 1024
"""A segment is read by itself: what lies behind it is read again with the next one."""


def prepare(
    document: Document,
    known_hash: str | None,
    max_bytes: int,
    chunker: Chunker,
    encode: Callable[[str], SparseVector] | None,
    reading: ReadingConfig = DEFAULT_READING,
) -> PreparedDocument | UnchangedContent:
    """Read and chunk ``document``, unless its content has the hash ``known_hash``.

    It is read as ``reading`` says. ``encode``, if given, makes the sparse vectors of the chunks. Of
    a large Unicode text file, only the first segment is returned; all else is read as a whole.
    An empty document has no chunks, and a warning. Raises DocumentRejected if the document cannot
    be read or is larger than ``max_bytes``, and SourceChanged if its file changes meanwhile.
    """
    if document.text is not None:
        data = document.text.encode()
        if len(data) > max_bytes:
            raise DocumentRejected(too_large(len(data), max_bytes))
        return _prepare_whole(document, data, None, known_hash, chunker, encode, reading)
    with open_content(document, max_bytes) as (file, stat, state, now):
        if stat.bytes <= chunker.segment_characters:
            with timed(PipelineStage.READ):
                data = read_all(file, max_bytes)
            return _prepare_whole(document, data, state, known_hash, chunker, encode, reading)
        with timed(PipelineStage.READ):
            found = hashes_of(document, blocks_of(file, max_bytes))
        if found.of_document == known_hash:
            return UnchangedContent(known_hash, state)
        with timed(PipelineStage.READ):
            file.seek(0)
            scanned = scan(file, document.media_type, stat)
            if scanned is None:
                file.seek(0)
                data = read_all(file, max_bytes)
        if scanned is None:
            return _prepare_whole(document, data, state, known_hash, chunker, encode, reading)
        place = scanned.start
        if stat != now():
            raise SourceChanged("the file was changed while it was read")
        head = Part(text_at(file, place, TITLE_WITHIN), place.markdown)
        title = title_of(document.metadata, None, head)
        name = "" if title else file_title(document.source)
        place = replace(place, title=title or "", file_title=name)
        first = prepare_rest(document, place, chunker, encode)
        return PreparedDocument(
            found.of_document, state, title, first, scanned.warnings, found.of_bytes
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
    with timed(PipelineStage.CHUNK):
        try:
            # Its size was checked when the first segment was read.
            with open_content(document, sys.maxsize, SEGMENT_AHEAD_BYTES) as content:
                chunks, rest = read_segment(content, place, chunker)
        except (OSError, DocumentRejected) as error:
            reason = f"the file was removed while it was read: {error}"
            raise SourceChanged(reason) from error
        return Segment.of(chunks, encode, rest)


def _prepare_whole(
    document: Document,
    data: bytes,
    file: str | None,
    known_hash: str | None,
    chunker: Chunker,
    encode: Callable[[str], SparseVector] | None,
    reading: ReadingConfig,
) -> PreparedDocument | UnchangedContent:
    with timed(PipelineStage.READ):
        found = hashes_of(document, iter([data]))
    if found.of_document == known_hash:
        return UnchangedContent(known_hash, file)
    default_type = None if document.text is None else PLAIN_TEXT
    if document.text is not None and b"\0" in data:
        data = codecs.BOM_UTF8 + data  # else it might be taken for UTF-16
    with timed(PipelineStage.EXTRACT):
        extracted = extract(data, document.media_type or default_type, reading)
    return _prepare_parts(document, extracted, found, file, chunker, encode)


def prepare_stored(
    document: Document,
    stored: ExtractedDocument,
    chunker: Chunker,
    encode: Callable[[str], SparseVector] | None,
) -> PreparedDocument:
    """Chunk ``document`` again. The parts of ``stored`` are the bodies of its chunks, in order.

    The result has no hashes.
    """
    media_type = document.media_type or PLAIN_TEXT
    markdown = media_type == MARKDOWN or not is_decoded_only(media_type)
    parts = tuple(
        Part(joined([part.text for part in bodies], markdown=markdown), markdown, *place)
        for place, bodies in groupby(stored.parts, attrgetter("page", "name"))
    )
    # A document without a title of its own was stored with the name of its file.
    title = None if stored.title == PurePath(document.source).name else stored.title
    unknown = ContentHashes("", "")
    return _prepare_parts(document, ExtractedDocument(parts, title), unknown, None, chunker, encode)


def _prepare_parts(
    document: Document,
    extracted: ExtractedDocument,
    found: ContentHashes,
    file: str | None,
    chunker: Chunker,
    encode: Callable[[str], SparseVector] | None,
) -> PreparedDocument:
    first = extracted.parts[0] if extracted.parts else None
    title = title_of(document.metadata, extracted.title, first)
    name = "" if title else file_title(document.source)
    with timed(PipelineStage.CHUNK):
        chunks = _chunks_of(extracted.parts, Origin(title or "", file_title=name), chunker)
        segment = Segment.of(chunks, encode)
    return PreparedDocument(
        found.of_document, file, title, segment, extracted.warnings, found.of_bytes
    )


def _chunks_of(parts: Iterable[Part], whole: Origin, chunker: Chunker) -> Iterator[Chunk]:
    """Yield the chunks of ``parts``, the document of which is ``whole``.

    A heading covers the pages after it, up to a part with a name. No chunk has text of two parts.
    """
    headings: tuple[Heading, ...] = ()
    name: str | None = None
    for part in parts:
        if part.name != name:
            headings, name = (), part.name
        cut = chunker.continued(
            part.text,
            markdown=part.markdown,
            origin=whole._replace(part=part.name, page=part.page),
            start=OpenBlocks(headings=headings),
        )
        yield from cut.chunks
        headings = cut.open.headings
