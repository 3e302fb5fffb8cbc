"""The library entry point for a service of your own: put documents on the queue.

    async with IngestClient.connect("redis://localhost:6379/0") as client:
        receipt = await client.submit("invoice-17", text="…", source="erp")
        status = await client.wait(receipt.submission, timeout=60)

Everything awaits, in the loop that runs already: nothing here starts one, loads a model, a parser
or the vector store, or blocks. Redis is loaded when a connection is made.
"""

import asyncio
import hashlib
import uuid
from collections import Counter
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import msgspec

from ingestq.client.batching import (
    JOB_DOCUMENTS,
    ROUND_TRIP_JOBS,
    Packing,
    as_async_iterator,
    deletion_batches,
    in_groups,
    round_trips,
)
from ingestq.client.uploads import BlobWriter, Upload, blob_writer, read_parts
from ingestq.core.documents import (
    DEFAULT_COLLECTION,
    Deletion,
    Document,
    Lane,
    Sweep,
    check_collection,
    with_collection,
)
from ingestq.core.errors import DocumentRejected, KeyReused, QueueFull, UploadExpired
from ingestq.core.jobs import FULL_RETRY_SECONDS, DeleteBatch, IngestBatch, SweepBatch
from ingestq.core.paths import guess_media_type
from ingestq.core.results import EnqueueResult, FailedDocument, Receipt, SubmissionStatus

if TYPE_CHECKING:
    from ingestq.broker.blobs.store import BlobStore
    from ingestq.broker.connection import BrokerConfig
    from ingestq.broker.queue.job_queue import JobQueue


def new_submission() -> str:
    """An id under which documents are followed together."""
    return uuid.uuid4().hex


