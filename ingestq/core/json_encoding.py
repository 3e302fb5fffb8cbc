"""Reads JSON in whichever Unicode encoding its first bytes show, with a byte order mark or without.

Programs on Windows write UTF-16, or UTF-8 with a mark. JSON begins with ASCII, so the zeros among
its first four bytes tell the encoding.
"""

import codecs
import json
from typing import Final

UTF_8: Final = "utf-8"
UTF_8_WITH_MARK: Final = "utf-8-sig"
HEAD_BYTES: Final = 4
"""Enough to tell the encoding."""
INVALID: Final = "ingestq.json_encoding.invalid"
"""Name of the error handler that keeps what is not valid invalid, so that its line is refused."""

codecs.register_error(INVALID, lambda error: ("\udcff", getattr(error, "end", 0)))


def to_utf_8(data: bytes | bytearray) -> bytes | bytearray:
    """Return the JSON text ``data`` in UTF-8, without a byte order mark.

    Raises ValueError if it is not valid in the encoding that its first bytes show.
    """
    encoding = json.detect_encoding(data)
    if encoding == UTF_8:
        return data
    if encoding == UTF_8_WITH_MARK:
        return data[len(codecs.BOM_UTF8) :]
    try:
        return data.decode(encoding).encode()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"it begins as {encoding.upper()} does, but byte {error.start:,} is not valid in that: "
            f"{error.reason}; send UTF-8"
        ) from error


class Utf8Stream:
    """Turns a stream of JSON text into UTF-8, without a byte order mark.

    What is not valid in the encoding of the stream is not valid UTF-8 either.
    """

    def __init__(self) -> None:
        self._head = b""
        self._decoder: codecs.IncrementalDecoder | None = None
        self._started = False

    def feed(self, part: bytes) -> bytes:
        """Return the next of the stream, as far as ``part`` completes it."""
        if not self._started:
            self._head += part
            if len(self._head) < HEAD_BYTES:
                return b""
            part = self._start()
        if self._decoder is None:
            return part
        return self._decoder.decode(part).encode(errors="surrogatepass")

    def end(self) -> bytes:
        """Return the rest of the stream."""
        rest = b"" if self._started else self._start()
        if self._decoder is None:
            return rest
        return self._decoder.decode(rest, final=True).encode(errors="surrogatepass")

    def _start(self) -> bytes:
        """Find out the encoding; return the bytes held back until then, without a UTF-8 mark."""
        self._started = True
        head, self._head = self._head, b""
        encoding = json.detect_encoding(head)
        if encoding in (UTF_8, UTF_8_WITH_MARK):
            return head.removeprefix(codecs.BOM_UTF8)
        self._decoder = codecs.getincrementaldecoder(encoding)(INVALID)
        return head
