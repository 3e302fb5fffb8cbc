"""Parses ``multipart/form-data`` (RFC 7578) as a stream, without keeping parts."""

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote_to_bytes

from python_multipart.multipart import MultipartParser, parse_options_header


@dataclass(frozen=True)
class PartStart:
    """The start of a part, with what its headers say."""

    name: str
    file_name: str | None
    media_type: str | None


@dataclass(frozen=True)
class PartEnd:
    """The end of a part."""


Event = PartStart | bytes | PartEnd
"""Between the start and the end of a part come its bytes."""


FRAMING_BYTES: Final = 1024 * 1024
"""Most bytes of a form that are not content: boundaries, headers, and what is around the parts."""


class FormSplitter:
    """Turns a stream of bytes into events.

    All methods raise ValueError if the form is wrong; the constructor, if ``content_type`` has no
    boundary. It holds only the headers of one part: up to eight, of 4 KiB each.

    The name of a file may be sent as ``filename*`` (RFC 8187, UTF-8), which then replaces
    ``filename``: RFC 7578 forbids it in forms, but .NET sends it and mangles ``filename``.
    """

    def __init__(self, content_type: str) -> None:
        _, options = parse_options_header(content_type)
        boundary = options.get(b"boundary")
        if not boundary:
            raise ValueError("the Content-Type of the form has no boundary")
        self._events: list[Event] = []
        self._data = bytearray()
        self._headers: dict[bytes, bytes] = {}
        self._name, self._value = b"", b""
        self._ended = False
        self._framing_bytes = 0
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin_part,
                "on_header_field": self._on_header_field,
                "on_header_value": self._on_header_value,
                "on_header_end": self._end_header,
                "on_headers_finished": self._end_headers,
                "on_part_data": self._on_data,
                "on_part_end": self._end_part,
                "on_end": self._end,
            },
        )

    def feed(self, data: bytes) -> list[Event]:
        """Return the events in ``data``."""
        self._framing_bytes += len(data)  # less what turns out to be content
        try:
            self._parser.write(data)
        except ValueError as error:
            raise ValueError(f"not a form: {error}") from error
        self._flush()
        if self._framing_bytes > FRAMING_BYTES:
            raise ValueError(f"the form has more than {FRAMING_BYTES:,} bytes besides its content")
        events, self._events = self._events, []
        return events

    def end(self) -> None:
        """Call this at the end of the body. Raises ValueError if the form is incomplete."""
        if not self._ended:
            raise ValueError("not a form: it ends before its last boundary")

    def _begin_part(self) -> None:
        self._headers.clear()

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        self._headers[self._name.lower()] = self._value
        self._name, self._value = b"", b""

    def _end_headers(self) -> None:
        kind, options = _options(self._headers, b"content-disposition")
        name = options.get(b"name")
        if kind != b"form-data" or name is None:
            raise ValueError("a part has no Content-Disposition: form-data with a name")
        media_type, _ = _options(self._headers, b"content-type")
        file_name = _extended_file_name(self._headers[b"content-disposition"])
        if file_name is None:
            file_name = options.get(b"filename")
        self._events.append(
            PartStart(
                _text(name, "the name of a part"),
                None if file_name is None else _text(file_name, "a file name"),
                _text(media_type, "a media type") if media_type else None,
            )
        )

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        self._framing_bytes -= end - start
        self._data += data[start:end]  # arrives in tiny pieces where it resembles a boundary

    def _end_part(self) -> None:
        self._flush()
        self._events.append(PartEnd())

    def _flush(self) -> None:
        if self._data:
            self._events.append(bytes(self._data))
            self._data.clear()

    def _end(self) -> None:
        self._ended = True


def _options(headers: dict[bytes, bytes], name: bytes) -> tuple[bytes, dict[bytes, bytes]]:
    return parse_options_header(headers.get(name, b"").decode("latin-1"))


QUOTED: Final = re.compile(rb'"(?:\\.|[^"\\])*"')
EXTENDED: Final = re.compile(rb";\s*filename\*\s*=\s*([^\s;]*)", re.IGNORECASE)


def _extended_file_name(disposition: bytes) -> bytes | None:
    """Return the value of ``filename*``; None without one. Raises ValueError if it is not UTF-8."""
    found = EXTENDED.search(QUOTED.sub(b"", disposition))
    if found is None:
        return None
    charset, quote, rest = found[1].partition(b"'")
    _, second, value = rest.partition(b"'")
    if not quote or not second or charset.lower() != b"utf-8":
        raise ValueError("filename* of a part is not UTF-8''NAME; send the name as filename")
    return unquote_to_bytes(value)


def _text(value: bytes, what: str) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{what} is not UTF-8") from error
