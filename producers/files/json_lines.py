"""Documents as JSON Lines: one object a line, with the fields of `DocumentLine`."""

from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec
from msgspec import Struct

from ingestq.core.documents import Document
from ingestq.core.json_errors import json_reason
from ingestq.core.lines import LINE_TOO_LONG, LineSplitter
from ingestq.core.paths import path_to_text
from ingestq.core.results import FailedDocument


class DocumentLine(Struct, frozen=True, forbid_unknown_fields=True):
    """A document as users write it, with either ``text`` or ``path``.

    ``source`` defaults to the document's id, ``version`` to the time of Redis in microseconds, and
    ``collection`` to that of the command.
    """

    doc_id: str
    text: str | None = None
    path: str | None = None
    source: str | None = None
    collection: str | None = None
    tenant: str = ""
    version: int | None = None
    media_type: str | None = None
    metadata: dict[str, Any] = {}


READ_BYTES: Final = 256 * 1024
"""How much of a file is read at once."""
_decoder = msgspec.json.Decoder(DocumentLine)
NOT_A_DOCUMENT: Final = (msgspec.DecodeError, ValueError, OverflowError, RecursionError)
"""Exceptions of decoding a line, and of `to_document`, for a value that is not a valid document."""


class BytesReader(Protocol):
    """A file or pipe: returns what can be read, up to so many bytes; empty at its end."""

    async def read1(self, size: int, /) -> bytes: ...


async def read_lines(file: BytesReader, max_bytes: int) -> AsyncGenerator[bytes | None, None]:
    """Yield the lines of ``file``; None for one of more than ``max_bytes``, which is not kept."""
    splitter = LineSplitter(max_bytes)
    while part := await file.read1(READ_BYTES):
        for line in splitter.feed(part):
            yield line
    for line in splitter.end():
        yield line


async def parse(
    lines: AsyncIterable[bytes | None], clock: Callable[[], Awaitable[int]]
) -> AsyncGenerator[Document | FailedDocument, None]:
    """Yield the document of every line that is not blank.

    An invalid line is reported by its number, and so is None, a line that was too long.
    """
    number = 0
    async for raw in lines:
        number += 1
        if raw is None:
            yield FailedDocument(f"line {number}", LINE_TOO_LONG)
            continue
        if not raw.strip():
            continue
        try:
            yield await to_document(_decoder.decode(raw), clock)
        except NOT_A_DOCUMENT as error:
            yield FailedDocument(f"line {number}", f"not a document: {json_reason(error, raw)}")


async def to_document(line: DocumentLine, clock: Callable[[], Awaitable[int]]) -> Document:
    """Return the document of a line. Raises one of NOT_A_DOCUMENT if it is invalid."""
    return Document(
        doc_id=line.doc_id,
        version=await clock() if line.version is None else line.version,
        source=line.doc_id if line.source is None else line.source,
        collection=line.collection,
        tenant=line.tenant,
        text=line.text,
        path=None if line.path is None else path_to_text(_absolute(line.path)),
        media_type=line.media_type,
        metadata=line.metadata,
    )


def _absolute(path: str) -> Path:
    """Return ``path`` as an absolute one, because workers may run in another folder.

    Raises ValueError if it names nothing.
    """
    if not path.strip() or "\0" in path:
        raise ValueError(f"path is {path!r}, which names no file")
    return Path.cwd() / path
