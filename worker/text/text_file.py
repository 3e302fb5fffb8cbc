"""Reads a large text file segment by segment, so that memory does not depend on its size.

The segments have the chunks that the whole text would have; `worker.text.decoding.decode` decodes.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO, Final, NamedTuple

from ingestq.core.errors import DocumentRejected, SourceChanged
from worker.text.chunking.chunker import Chunker
from worker.text.chunking.context import Origin
from worker.text.content import OpenContent
from worker.text.decoding.cleaning import clean, first_piece, is_blank
from worker.text.decoding.decode import BINARY, HEAD_BYTES, UnicodeDecoder, unicode_codec
from worker.text.media_types import MARKDOWN, is_decoded_only, known_type
from worker.text.parts import Chunk, FileStat, SegmentStart

BLOCK_BYTES: Final = 1024 * 1024


@dataclass(frozen=True)
class TextScan:
    """Where the text of a file begins, and warnings of what in it is not valid."""

    start: SegmentStart
    warnings: tuple[str, ...]


class _Piece(NamedTuple):
    """A piece of a file, cleaned, and the bytes from ``start`` to ``end`` that it is made of."""

    start: int
    end: int
    text: str


def scan(file: BinaryIO, media_type: str | None, status: FileStat) -> TextScan | None:
    """Return where the text of ``file`` begins; None if the file has to be read as a whole.

    ``status`` is its state. Only Unicode text can be read segment by segment, if there is any.
    Raises DocumentRejected if the file is binary, and OSError.
    """
    head = file.read(max(BLOCK_BYTES, HEAD_BYTES))
    media_type = known_type(head, media_type)
    found = unicode_codec(head[:HEAD_BYTES]) if is_decoded_only(media_type) else None
    if found is None:
        return None
    codec, mark = found
    file.seek(mark)
    decoder = UnicodeDecoder(codec, mark)
    start = end = skip = -1
    is_empty = True
    for piece in _pieces(file, mark, status.bytes, decoder):
        if text := piece.text.lstrip():
            if start < 0:
                start, skip = piece.start, len(piece.text) - len(text)
            end = piece.end
            is_empty = is_empty and is_blank(text)
    if decoder.has_switches or not (mark or decoder.is_unicode):
        return None
    if decoder.is_binary:
        raise DocumentRejected(BINARY)
    if is_empty:
        return None
    place = SegmentStart(start, end, media_type == MARKDOWN, status, codec, skip)
    return TextScan(place, decoder.warnings)


def read_segment(
    content: OpenContent, place: SegmentStart, chunker: Chunker
) -> tuple[list[Chunk], SegmentStart | None]:
    """Return the chunks of the segment at ``place``, and where the next begins (None at the end).

    Raises SourceChanged if the file has changed, and OSError.
    """
    pieces = _pieces_at(content.file, place, chunker.segment_characters + 1)
    if content.now() != place.status:
        raise SourceChanged("the file was changed while it was read")
    text = _joined(pieces, place)
    is_end = pieces[-1].end == place.end
    if is_end:
        text = text.rstrip()
    origin = Origin(place.title, file_title=place.file_title)
    cut = chunker.first_segment(text, markdown=place.markdown, origin=origin, start=place.open)
    if is_end and cut.characters == len(text):
        return cut.chunks, None
    start, skip = _place_of(pieces, place.skip + cut.characters)
    return cut.chunks, replace(place, start=start, skip=skip, open=cut.open)


def text_at(file: BinaryIO, place: SegmentStart, characters: int) -> str:
    """Return at least so many ``characters`` of ``file`` from ``place`` on, or all that it has."""
    return _joined(_pieces_at(file, place, characters), place)


def _pieces_at(file: BinaryIO, place: SegmentStart, characters: int) -> list[_Piece]:
    pieces: list[_Piece] = []
    wanted = place.skip + characters
    file.seek(place.start)
    decoder = UnicodeDecoder(place.codec, place.start)
    for piece in _pieces(file, place.start, place.end, decoder):
        pieces.append(piece)
        wanted -= len(piece.text)
        if wanted <= 0:
            break
    return pieces


def _joined(pieces: list[_Piece], place: SegmentStart) -> str:
    return "".join(piece.text for piece in pieces)[place.skip :]


def _place_of(pieces: list[_Piece], characters: int) -> tuple[int, int]:
    """Return where the piece begins in which so many characters end, and how many are in it."""
    for piece in pieces:
        if characters < len(piece.text):
            return piece.start, characters
        characters -= len(piece.text)
    return pieces[-1].end, characters


def _pieces(file: BinaryIO, start: int, end: int, decoder: UnicodeDecoder) -> Iterator[_Piece]:
    """Yield the pieces of a file from byte ``start``, where it is, to ``end``."""
    text, read = "", start
    while block := file.read(min(BLOCK_BYTES, end - read)):
        read += len(block)
        text += decoder.decode(block, is_last=read == end)
        while (piece := first_piece(text, is_all=read == end)) is not None and piece:
            size = decoder.size_of(piece)
            yield _Piece(start, min(start + size, end), clean(piece))
            start += size
            text = text[len(piece) :]
