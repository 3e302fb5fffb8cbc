"""Splits a stream of JSON Lines into lines of bounded length."""

from typing import Final

from ingestq.core.json_encoding import Utf8Stream

LINE_TOO_LONG: Final = "the line is longer than INGESTQ_MAX_DOCUMENT_BYTES allows"


class LineSplitter:
    """Splits a stream of JSON into lines in UTF-8; one longer than ``max_bytes`` becomes None.

    The stream may be in any Unicode encoding, and begin with a byte order mark. The splitter holds
    the line that has not ended yet, and nothing of one that is too long.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._stream = Utf8Stream()
        self._line = bytearray()
        self._too_long = False

    @property
    def held_bytes(self) -> int:
        return len(self._line)

    def feed(self, part: bytes) -> list[bytes | None]:
        """Return the lines that end in ``part``."""
        return self._split(self._stream.feed(part))

    def end(self) -> list[bytes | None]:
        """Return the last line of the body, if it has no line break."""
        lines = self._split(self._stream.end())
        return [*lines, self._take()] if self._line or self._too_long else lines

    def _split(self, part: bytes) -> list[bytes | None]:
        *ends, start = part.split(b"\n")
        lines: list[bytes | None] = []
        for end in ends:
            self._append(end)
            lines.append(self._take())
        self._append(start)
        return lines

    def _append(self, piece: bytes) -> None:
        if self._too_long or len(self._line) + len(piece) > self._max_bytes:
            self._too_long = True
            self._line.clear()
        else:
            self._line += piece

    def _take(self) -> bytes | None:
        line = None if self._too_long else bytes(self._line)
        self._line.clear()
        self._too_long = False
        return line
