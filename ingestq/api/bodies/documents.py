"""The body of ``POST /documents``, and the lines of ``POST /documents:batch``."""

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Raw, Struct

from ingestq.api.parameters import Collections
from ingestq.api.schemas import RejectedLine
from ingestq.core.documents import MAX_VERSION, Document
from ingestq.core.errors import NotPermitted
from ingestq.core.json_encoding import to_utf_8
from ingestq.core.json_errors import json_reason
from ingestq.core.limits import METADATA_BYTES, METADATA_DEPTH, decode_metadata
from ingestq.core.lines import LINE_TOO_LONG
from ingestq.core.tokens import Principal
from ingestq.core.versions import FIRST_ISSUED, is_issued

VERSION_DESCRIPTION: Final = (
    "Of two versions, the larger wins. The time by default. Your own are below "
    f"{FIRST_ISSUED}; larger ones must have been issued by this server."
)


class NewDocument(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A document as a client sends it.

    There is no ``path``: clients could read the server's files with it.
    """

    doc_id: Annotated[str, Meta(min_length=1, description="Unique within the tenant.")]
    text: str
    source: Annotated[
        str | None, Meta(description="Where it came from; its doc_id by default.")
    ] = None
    tenant: Annotated[str | None, Meta(description="None by default, or that of the token.")] = None
    collection: Annotated[
        str | None, Meta(description="A collection of this server; the first one by default.")
    ] = None
    version: Annotated[
        Annotated[int, Meta(ge=1, le=MAX_VERSION)] | None,
        Meta(description=VERSION_DESCRIPTION),
    ] = None
    media_type: Annotated[
        str | None, Meta(description="A hint, such as text/markdown; the content decides.")
    ] = None
    metadata: Annotated[
        Raw,
        Meta(
            description=f"Stored with every chunk; at most {METADATA_BYTES} bytes, nested at most "
            f"{METADATA_DEPTH} deep, with no integer above 64 bits.",
            extra_json_schema={"type": "object"},
        ),
    ] = msgspec.field(default_factory=lambda: Raw(b"{}"))


_SCHEMA: Final[dict[str, Any]] = msgspec.json.schema_components([NewDocument])[1]["NewDocument"]


def schema(collections: Collections) -> dict[str, Any]:
    """Return the JSON Schema of the body, for openapi.json."""
    properties = _SCHEMA["properties"]
    named = properties["collection"] | collections.schema
    return _SCHEMA | {"properties": properties | {"collection": named}}


_document = msgspec.json.Decoder(NewDocument)


def decode(body: bytes | bytearray) -> tuple[NewDocument, dict[str, Any]]:
    """Return the document and its metadata. Raises ValueError that names the wrong field."""
    body = to_utf_8(body)
    try:
        document = _document.decode(body)
    except RecursionError as error:
        raise ValueError(f"not a document: nested more than {METADATA_DEPTH} deep") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"not a document: {json_reason(error, body)}") from error
    return document, decode_metadata(memoryview(document.metadata))


LISTED_LINES: Final = 1000
"""Maximum number of rejected lines that are listed; all are counted."""


@dataclass
class Rejections:
    """The lines that are not documents."""

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
    caller: Principal,
) -> AsyncIterator[Document]:
    """Yield a document for every line that is not blank; add invalid lines to ``rejections``.

    A line for another tenant or collection than ``caller`` may use is invalid. A line that is None
    was too long. ``clock`` is called once for each group of lines. Versions grow from line to line,
    so of two lines with the same document the second wins.
    """
    number = version = 0
    async for lines in groups:
        version = max(version, await clock())
        for line in lines:
            number += 1
            version += 1
            try:
                if line is None or line.strip():
                    yield _line(line, version, collections, caller)
            except (ValueError, NotPermitted) as error:
                rejections.add(number, str(error))


def check_version(sent: int | None, issued: int) -> None:
    """Raise ValueError if ``sent`` is on the scale of issued versions, and newer than ``issued``.

    All versions that are issued later are larger than any that is queued: one in the far future
    would leave none, for all tenants.
    """
    if sent is not None and is_issued(sent) and sent > issued:
        raise ValueError(
            f"version: {sent} is larger than any version that was issued; send one of your own, "
            f"below {FIRST_ISSUED}, or leave it out"
        )


def _line(
    line: bytes | None, version: int, collections: Collections, caller: Principal
) -> Document:
    if line is None:
        raise ValueError(LINE_TOO_LONG)
    sent, metadata = decode(line)
    check_version(sent.version, version)
    return Document(
        doc_id=sent.doc_id,
        version=version if sent.version is None else sent.version,
        source=sent.doc_id if sent.source is None else sent.source,
        tenant=caller.tenant_of(sent.tenant) or "",
        collection=collections.named(sent.collection),
        text=sent.text,
        media_type=sent.media_type,
        metadata=metadata,
    )
