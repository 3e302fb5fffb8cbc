"""Documents, deletions and sweeps, as producers observe them.

All types are frozen, hold no connection, and are validated when they are created and decoded, also
against the limits in `ingestq.core.limits`.
"""

import hashlib
import re
from array import array
from bisect import bisect_left
from collections.abc import Iterable
from copy import copy
from enum import StrEnum
from typing import Any, Final, NamedTuple, TypeVar

import msgspec
from msgspec import Struct

from ingestq.core.blobs import is_blob_name
from ingestq.core.limits import PATH_BYTES, check_metadata, check_text, check_texts
from ingestq.core.urls import is_url
from ingestq.core.versions import is_issued

DIGEST_BYTES: Final = 8
IN_FOLDER: Final = "/"
"""Ends the entry of a folder: a document of the same id says nothing of what is below it."""


class SeenDocumentsBuilder:
    """Collects the ids of documents as a scan sees them, in eight bytes each."""

    def __init__(self) -> None:
        self._digests = array("Q")

    def add(self, doc_id: str) -> None:
        self._digests.append(_digest(doc_id))

    def add_folder(self, folder: str) -> None:
        """Add a folder that could not be read, so that no document in it counts as missing."""
        self._digests.append(_digest(folder + IN_FOLDER))

    def pack(self) -> bytes:
        """Return the ids added so far, in the form that `SeenDocuments` reads."""
        packed = array("Q", sorted(self._digests))
        return packed.tobytes()


class SeenDocuments:
    """The set of ids that a `SeenDocumentsBuilder` packed. Raises ValueError if it is damaged."""

    def __init__(self, packed: bytes) -> None:
        self._digests = array("Q")
        self._digests.frombytes(packed)

    def may_hold(self, doc_id: str, folders: Iterable[str]) -> bool:
        """Return whether the document was added, or one of the ``folders`` that it is in."""
        return doc_id in self or any(folder + IN_FOLDER in self for folder in folders)

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
    check_text("collection", name)
    if not _is_collection(name):
        raise ValueError(f"collection is {name!r}; it must match {COLLECTION_NAME}")


def _check_identity(doc_id: str, version: int, tenant: str, collection: str | None) -> None:
    if collection is not None:
        check_collection(collection)
    check_texts(doc_id=doc_id, tenant=tenant)
    if not doc_id:
        raise ValueError("doc_id is empty")
    if not 1 <= version <= MAX_VERSION:
        raise ValueError(f"version is {version}; it must be from 1 to {MAX_VERSION}")


MAX_VOLUMES: Final = 1000
"""Most volumes that are told apart in one folder."""


class Volume(NamedTuple):
    """The file system that a file lies on.

    ``mount`` is the id of the folder where it is mounted; empty if that lies outside a folder with
    a name of its own. ``device`` is the number that the system gave the file system; it may be
    another one after the next mount.
    """

    mount: str
    device: int


