"""Turns a document into chunks that are ready to be embedded. Runs in parse processes.

Reading, parsing and chunking happen together, so a file's bytes never pass through the process that
runs the event loop. A large text file is read segment by segment, so that memory does not depend on
its size. Nothing is kept between segments: any process may continue where another ended.
"""

import codecs
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple, replace
from itertools import chain, groupby
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
from worker.text.hooks import NO_LOADED_HOOKS, Hooks
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
    hooks: Hooks = NO_LOADED_HOOKS,
) -> PreparedDocument | UnchangedContent:
    """Read and chunk ``document``, unless its content has the hash ``known_hash``.

    It is read as ``reading`` says. ``encode``, if given, makes the sparse vectors of the chunks. Of
    a large Unicode text file, only the first segment is returned; all else is read as a whole, and
    so are all documents if there are ``hooks``.
    An empty document has no chunks, and a warning. Raises DocumentRejected if the document cannot
    be read or is larger than ``max_bytes``, SourceChanged if its file changes meanwhile, and
    HookFailed and HookUnavailable.
    """
    if document.text is not None:
        data = document.text.encode()
        if len(data) > max_bytes:
            raise DocumentRejected(too_large(len(data), max_bytes))
        return _prepare_whole(document, data, None, known_hash, chunker, encode, reading, hooks)
    with open_content(document, max_bytes) as (file, stat, state, now):
        if hooks.need_all_text or stat.bytes <= chunker.segment_characters:
            with timed(PipelineStage.READ):
                data = read_all(file, max_bytes)
            return _prepare_whole(
                document, data, state, known_hash, chunker, encode, reading, hooks
            )
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
            return _prepare_whole(
                document, data, state, known_hash, chunker, encode, reading, hooks
            )
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
    hooks: Hooks,
) -> PreparedDocument | UnchangedContent:
    with timed(PipelineStage.READ):
        found = hashes_of(document, iter([data]))
    if found.of_document == known_hash:
        return UnchangedContent(known_hash, file)
    media_type = document.media_type or (None if document.text is None else PLAIN_TEXT)
    with timed(PipelineStage.EXTRACT):
        extracted = hooks.parse(data, document, media_type)
        if extracted is None:
            if document.text is not None and b"\0" in data:
                data = codecs.BOM_UTF8 + data  # else it might be taken for UTF-16
            extracted = extract(data, media_type, reading)
    return _prepare_parts(document, extracted, found, file, chunker, encode, hooks)


def prepare_stored(
    document: Document,
    stored: ExtractedDocument,
    chunker: Chunker,
    encode: Callable[[str], SparseVector] | None,
    hooks: Hooks = NO_LOADED_HOOKS,
) -> PreparedDocument:
    """Chunk ``document`` again. The parts of ``stored`` are the bodies of its chunks, in order.

    The result has no hashes. Raises HookFailed, DocumentRejected and HookUnavailable.
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
    extracted = ExtractedDocument(parts, title)
    return _prepare_parts(document, extracted, unknown, None, chunker, encode, hooks)


def _prepare_parts(
    document: Document,
    extracted: ExtractedDocument,
    found: ContentHashes,
    file: str | None,
    chunker: Chunker,
    encode: Callable[[str], SparseVector] | None,
    hooks: Hooks,
) -> PreparedDocument:
    first = extracted.parts[0] if extracted.parts else None
    title = title_of(document.metadata, extracted.title, first)
    warnings = extracted.warnings
    with timed(PipelineStage.CHUNK):
        by_hook = hooks.chunk(document, extracted, title)
        if by_hook is None:
            name = "" if title else file_title(document.source)
            whole = Origin(title or "", file_title=name)
            chunks: Iterable[Chunk] = _chunks_of(extracted.parts, whole, chunker)
        else:
            fitted = [chunker.fitting(*astuple(chunk)) for chunk in by_hook.chunks]
            chunks = chain.from_iterable(fitted)
            warnings = (*warnings, *by_hook.warnings, *_too_long(fitted, chunker.max_tokens))
        segment = Segment.of(chunks, encode)
        enriched = hooks.enrich(document, extracted, title)
    return PreparedDocument(
        found.of_document,
        file,
        title,
        segment,
        warnings,
        found.of_bytes,
        enriched,
        hooks.versions.enrich,
    )


def _too_long(fitted: Sequence[Sequence[Chunk]], max_tokens: int) -> Iterator[str]:
    """Yield a warning if chunks of a hook had to be cut."""
    if cut := sum(len(pieces) > 1 for pieces in fitted):
        yield (
            f"{cut:,} chunks of the chunk hook were cut, because they had more than {max_tokens} "
            "tokens (INGESTQ_CHUNK_TOKENS)"
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
