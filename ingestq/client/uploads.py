"""Uploads to the blob store. A blob is either referred to by a queued job, or deleted again."""

import hashlib
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import aiofiles
import msgspec

from ingestq.client.regular_file import regular_only
from ingestq.core.blobs import new_blob_name
from ingestq.core.documents import INLINE_TEXT_BYTES, Document
from ingestq.core.errors import UsageError
from ingestq.core.jobs import IngestBatch

if TYPE_CHECKING:
    from ingestq.broker.blobs.store import BlobStore
    from ingestq.broker.queue.job_queue import JobQueue

PLAIN_TEXT: Final = "text/plain"
READ_BYTES: Final = 256 * 1024
"""How much of an uploaded file is read into memory at once."""
DIGEST_BYTES: Final = 16


@dataclass(frozen=True)
class StoredBlob:
    """A blob that was written, and the digest of its content.

    ``version`` was issued before the content was read.
    """

    name: str
    digest: str
    version: int


@dataclass(frozen=True)
class Upload:
    """A document whose content is in the blob store; the fields are those of `Document`.

    If ``version`` is None, the document's version is the one that was issued before its content was
    read.
    """

    doc_id: str
    content: StoredBlob
    source: str
    collection: str
    tenant: str = ""
    version: int | None = None
    media_type: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def document(self) -> Document:
        """The document to be queued. Raises ValueError as `Document` does."""
        return Document(
            doc_id=self.doc_id,
            version=self.content.version if self.version is None else self.version,
            source=self.source,
            tenant=self.tenant,
            blob=self.content.name,
            media_type=self.media_type,
            metadata=self.metadata,
            collection=self.collection,
        )

    @property
    def request(self) -> tuple[object, ...]:
        """The values that are equal when the same request is sent again."""
        content = self.content.digest
        fields = (self.tenant, self.version, self.media_type, self.metadata, self.collection)
        return (self.doc_id, content, self.source, *fields)


class BlobWriter:
    """Writes blobs, and keeps track of those that no queued job can refer to.

    Methods raise BlobStoreUnavailable and BrokerUnavailable, and UsageError if the blob store is
    set up wrongly. If ``blobs`` is None, nothing can be written, and texts stay in their documents.
    """

    def __init__(self, queue: "JobQueue", blobs: "BlobStore | None") -> None:
        self._queue = queue
        self._blobs = blobs
        self._unnamed: set[str] = set()

    async def put(self, parts: AsyncIterable[bytes]) -> StoredBlob:
        """Write a blob, which is durable on return.

        Raises UsageError if there is no blob store, and whatever ``parts`` raises.
        """
        if self._blobs is None:
            raise UsageError(
                "this client has no blob store to upload content to; pass "
                "IngestClient.connect(…, blobs=…) the INGESTQ_BLOB_URL of the workers"
            )
        version = await self._queue.issue_version()
        name = new_blob_name(*await self._queue.space())
        digest = hashlib.blake2b(digest_size=DIGEST_BYTES)

        async def digested() -> AsyncIterator[bytes]:
            async for part in parts:
                digest.update(part)
                yield part

        await self._blobs.put(name, digested())
        self._unnamed.add(name)
        return StoredBlob(name, digest.hexdigest(), version)

    async def offload(self, document: Document) -> Document:
        """Return ``document`` with its text moved into the blob store if it is large."""
        if document.text is None or self._blobs is None:
            return document
        text = document.text.encode()
        if len(text) <= INLINE_TEXT_BYTES:
            return document
        blob = await self.put(_whole(text))
        return msgspec.structs.replace(
            document,
            text=None,
            blob=blob.name,
            media_type=PLAIN_TEXT if document.media_type is None else document.media_type,
        )

    async def offload_batch(self, batch: IngestBatch) -> IngestBatch:
        """Return ``batch`` with the large texts of its documents moved into the blob store."""
        documents = tuple([await self.offload(document) for document in batch.documents])
        return msgspec.structs.replace(batch, documents=documents)

    def mark_offered(self, batches: Iterable[IngestBatch]) -> None:
        """Keep the blobs of ``batches`` from now on. Call it before they are offered to the queue:
        after an error they may be on it."""
        for batch in batches:
            self._unnamed -= batch.blobs

    def mark_refused(self, batches: Iterable[IngestBatch]) -> None:
        """Have `clean` delete the blobs of ``batches``, which are certainly not on the queue."""
        for batch in batches:
            self._unnamed |= batch.blobs

    async def clean(self) -> None:
        """Delete the blobs that no queued job can refer to."""
        if self._blobs is not None and self._unnamed:
            from ingestq.broker.blobs.store import delete_blobs

            await delete_blobs(self._blobs, sorted(self._unnamed))


@asynccontextmanager
async def blob_writer(queue: "JobQueue", blobs: "BlobStore | None") -> AsyncIterator[BlobWriter]:
    """Yield a writer; delete the blobs that no queued job can refer to on leaving."""
    writer = BlobWriter(queue, blobs)
    try:
        yield writer
    finally:
        await writer.clean()


async def read_parts(path: Path) -> AsyncIterator[bytes]:
    """Yield the content of a file in parts. Raises OSError."""
    async with aiofiles.open(path, "rb", opener=regular_only) as file:
        while part := await file.read(READ_BYTES):
            yield part


async def _whole(content: bytes) -> AsyncIterator[bytes]:
    yield content
