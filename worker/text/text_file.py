"""Reads a large text file segment by segment, so that memory does not depend on its size.

Each reading stands by itself: any process may go on where another one ended.
"""

import codecs
import os
from pathlib import Path
from typing import BinaryIO, Final

from ingestq.core.errors import DocumentRejected, SourceChanged
from worker.text.chunker import Chunker
from worker.text.extract import BINARY, MARKDOWN, is_decoded_only, known_type, no_text
from worker.text.parts import FileStat, SegmentStart, SizedText

BLOCK_BYTES: Final = 1024 * 1024
MOST_BYTES_A_CHARACTER: Final = 4
"""Of UTF-8."""


def scan(path: Path, media_type: str | None) -> SegmentStart | None:
    """Return where the text of a file begins; None unless it is UTF-8, read segment by segment.

    Raises DocumentRejected if it holds no text, and OSError.
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
    """Return the chunks of the segment at ``place``, and the next place; None after the last.

    Raises SourceChanged if the file is not the one that it was, and OSError.
    """
    wanted = MOST_BYTES_A_CHARACTER * (chunker.segment_characters + 1)
    with path.open("rb") as file:
        file.seek(place.start)
        data = file.read(min(wanted, place.end - place.start))
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
    """Return where the text begins and ends, in bytes, without white space around it.

    None if there is no text. Raises DocumentRejected if it is binary, and UnicodeDecodeError.
    """
    decoder = codecs.getincrementaldecoder("utf-8-sig")()  # without a byte order mark
    start, end, read, binary = -1, -1, 0, False
    while block := file.read(BLOCK_BYTES):
        text = decoder.decode(block)
        read += len(block)
        binary = binary or "\0" in text
        pending, _ = decoder.getstate()  # a character that goes on in the next block
        if begun := text.lstrip():
            if start < 0:
                start = read - len(pending) - len(begun.encode())
            end = read - len(pending) - len(begun[len(begun.rstrip()) :].encode())
    decoder.decode(b"", final=True)
    if binary:
        raise DocumentRejected(BINARY)
    return None if start < 0 else (start, end)
