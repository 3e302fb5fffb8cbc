"""Reads a large text file part by part, so that memory does not depend on its size.

Each reading stands by itself: any process may go on where another one ended.
"""

import codecs
import os
from pathlib import Path
from typing import BinaryIO, Final

from ingestq.core.errors import DocumentRejected, SourceChanged
from worker.text.chunker import Chunker
from worker.text.extract import BINARY, MARKDOWN, is_decoded_only, known_type, no_text
from worker.text.parts import FileStatus, Place, SizedText

BLOCK_BYTES: Final = 1024 * 1024
MOST_BYTES_A_CHARACTER: Final = 4
"""Of UTF-8."""


def scan(path: Path, media_type: str | None) -> Place | None:
    """Where the text of a file begins, if it can be read part by part: if it is UTF-8 as it is.

    Raises DocumentRejected if it holds no text, and OSError.
    """
    with path.open("rb") as file:
        status = FileStatus.of(os.fstat(file.fileno()))
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
    return Place(*extent, media_type == MARKDOWN, "", status)


def read_part(path: Path, place: Place, chunker: Chunker) -> tuple[list[SizedText], Place | None]:
    """The chunks of the part at ``place``, and the place of the next part; None after the last.

    Raises SourceChanged if the file is not the one that it was, and OSError.
    """
    wanted = MOST_BYTES_A_CHARACTER * (chunker.part_characters + 1)
    with path.open("rb") as file:
        file.seek(place.start)
        data = file.read(min(wanted, place.end - place.start))
        if FileStatus.of(os.fstat(file.fileno())) != place.status:
            raise SourceChanged("the file was changed while it was read")
    at_end = place.start + len(data) == place.end
    text = codecs.getincrementaldecoder("utf-8")().decode(data, final=at_end)
    cut = chunker.part(text, markdown=place.markdown, fence=place.fence)
    start = place.start + len(text[: cut.characters].encode())
    if start == place.end:
        return cut.chunks, None
    return cut.chunks, Place(start, place.end, place.markdown, cut.fence, place.status)


def _extent(file: BinaryIO) -> tuple[int, int] | None:
    """Where the text without the white space around it begins and ends, in bytes; None if there is
    none. Raises DocumentRejected if it is binary, and UnicodeDecodeError."""
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