class IngestClient:
    """Puts documents on the queue of workers that run elsewhere, and says what became of them.

    Documents that name no collection are for ``collection``. Every method raises BrokerUnavailable
    if Redis cannot be used, and UsageError if it refuses the credentials. What a receipt counts is
    on the queue; after an error the outcome is unknown, and sending the same again is safe. Tasks
    may share a client. Raises ValueError if no collection may be called ``collection``.
    """

    def __init__(
        self,
        queue: "JobQueue",
        blobs: "BlobStore | None" = None,
        collection: str = DEFAULT_COLLECTION,
    ) -> None:
        check_collection(collection)
        self.queue = queue
        self.collection = collection
        self._blobs = blobs

    @classmethod
    @asynccontextmanager
    async def connect(
        cls,
        broker: "str | BrokerConfig",
        *,
        blobs: str | None = None,
        collection: str = DEFAULT_COLLECTION,
    ) -> AsyncIterator[Self]:
        """A client of the Redis at a URL, or of a broker with bounds other than the defaults.

        ``blobs`` is the folder or the URL where workers look for large content (their
        INGESTQ_BLOB_URL). Without it a text travels through Redis, however large, and nothing can
        be uploaded.

        The connection has been seen to work, and is closed on leaving. Raises BrokerUnavailable if
        Redis does not answer, UsageError if a URL is not one of Redis or of a blob store, or the
        credentials are refused.
        """
        # On a thread, as importing takes longer than anybody on the event loop should wait.
        for module in ("ingestq.broker.queue.job_queue", "ingestq.broker.blobs.store"):
            await asyncio.to_thread(import_module, module)
        from ingestq.broker.blobs import open_blob_store
        from ingestq.broker.connection import BrokerConfig, connected
        from ingestq.broker.queue.job_queue import JobQueue

        config = BrokerConfig(broker) if isinstance(broker, str) else broker
        place = None if blobs is None else open_blob_store(blobs)
        async with connected(config) as redis:
            yield cls(JobQueue(redis, config), place, collection)

    def for_collection(self, collection: str) -> "IngestClient":
        """The same for documents that are meant for another collection, unless they name one."""
        return IngestClient(self.queue, self._blobs, collection)

    async def now(self) -> int:
        """Redis time in microseconds: the version of documents that are read from now on.

        Ask before you read them, so that a change made meanwhile counts as newer.
        """
        return await self.queue.now()

    async def submit(
        self,
        doc_id: str,
        *,
        source: str,
        text: str | None = None,
        path: str | None = None,
        version: int | None = None,
        tenant: str = "",
        media_type: str | None = None,
        metadata: dict[str, Any] | None = None,
        lane: Lane = Lane.INTERACTIVE,
        idempotency_key: str | None = None,
        collection: str | None = None,
    ) -> Receipt:
        """Put one document on the queue, or raise QueueFull at once.

        ``version`` defaults to the time of Redis. A ``text`` of more than INLINE_TEXT_BYTES goes
        into the blob store, if there is one. Somebody waits for the document, unless ``lane`` says
        that it is bulk work. Raises ValueError unless there is either a ``text`` or a ``path`` that
        the workers can read.

        The same call with the same ``idempotency_key`` within a day gives the same receipt and
        queues nothing new; another one with that key raises KeyReused.
        """
        collection = self.collection if collection is None else collection
        about = (version, tenant, media_type, metadata, lane, collection)
        asked = (doc_id, source, text, path, *about)
        document = Document(
            doc_id=doc_id,
            version=await self.now() if version is None else version,
            source=source,
            tenant=tenant,
            text=text,
            path=path,
            media_type=media_type,
            metadata={} if metadata is None else metadata,
            collection=collection,
        )
        async with self.blob_writer() as writing:
            batch = IngestBatch(new_submission(), (await writing.offload(document),), lane)
            return await self._offer(batch, writing, asked, idempotency_key)

    async def upload(
        self,
        doc_id: str,
        content: Path | AsyncIterable[bytes],
        *,
        source: str,
        version: int | None = None,
        tenant: str = "",
        media_type: str | None = None,
        metadata: dict[str, Any] | None = None,
        lane: Lane = Lane.INTERACTIVE,
        idempotency_key: str | None = None,
        collection: str | None = None,
    ) -> Receipt:
        """Write the bytes of one document into the blob store and put it on the queue, as `submit`.

        ``content`` is a file of this machine, or whatever yields bytes: it is never held in memory.
        Raises SpoolUnavailable, UsageError if the client has no blob store, and what ``content``
        raises.
        """
        if isinstance(content, Path):
            media_type = guess_media_type(content.name) if media_type is None else media_type
            content = read_parts(content)
        async with self.blob_writer() as writing:
            upload = Upload(
                doc_id=doc_id,
                content=await writing.put(content),
                source=source,
                collection=self.collection if collection is None else collection,
                tenant=tenant,
                version=version,
                media_type=media_type,
                metadata={} if metadata is None else metadata,
            )
            return await self.submit_uploads(
                [upload], writing, lane=lane, idempotency_key=idempotency_key
            )

    def blob_writer(self) -> AbstractAsyncContextManager[BlobWriter]:
        """What writes content into the blob store; what is not on the queue on leaving is
        removed."""
        return blob_writer(self.queue, self._blobs)

    async def submit_uploads(
        self,
        uploads: Sequence[Upload],
        writing: BlobWriter,
        *,
        lane: Lane = Lane.INTERACTIVE,
        idempotency_key: str | None = None,
    ) -> Receipt:
        """Put documents whose content was written by ``writing`` on the queue, all or none.

        They share a job: they have to be of one collection and tenant, and not more than
        JOB_DOCUMENTS. Raises as `submit` does.
        """
        if not 1 <= len(uploads) <= JOB_DOCUMENTS:
            raise ValueError(f"{len(uploads)} documents; from 1 to {JOB_DOCUMENTS} share a job")
        documents = tuple(upload.document for upload in uploads)
        batch = IngestBatch(new_submission(), documents, lane)
        asked = (lane, *(upload.asked for upload in uploads))
        return await self._offer(batch, writing, asked, idempotency_key)

    async def _offer(
        self, batch: IngestBatch, writing: BlobWriter, asked: tuple[object, ...], key: str | None
    ) -> Receipt:
        """Put one job on the queue, or raise QueueFull."""
        submission = batch.submission
        writing.offered([batch])
        try:
            if key is None:
                [answer] = await self.queue.offer([batch])
            else:
                answer, submission = await self.queue.offer_once(
                    batch, key=key, digest=_digest(asked)
                )
        except (KeyReused, UploadExpired):
            writing.refused([batch])
            raise
        if answer is EnqueueResult.FULL or submission != batch.submission:
            writing.refused([batch])
        if answer is EnqueueResult.FULL:
            raise QueueFull(FULL_RETRY_SECONDS)
        # A duplicate is our own job, of which the first answer was lost, or the key's.
        return Receipt(submission, accepted=len(batch.documents), duplicates=0)

    async def submit_many(
        self,
        documents: AsyncIterable[Document | FailedDocument] | Iterable[Document | FailedDocument],
        *,
        submission: str | None = None,
        on_failed: Callable[[FailedDocument], None] | None = None,
        lane: Lane = Lane.BULK,
        patience: float | None = None,
    ) -> Receipt:
        """Put many documents on the queue, in shared jobs; reads no further while it is full.

        What is held meanwhile is bounded, however many they are. With ``patience`` it raises
        QueueFull when it has waited so many seconds for room. ``submission`` is a new one unless it
        is given: see `new_submission`.

        ``on_failed`` is told of documents that could not be read, and of those that cannot be
        encoded, with a lone surrogate in their text, or what MessagePack has no word for. Without
        it the first of them raises DocumentRejected. Either error leaves on the queue what was
        put there before.
        """
        submission = new_submission() if submission is None else submission
        on_failed = _refuse if on_failed is None else on_failed
        packing = Packing(submission, lane, on_failed, self.collection)
        counts: Counter[EnqueueResult] = Counter()
        async with (
            aclosing(as_async_iterator(documents)) as each,
            aclosing(round_trips(each, packing)) as trips,
        ):
            async for batches in trips:
                answers = await self._enqueue(batches, patience)
                for batch, answer in zip(batches, answers, strict=True):
                    counts[answer] += len(batch.documents)
        return _receipt(submission, counts)

    async def _enqueue(
        self, batches: Sequence[IngestBatch], patience: float | None
    ) -> list[EnqueueResult]:
        """Put some jobs on the queue; their large texts go into the blob store just before."""
        async with self.blob_writer() as writing:
            offload = [await writing.offload_batch(batch) for batch in batches]
            writing.offered(offload)
            try:
                return await self.queue.enqueue(offload, patience=patience)
            except QueueFull as error:
                writing.refused(batch for batch in offload if batch.job_id in error.refused)
                raise

    async def delete(
        self,
        *doc_ids: str,
        tenant: str = "",
        version: int | None = None,
        lane: Lane = Lane.INTERACTIVE,
        collection: str | None = None,
    ) -> Receipt:
        """Put the removal of documents on the queue, or raise QueueFull at once.

        ``version`` defaults to the time of Redis: what was queued of the documents before does not
        bring them back.
        """
        version = await self.now() if version is None else version
        deletions = [
            Deletion(doc_id=doc_id, version=version, tenant=tenant, collection=collection)
            for doc_id in dict.fromkeys(doc_ids)
        ]
        submission = new_submission()
        batches = self._deletion_batches(deletions, submission, lane)
        if EnqueueResult.FULL in await self.queue.offer(batches):
            raise QueueFull(FULL_RETRY_SECONDS)
        return Receipt(submission, accepted=len(deletions), duplicates=0)

    async def delete_many(
        self, deletions: Sequence[Deletion], *, submission: str, lane: Lane = Lane.BULK
    ) -> Receipt:
        """Put the removal of many documents on the queue, of any tenants and each at its version;
        waits while it is full."""
        counts: Counter[EnqueueResult] = Counter()
        batches = self._deletion_batches(deletions, submission, lane)
        for some in in_groups(batches, ROUND_TRIP_JOBS):
            for batch, answer in zip(some, await self.queue.enqueue(some), strict=True):
                counts[answer] += len(batch.documents)
        return _receipt(submission, counts)

    async def sweep(self, sweeps: Sequence[Sweep], *, submission: str) -> Receipt:
        """Have what scans did not find any more removed from the index; waits while it is full.

        To be called when all that the scans found is on the queue.
        """
        counts: Counter[EnqueueResult] = Counter()
        for sweep in sweeps:  # one a round trip, as each may be large
            batch = SweepBatch(submission, (with_collection(self.collection, sweep),))
            counts.update(await self.queue.enqueue([batch]))
        return _receipt(submission, counts)

    async def status(self, submission: str) -> SubmissionStatus:
        """How far a submission is. One that nobody knows has accepted no document."""
        return await self.queue.submission(submission)

    def progress(self, submission: str) -> AsyncIterator[SubmissionStatus]:
        """How far a submission is: now, and whenever that changed, until it is complete.

        Waits through a short outage of Redis. One that nobody knows is complete.
        """
        return self.queue.progress(submission)

    async def wait(self, submission: str, *, timeout: float | None = None) -> SubmissionStatus:
        """What became of a submission, once every document of it came to its end.

        Raises TimeoutError after ``timeout`` seconds.
        """
        async with asyncio.timeout(timeout):
            async for status in self.progress(submission):
                last = status
        return last

    async def failed_documents(self, submission: str) -> list[FailedDocument]:
        """The documents of a submission that were given up so far, and why."""
        return await self.queue.failed_documents(submission)

    def _deletion_batches(
        self, deletions: Sequence[Deletion], submission: str, lane: Lane
    ) -> list[DeleteBatch]:
        meant = [with_collection(self.collection, deletion) for deletion in deletions]
        return deletion_batches(meant, submission, lane)


def _digest(asked: tuple[object, ...]) -> str:
    packed = msgspec.msgpack.encode(asked, order="deterministic")
    return hashlib.blake2b(packed, digest_size=16).hexdigest()


def _refuse(document: FailedDocument) -> None:
    raise DocumentRejected(f"{document.doc_id}: {document.reason}")


def _receipt(submission: str, documents: Counter[EnqueueResult]) -> Receipt:
    return Receipt(
        submission, documents[EnqueueResult.ACCEPTED], documents[EnqueueResult.DUPLICATE]
    )
