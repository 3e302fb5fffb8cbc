"""Documents, deletions and sweeps, as producers observe them.

All types are frozen, hold no connection, and are validated when they are made and when they are
decoded.
"""

import hashlib
import re
from array import array
from bisect import bisect_left
from enum import StrEnum
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Struct

from ingestq.core.blobs import is_name

DIGEST_BYTES: Final = 8


class SeenDocumentsBuilder:
    """Collects the ids of documents as they are seen."""

    def __init__(self) -> None:
        self._digests = array("Q")

    def add(self, doc_id: str) -> None:
        self._digests.append(_digest(doc_id))

    def pack(self) -> bytes:
        """The documents seen so far, as `SeenDocuments` reads them."""
        packed = array("Q", sorted(self._digests))
        return packed.tobytes()


class SeenDocuments:
    """What `SeenDocumentsBuilder` packed. Raises ValueError if it is damaged."""

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
"""The collection of documents that nobody names another one for."""
COLLECTION_NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
"""What collections may be called."""
_is_collection = re.compile(COLLECTION_NAME).fullmatch

INLINE_TEXT_BYTES: Final = 64 * 1024
"""Text up to this size travels in the job; a larger one by its path, or through the blob store."""


def check_collection(name: str) -> None:
    """Raise ValueError if no collection may have this ``name``."""
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
    """Which of two lines a job stands in: neither can hold up the other.

    ``interactive`` is for documents that somebody waits for, ``bulk`` for everything else.
    """

    INTERACTIVE = "interactive"
    BULK = "bulk"


class Document(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One document as a producer observed it.

    ``doc_id`` is unique within ``tenant``, and that within ``collection``, the public name of a
    collection. None stands for the collection of the client that queues the document: on the queue
    every document names one. ``version`` is an integer that only grows for one document: the
    caller's own, or Redis time in microseconds when the document was observed. ``source`` says
    where the document came from (a path, a URL). The content is either ``text``, or ``path``, a
    file that the worker can read (see ``ingestq.core.paths``), or ``blob``, an blob (see
    ``ingestq.broker.blobs``). ``media_type`` is a hint; the content decides. ``metadata`` is stored
    with every chunk. ``file`` names the state of the file at ``path``: while it is the one that is
    indexed, the file need not be read. ``scanned`` says that it was found in the file system: it is
    gone when a later scan of a folder it lies in does not find it. ``hot`` says that the file at
    ``path`` is taken away once it is known what became of it: later there is none to compare with.
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
            raise ValueError("a document has either text, or path, or spooled")
        if self.blob is not None and not is_name(self.blob):
            raise ValueError("spooled is not the name of an object")


class Deletion(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A document that is gone, as of ``version`` (see `Document`)."""

    doc_id: str
    version: int
    tenant: str = ""
    collection: str | None = None

    def __post_init__(self) -> None:
        _check_identity(self.doc_id, self.version, self.collection)


class Sweep(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A folder that was scanned: what the index has of it and the scan did not find is gone.

    ``doc_id`` is the id of the folder, which those of its documents begin with. ``version`` is when
    the scan began, ``seen`` what it saw (see `ingestq.core.documents`), be it documents or folders
    that could not be read: of what lies in those nothing is known. Unless ``allow_mass_delete``
    nothing is removed if suspiciously much would be.
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
"""What a batch holds."""
AnyItem = TypeVar("AnyItem", Document, Deletion, Sweep)


def meant_for(collection: str, item: AnyItem) -> AnyItem:
    """Return ``item``, for ``collection`` unless it names one itself."""
    if item.collection is not None:
        return item
    return msgspec.structs.replace(item, collection=collection)


METADATA_BYTES: Final = 64 * 1024
"""Metadata is stored with every chunk, so a little more of it becomes a lot."""

_metadata = msgspec.json.Decoder(dict[str, Any])


def decode_metadata(data: bytes | memoryview) -> dict[str, Any]:
    """Read a JSON object that can be stored with a document.

    Raises ValueError that says what is wrong with it.
    """
    if len(data) > METADATA_BYTES:
        raise ValueError(f"larger than {METADATA_BYTES} bytes")
    try:
        metadata = _metadata.decode(data)
        # JSON knows integers that MessagePack, and so the queue, does not.
        msgspec.msgpack.encode(metadata)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError) as error:
        raise ValueError(str(error)) from error
    return metadata
