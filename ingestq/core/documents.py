"""Documents, deletions and sweeps, as producers observe them.

All types are frozen, hold no connection, and are validated when they are created and decoded.
"""

import hashlib
import re
from array import array
from bisect import bisect_left
from enum import StrEnum
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Struct

from ingestq.core.blobs import is_blob_name

DIGEST_BYTES: Final = 8


class SeenDocumentsBuilder:
    """Collects the ids of documents as a scan sees them, in eight bytes each."""

    def __init__(self) -> None:
        self._digests = array("Q")

    def add(self, doc_id: str) -> None:
        self._digests.append(_digest(doc_id))

    def pack(self) -> bytes:
        """Return the ids added so far, in the form that `SeenDocuments` reads."""
        packed = array("Q", sorted(self._digests))
        return packed.tobytes()


class SeenDocuments:
    """The set of ids that a `SeenDocumentsBuilder` packed. Raises ValueError if it is damaged."""

    def __init__(self, packed: bytes) -> None:
        self._digests = array("Q")
        self._digests.frombytes(packed)

    def __contains__(self, doc_id: str) -> bool:
        digest = _digest(doc_id)
        at = bisect_left(self._digests, digest)
        return at < len(self._digests) and self._digests[at] == digest


def _digest(doc_id: str) -> int:
    digest = hashlib.blake2b(doc_id.encode(), digest_size=DIGEST_BYTES).digest()
    return int.from_bytes(digest, "little")


MAX_VERSION: Final = 2**53 - 1
"""Qdrant compares numbers as 64-bit floats, which hold integers exactly up to here."""

DEFAULT_COLLECTION: Final = "documents"
"""The collection of documents for which no other one is named."""
COLLECTION_NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
"""Regular expression that collection names must match."""
_is_collection = re.compile(COLLECTION_NAME).fullmatch

INLINE_TEXT_BYTES: Final = 64 * 1024
"""Larger texts travel through the blob store, if there is one, and not in the job."""


def check_collection(name: str) -> None:
    """Raise ValueError if ``name`` is not a valid collection name."""
    if not _is_collection(name):
        raise ValueError(f"collection is {name!r}; it must match {COLLECTION_NAME}")


def _check_identity(doc_id: str, version: int, collection: str | None) -> None:
    if collection is not None:
        check_collection(collection)
    if not doc_id:
        raise ValueError("doc_id is empty")
    if not 1 <= version <= MAX_VERSION:
        raise ValueError(f"version is {version}; it must be from 1 to {MAX_VERSION}")


class Lane(StrEnum):
    """The part of the queue that a job waits in. Neither lane can hold up the other.

    ``interactive`` is for documents that somebody is waiting for, ``bulk`` for everything else.
    """

    INTERACTIVE = "interactive"
    BULK = "bulk"


class Document(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One version of a document to be indexed, as a producer observed it.

    ``doc_id`` identifies the document within its ``tenant`` and ``collection``.

    ``version`` is an integer that only grows; the newest version of a document wins. Use your own
    (a revision, a time of modification) or Redis time in microseconds (`IngestClient.now`), not
    both for one document.

    ``source`` says where the document came from (a path, a URL) and is stored with every chunk.

    ``collection`` is the public name of a collection. None means the collection of the client that
    queues the document; on the queue every document names one.

    The content is exactly one of ``text``, ``path`` (a file that the workers can read, see
    `ingestq.core.paths`) and ``blob`` (a name in the blob store, see `IngestClient.upload`).
    ``media_type`` is a hint; the content decides. ``metadata`` is stored with every chunk, so keep
    it small.

    Set by producers that read files: ``file`` names the state of the file at ``path``, and a file
    whose indexed state is the same is not read again. ``scanned`` is true if a scan of a folder
    found the document, which is then deleted when a later scan does not find it. ``hot`` is true if
    the file will be moved once its outcome is known, so that no later file can be compared with it.

    Raises ValueError if the id is empty, the version is not from 1 to 2**53 - 1, the collection's
    name is invalid, or there is not exactly one content.
    """

    doc_id: str
    version: int
    source: str
    tenant: str = ""
    text: str | None = None
    path: str | None = None
    blob: str | None = None
    media_type: str | None = None
    metadata: dict[str, Any] = {}
    file: str | None = None
    scanned: bool = False
    collection: str | None = None
    hot: bool = False

    def __post_init__(self) -> None:
        _check_identity(self.doc_id, self.version, self.collection)
        if (self.text, self.path, self.blob).count(None) != 2:
            raise ValueError("a document has exactly one of text, path and blob")
        if self.blob is not None and not is_blob_name(self.blob):
            raise ValueError("blob is not the name of a blob")


class Deletion(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The deletion of a document as of ``version`` (see `Document`).

    A newer version of the document is kept. ``collection`` is that of the client if it is None.
    Raises ValueError as `Document` does.
    """

    doc_id: str
    version: int
    tenant: str = ""
    collection: str | None = None

    def __post_init__(self) -> None:
        _check_identity(self.doc_id, self.version, self.collection)


class Sweep(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The end of a folder's scan: documents in the index that the scan did not see are deleted.

    ``doc_id`` is the id of the folder, a prefix of the ids of its documents. ``version`` is when
    the scan began. ``seen`` holds what it saw, packed by `SeenDocumentsBuilder`: documents, and
    folders that could not be read, whose documents are kept. Unless ``allow_mass_delete``, nothing
    is deleted if suspiciously much would be.
    """

    doc_id: str
    version: int
    seen: bytes
    tenant: str = ""
    allow_mass_delete: bool = False
    collection: str | None = None

    def __post_init__(self) -> None:
        _check_identity(self.doc_id, self.version, self.collection)


Item = Document | Deletion | Sweep
"""An entry of a batch."""
AnyItem = TypeVar("AnyItem", Document, Deletion, Sweep)


def with_collection(collection: str, item: AnyItem) -> AnyItem:
    """Return ``item`` with ``collection`` filled in, unless it names one itself."""
    if item.collection is not None:
        return item
    return msgspec.structs.replace(item, collection=collection)


METADATA_BYTES: Final = 64 * 1024
"""Largest metadata of a document, in bytes of JSON. It is stored again with every chunk."""

_metadata = msgspec.json.Decoder(dict[str, Any])


def decode_metadata(data: bytes | memoryview) -> dict[str, Any]:
    """Decode a JSON object to be stored as a document's metadata.

    Raises ValueError, which says what is wrong, if it is too large, not a JSON object, or cannot be
    put on the queue.
    """
    if len(data) > METADATA_BYTES:
        raise ValueError(f"larger than {METADATA_BYTES} bytes")
    try:
        metadata = _metadata.decode(data)
        # JSON has larger integers than MessagePack, and so the queue, can hold.
        msgspec.msgpack.encode(metadata)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError) as error:
        raise ValueError(str(error)) from error
    return metadata
