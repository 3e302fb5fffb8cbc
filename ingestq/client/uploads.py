"""Content on its way into the blob store: in the end a job names it, or it is removed again."""

import hashlib
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import aiofiles
import msgspec

from ingestq.core.blobs import new_blob_name
from ingestq.core.documents import INLINE_TEXT_BYTES, Document
from ingestq.core.errors import UsageError
from ingestq.core.jobs import IngestBatch

if TYPE_CHECKING:
    from ingestq.broker.blobs.store import BlobStore
    from ingestq.broker.queue.job_queue import JobQueue

PLAIN_TEXT: Final = "text/plain"
READ_BYTES: Final = 256 * 1024
"""Of a file that is uploaded, so much is in memory."""
DIGEST_BYTES: Final = 16


@dataclass(frozen=True)
class StoredBlob:
    """An object that was written, and the digest of its content.

    ``begun`` is Redis time in microseconds from before the content was read.
    """

    name: str
    digest: str
    begun: int


@dataclass(frozen=True)
class Upload:
    """A document whose content is in the blob store; the fields are those of `Document`.

    Without a ``version`` it is the time from before the content was read.
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
        """What is queued. Raises ValueError as `Document` does."""
        return Document(
            doc_id=self.doc_id,
            version=self.content.begun if self.version is None else self.version,
            source=self.source,
            tenant=self.tenant,
            blob=self.content.name,
            media_type=self.media_type,
            metadata=self.metadata,
            collection=self.collection,
        )

    @property
    def asked(self) -> tuple[object, ...]:
        """What is the same when the same is sent again."""
        content = self.content.digest
        about = (self.tenant, self.version, self.media_type, self.metadata, self.collection)
        return (self.doc_id, content, self.source, *about)


class BlobWriter:
    """Writes objects, and remembers which of them no job can name.

    Raises SpoolUnavailable and BrokerUnavailable, and UsageError if it is set up wrongly. Without a
    ``blobs`` nothing can be written, and texts travel as they are.
    """

    def __init__(self, queue: "JobQueue", blobs: "BlobStore | None") -> None:
        self._queue = queue
        self._blobs = blobs
        self._unnamed: set[str] = set()

    async def put(self, parts: AsyncIterable[bytes]) -> StoredBlob:
        """Write an object; durable on return. Raises what ``parts`` raises, too."""
        if self._blobs is None:
            raise UsageError("content can only be uploaded by a client that was given a blob store")
        space, begun = await self._queue.space()
        name = new_blob_name(space, begun)
        digest = hashlib.blake2b(digest_size=DIGEST_BYTES)

        async def digested() -> AsyncIterator[bytes]:
            async for part in parts:
                digest.update(part)
                yield part

        await self._blobs.put(name, digested())
        self._unnamed.add(name)
        return StoredBlob(name, digest.hexdigest(), begun)

    async def offload(self, document: Document) -> Document:
        """``document`` as it is to travel: a large text goes into the blob store."""
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
        """The same for all documents of ``batch``."""
        documents = tuple([await self.offload(document) for document in batch.documents])
        return msgspec.structs.replace(batch, documents=documents)

    def offered(self, batches: Iterable[IngestBatch]) -> None:
        """To be called before ``batches`` are offered: from now on jobs may name their objects,
        whatever error comes."""
        for batch in batches:
            self._unnamed -= batch.blobs

    def refused(self, batches: Iterable[IngestBatch]) -> None:
        """To be called if it is certain that ``batches`` are not on the queue."""
        for batch in batches:
            self._unnamed |= batch.blobs

    async def clean(self) -> None:
        """Remove what no job can name."""
        if self._blobs is not None and self._unnamed:
            from ingestq.broker.blobs.store import delete_blobs as discard

            await discard(self._blobs, sorted(self._unnamed))


@asynccontextmanager
async def blob_writer(queue: "JobQueue", blobs: "BlobStore | None") -> AsyncIterator[BlobWriter]:
    """Write objects inside; those that no job can name are removed on leaving."""
    writing = BlobWriter(queue, blobs)
    try:
        yield writing
    finally:
        await writing.clean()


async def read_parts(path: Path) -> AsyncIterator[bytes]:
    """The content of a file. Raises OSError."""
    async with aiofiles.open(path, "rb") as file:
        while part := await file.read(READ_BYTES):
            yield part


async def _whole(content: bytes) -> AsyncIterator[bytes]:
    yield content
