"""The body of ``POST /documents``, and a line of ``POST /documents:batch``."""

from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Raw, Struct, field

from broker.contract import MAX_VERSION
from producers.api.collections import Collections
from producers.metadata import METADATA_BYTES, decode_metadata


class NewDocument(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A document as a caller sends it.

    There is no ``path``: it would let a caller read the server's files.
    """

    doc_id: Annotated[str, Meta(min_length=1, description="Unique within the tenant.")]
    text: str
    source: Annotated[
        str | None, Meta(description="Where it came from; by default its doc_id.")
    ] = None
    tenant: str = ""
    collection: Annotated[
        str | None, Meta(description="One of the server's; by default the first of them.")
    ] = None
    version: Annotated[
        Annotated[int, Meta(ge=1, le=MAX_VERSION)] | None,
        Meta(description="Only grows: of two versions the larger wins. By default the time."),
    ] = None
    media_type: Annotated[
        str | None, Meta(description="A hint, such as text/markdown; the content decides.")
    ] = None
    metadata: Annotated[
        Raw,
        Meta(
            description=f"Stored with every chunk; at most {METADATA_BYTES} bytes, and no integer "
            "in it has more than 64 bits.",
            extra_json_schema={"type": "object"},
        ),
    ] = field(default_factory=lambda: Raw(b"{}"))


_SCHEMA: Final[dict[str, Any]] = msgspec.json.schema_components([NewDocument])[1]["NewDocument"]


def schema(collections: Collections) -> dict[str, Any]:
    """JSON Schema of the body, for openapi.json."""
    properties = _SCHEMA["properties"]
    named = properties["collection"] | collections.schema
    return _SCHEMA | {"properties": properties | {"collection": named}}


_document = msgspec.json.Decoder(NewDocument)


def decode(body: bytes | bytearray) -> tuple[NewDocument, dict[str, Any]]:
    """Read the document and its metadata.

    Raises ValueError that names the field that is wrong.
    """
    try:
        document = _document.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"not a document: {error}") from error
    try:
        metadata = decode_metadata(memoryview(document.metadata))
    except ValueError as error:
        raise ValueError(f"metadata: {error}") from error
    return document, metadata