class ScannedVolume(Struct, frozen=True):
    """A volume that a scan came through. It begins at ``folder``; so many ``files`` are on it."""

    folder: str
    volume: Volume
    files: int


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
    (a revision, a time of modification in s or ms; less than 10**15) or one that Redis issues
    (`IngestClient.issue_version`). Between the two, what was issued or queued later is newer.

    ``source`` says where the document came from (a path, a URL) and is stored with every chunk.

    ``collection`` is the public name of a collection. None means the collection of the client that
    queues the document; on the queue every document names one.

    The content is exactly one of ``text``, ``path`` (a file that the workers can read, see
    `ingestq.core.paths`), ``blob`` (a name in the blob store, see `IngestClient.upload`) and
    ``url`` (an object in a remote store that the workers can read, without credentials in it).
    ``media_type`` is a hint; the content decides. ``metadata`` is stored with every chunk, so keep
    it small.

    Set by the queue: ``queued`` is the version that Redis issued when a document with a version of
    the caller's own was queued; otherwise 0.

    Set by producers that read files: ``file`` names the state of the file at ``path``, or of the
    object at ``url``; one whose indexed state is the same is not read again. ``scanned`` is true if
    a scan of a folder found the document, which is then deleted when a later scan does not find it.
    ``hot`` is true if the file will be moved once its outcome is known, so that no later file can
    be compared with it. A worker reads the file only if it lies ``within`` this folder once all
    links are followed. ``volume`` is where the file lies.

    Raises ValueError if the id is empty, the version is not from 1 to 2**53 - 1, the collection's
    name is invalid, there is not exactly one content, or a field exceeds its limit: 1 KiB for ids
    and names, 64 KiB of JSON nested 32 deep for the metadata (see `ingestq.core.limits`).
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
    queued: int = 0
    within: str | None = None
    volume: Volume | None = None
    url: str | None = None

    def __post_init__(self) -> None:
        _check_identity(self.doc_id, self.version, self.tenant, self.collection)
        check_texts(source=self.source, media_type=self.media_type, file=self.file)
        if self.volume is not None:
            check_text("volume", self.volume.mount)
        if self.path is not None:
            check_text("path", self.path, PATH_BYTES)
        if self.within is not None:
            check_text("within", self.within, PATH_BYTES)
        check_metadata(self.metadata)
        if (self.text, self.path, self.blob, self.url).count(None) != 3:
            raise ValueError("a document has exactly one of text, path, blob and url")
        if self.url is not None:
            check_text("url", self.url, PATH_BYTES)
            if not is_url(self.url):
                raise ValueError("url is not the address of an object; write scheme://…")
        if self.blob is not None and not is_blob_name(self.blob):
            raise ValueError("blob is not the name of a blob")


class Deletion(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The deletion of a document as of ``version`` (see `Document`).

    A newer version of the document is kept. A version that Redis issued deletes what is there,
    together with its version: neither that nor an older one comes back. A version of the caller's
    own deletes that version and older ones. ``queued`` is set by the queue, as in `Document`.

    With ``any_form``, the id was typed by a person: if no document in the index has it, those are
    deleted whose ids differ from it only in Unicode's normal form. ``collection`` is that of the
    client if it is None. Raises ValueError as `Document` does.
    """

    doc_id: str
    version: int
    tenant: str = ""
    any_form: bool = False
    collection: str | None = None
    queued: int = 0

    def __post_init__(self) -> None:
        _check_identity(self.doc_id, self.version, self.tenant, self.collection)


class Sweep(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The end of a folder's scan: documents in the index that the scan did not see are deleted.

    ``doc_id`` is the id of the folder, a prefix of the ids of its documents. ``version`` is when
    the scan began. ``seen`` holds what it saw, packed by `SeenDocumentsBuilder`: documents, and
    folders that could not be read, whose documents are kept. ``found`` counts the documents that it
    found in this folder, and ``volumes`` are the file systems that it came through. Unless
    ``allow_mass_delete``, nothing is deleted if the folder may be away (see
    `worker.pipeline.deletion_guard`).
    """

    doc_id: str
    version: int
    seen: bytes
    found: int
    volumes: tuple[ScannedVolume, ...] = ()
    tenant: str = ""
    allow_mass_delete: bool = False
    collection: str | None = None

    def __post_init__(self) -> None:
        _check_identity(self.doc_id, self.version, self.tenant, self.collection)
        for scanned in self.volumes:
            check_texts(folder=scanned.folder, volume=scanned.volume.mount)


Item = Document | Deletion | Sweep
"""An entry of a batch."""
AnyItem = TypeVar("AnyItem", Document, Deletion, Sweep)


def queued_at(issued: int, item: AnyItem) -> AnyItem:
    """Return ``item`` with ``issued`` as the version under which it is queued, if it needs one."""
    if not needs_queued(item):
        return item
    stamped = copy(item)  # `replace` would check all other fields again
    msgspec.structs.force_setattr(stamped, "queued", issued)
    return stamped


def needs_queued(item: Item) -> bool:
    """Return whether ``item`` has a version of its own, and was not queued before."""
    return not isinstance(item, Sweep) and not is_issued(item.version) and not item.queued


def with_collection(collection: str, item: AnyItem) -> AnyItem:
    """Return ``item`` with ``collection`` filled in, unless it names one itself."""
    if item.collection is not None:
        return item
    check_collection(collection)
    named = copy(item)  # `replace` would check all other fields again
    msgspec.structs.force_setattr(named, "collection", collection)
    return named
