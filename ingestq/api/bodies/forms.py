"""The form of ``POST /documents``: files, and fields that describe them."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

import msgspec
from fastapi import HTTPException
from msgspec import UNSET, Meta, Struct, UnsetType

from ingestq.api.bodies.documents import VERSION_DESCRIPTION
from ingestq.api.bodies.multipart import Event, PartEnd, PartStart
from ingestq.api.parameters import Collections
from ingestq.client.batching import JOB_DOCUMENTS
from ingestq.client.uploads import BlobWriter, StoredBlob, Upload
from ingestq.core.documents import MAX_VERSION
from ingestq.core.limits import METADATA_BYTES, decode_metadata
from ingestq.core.paths import guess_media_type
from ingestq.core.tokens import Principal

FILE: Final = "file"
MAX_FILES: Final = JOB_DOCUMENTS
"""The files share a job, so that all of them are queued or none."""
FIELD_BYTES: Final = METADATA_BYTES
UNKNOWN_TYPE: Final = "application/octet-stream"
"""What browsers send for a file of unknown type."""


class Fields(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The fields that describe the files; ``doc_id`` is for a single file."""

    doc_id: (
        Annotated[str, Meta(min_length=1, description="The name of the file by default.")]
        | UnsetType
    ) = UNSET
    source: (
        Annotated[str, Meta(description="Where it came from; the name of the file by default.")]
        | UnsetType
    ) = UNSET
    tenant: (
        Annotated[str, Meta(description="None by default, or that of the token.")] | UnsetType
    ) = UNSET
    collection: (
        Annotated[str, Meta(description="A collection of this server; the first one by default.")]
        | UnsetType
    ) = UNSET
    version: (
        Annotated[
            int,
            Meta(
                ge=1,
                le=MAX_VERSION,
                description=VERSION_DESCRIPTION,
            ),
        ]
        | UnsetType
    ) = UNSET
    metadata: Annotated[
        str, Meta(description=f"A JSON object of up to {METADATA_BYTES} bytes.")
    ] = "{}"


_FIELDS: Final[dict[str, Any]] = msgspec.json.schema_components([Fields])[1]["Fields"]
_FILES: Final[dict[str, Any]] = {
    "type": "array",
    "items": {"type": "string", "format": "binary"},
    "minItems": 1,
    "maxItems": MAX_FILES,
    "description": "One document each. Content-Type, name or content tell the type.",
}


def schema(collections: Collections) -> dict[str, Any]:
    """Return the JSON Schema of the form, for openapi.json."""
    properties = _FIELDS["properties"]
    named = properties["collection"] | {"enum": list(collections.names)}
    return _FIELDS | {
        "properties": properties | {"collection": named, FILE: _FILES},
        "required": [FILE],
    }


@dataclass(frozen=True)
class File:
    """A file of the form, stored in the blob store."""

    name: str | None
    media_type: str | None
    content: StoredBlob


@dataclass
class Form:
    """The files and fields of a form that were read so far."""

    files: list[File] = field(default_factory=list)
    values: dict[str, str] = field(default_factory=dict)


async def read_form(events: AsyncIterator[Event], writing: BlobWriter, max_file_bytes: int) -> Form:
    """Write the files of a form into the blob store while they arrive; return the form.

    Raises ValueError that says what is wrong, and HTTPException 413 for a file that is larger than
    ``max_file_bytes``.
    """
    form = Form()
    async for event in events:
        assert isinstance(event, PartStart), "each part was read to its end"
        if event.name == FILE:
            if len(form.files) == MAX_FILES:
                raise ValueError(f"more than {MAX_FILES} files; send the rest in another form")
            content = await writing.put(_content(events, max_file_bytes, event.file_name))
            form.files.append(File(event.file_name, _media_type(event), content))
        elif event.name in form.values or event.name not in Fields.__struct_fields__:
            known = ", ".join((FILE, *Fields.__struct_fields__))
            raise ValueError(f"the part {event.name!r} is repeated or unknown; known are {known}")
        else:
            form.values[event.name] = await _value(events, event.name)
    return form


def uploads_of(form: Form, collections: Collections, caller: Principal) -> list[Upload]:
    """Return the documents of a form of ``caller``, each for one of ``collections``.

    Raises ValueError that says what is wrong, and NotPermitted.
    """
    fields, metadata = _fields(form.values)
    collection = collections.named(None if fields.collection is UNSET else fields.collection)
    if not form.files:
        raise ValueError(f"the form has no part {FILE!r}")
    if fields.doc_id is not UNSET and len(form.files) > 1:
        raise ValueError(
            "doc_id is for a single file; without it, files are identified by their names"
        )
    tenant = caller.tenant_of(None if fields.tenant is UNSET else fields.tenant) or ""
    uploads = [_upload(file, fields, metadata, collection, tenant) for file in form.files]
    if len({upload.doc_id for upload in uploads}) < len(uploads):
        raise ValueError("two files have the same name; send them in separate requests")
    return uploads


def _upload(
    file: File, fields: Fields, metadata: dict[str, Any], collection: str, tenant: str
) -> Upload:
    doc_id = file.name if fields.doc_id is UNSET else fields.doc_id
    if not doc_id:
        raise ValueError("a file has no name; send one, or a doc_id")
    named = doc_id if file.name is None else file.name
    return Upload(
        doc_id=doc_id,
        content=file.content,
        source=named if fields.source is UNSET else fields.source,
        tenant=tenant,
        version=None if fields.version is UNSET else fields.version,
        media_type=file.media_type,
        metadata=metadata,
        collection=collection,
    )


def _fields(values: Mapping[str, str]) -> tuple[Fields, dict[str, Any]]:
    fields = msgspec.convert(values, Fields, strict=False)
    return fields, decode_metadata(fields.metadata.encode())


def _media_type(part: PartStart) -> str | None:
    if part.media_type is None or part.media_type == UNKNOWN_TYPE:
        return None if part.file_name is None else guess_media_type(part.file_name)
    return part.media_type


async def _content(
    events: AsyncIterator[Event], max_bytes: int, name: str | None
) -> AsyncIterator[bytes]:
    """Yield the bytes of the current part. Raises HTTPException 413 beyond ``max_bytes``."""
    size = 0
    async for data in _data(events):
        size += len(data)
        if size > max_bytes:
            raise HTTPException(
                413,
                f"the file {name!r} is larger than {max_bytes} bytes, the limit of this server "
                "(INGESTQ_MAX_DOCUMENT_BYTES)",
            )
        yield data


async def _value(events: AsyncIterator[Event], name: str) -> str:
    value = bytearray()
    async for data in _data(events):
        value += data
        if len(value) > FIELD_BYTES:
            raise ValueError(f"{name} is larger than {FIELD_BYTES} bytes")
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is not UTF-8") from error


async def _data(events: AsyncIterator[Event]) -> AsyncIterator[bytes]:
    async for event in events:
        if isinstance(event, PartEnd):
            return
        assert isinstance(event, bytes), "a part ends before another begins"
        yield event
