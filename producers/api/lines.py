"""A body of lines, taken apart as it comes."""


class LineSplitter:
    """Bytes in, lines out, however the bytes were cut; None is a line beyond ``max_bytes``.

    What it holds is the line that has not ended yet, and of one that is too long nothing.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._line = bytearray()
        self._too_long = False

    @property
    def held_bytes(self) -> int:
        return len(self._line)

    def feed(self, part: bytes) -> list[bytes | None]:
        """The lines that end in ``part``."""
        *ends, start = part.split(b"\n")
        lines = []
        for end in ends:
            self._append(end)
            lines.append(self._take())
        self._append(start)
        return lines

    def end(self) -> list[bytes | None]:
        """The line that the body ends with, if there is one."""
        return [self._take()] if self._line or self._too_long else []

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
