"""Documents as JSON Lines: one object a line, with the fields of `DocumentLine`."""

from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

from ingestq.core.documents import Document
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


_decoder = msgspec.json.Decoder(DocumentLine)
NOT_A_DOCUMENT: Final = (msgspec.DecodeError, ValueError, OverflowError, RecursionError)
"""Exceptions of decoding a line, and of `to_document`, for a value that is not a valid document."""


async def parse(
    lines: AsyncIterable[bytes], clock: Callable[[], Awaitable[int]]
) -> AsyncGenerator[Document | FailedDocument, None]:
    """Yield the document of every line that is not blank; an invalid line is reported by its
    number."""
    number = 0
    async for raw in lines:
        number += 1
        if not raw.strip():
            continue
        try:
            yield await to_document(_decoder.decode(raw), clock)
        except NOT_A_DOCUMENT as error:
            yield FailedDocument(f"line {number}", f"not a document: {error}")


async def to_document(line: DocumentLine, clock: Callable[[], Awaitable[int]]) -> Document:
    """Return the document of a line. Raises one of NOT_A_DOCUMENT if it is invalid."""
    msgspec.msgpack.encode(line.metadata)  # raises for what JSON can express and the queue cannot
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
    """Return ``path`` as an absolute one, because workers may run in another folder."""
    return Path.cwd() / path
