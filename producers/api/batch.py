"""The documents of ``POST /documents:batch``: one a line."""

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from broker.contract import Document
from producers.api.answers import RejectedLine
from producers.api.collections import Collections
from producers.api.new_document import decode

LISTED_LINES: Final = 1000
"""Rejected lines that are listed; all of them are counted."""


@dataclass
class Rejections:
    """The lines that are no documents."""

    total: int = 0
    listed: list[RejectedLine] = field(default_factory=list)

    def add(self, line: int, reason: str) -> None:
        self.total += 1
        if len(self.listed) < LISTED_LINES:
            self.listed.append(RejectedLine(line=line, reason=reason))


async def parse(
    groups: AsyncIterable[Sequence[bytes | None]],
    clock: Callable[[], Awaitable[int]],
    rejections: Rejections,
    collections: Collections,
) -> AsyncIterator[Document]:
    """Make a document of every line that is not blank; ``rejections`` is told of the others.

    ``clock`` is asked once for the lines that came together. Each has a later version than the one
    before, so that of two lines about one document the second wins.
    """
    number = version = 0
    async for lines in groups:
        version = max(version, await clock())
        for line in lines:
            number += 1
            version += 1
            try:
                if line is None or line.strip():
                    yield _document(line, version, collections)
            except ValueError as error:
                rejections.add(number, str(error))


def _document(line: bytes | None, version: int, collections: Collections) -> Document:
    if line is None:
        raise ValueError("the line is larger than a document may be (INGESTQ_MAX_DOCUMENT_BYTES)")
    sent, metadata = decode(line)
    return Document(
        doc_id=sent.doc_id,
        version=version if sent.version is None else sent.version,
        source=sent.doc_id if sent.source is None else sent.source,
        tenant=sent.tenant,
        collection=collections.named(sent.collection),
        text=sent.text,
        media_type=sent.media_type,
        metadata=metadata,
    )
