"""The client: put documents on the queue from a program of your own.

    async with IngestClient.connect("redis://localhost:6379/0") as client:
        receipt = await client.submit("invoice-17", text="…", source="erp")
        status = await client.wait(receipt.submission, timeout=60)

Everything runs in the caller's event loop and never blocks it. No model, parser or Qdrant client is
loaded; redis-py is loaded when a connection is made.
"""

import asyncio
import hashlib
import uuid
from collections import Counter
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from importlib import import_module
from itertools import compress
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
from ingestq.core.jobs import FULL_RETRY_SECONDS, DeleteBatch, IngestBatch, SweepBatch, queue_full
from ingestq.core.limits import check_texts
from ingestq.core.paths import guess_media_type
from ingestq.core.results import (
    DocumentWarning,
    EnqueueResult,
    FailedDocument,
    Receipt,
    SubmissionStatus,
)

if TYPE_CHECKING:
    from ingestq.broker.blobs.store import BlobStore
    from ingestq.broker.connection import BrokerConfig
    from ingestq.broker.queue.job_queue import JobQueue


def new_submission() -> str:
    """Return a new id under which documents can be followed together.

    Pass it to several calls of `IngestClient.submit_many` to follow all their documents as one.
    """
    return uuid.uuid4().hex


class IngestClient:
    """A client that puts documents on the queue and follows what workers make of them.

    Make one with `IngestClient.connect`. Tasks may share a client.

    Documents that name no collection go to ``collection``; ValueError is raised if that is not a
    valid name.

    What a `Receipt` counts is on disk in Redis. Every method raises BrokerUnavailable if Redis does
    not answer or accepts no writes, and UsageError if it refuses the credentials. After an error
    the outcome is unknown, and sending the same again is safe.
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
        """Connect to Redis and yield a client; close the connection on leaving.

            async with IngestClient.connect("redis://localhost:6379/0") as client:
                await client.submit("a", text="…", source="me")

        ``broker`` is the URL of Redis, or a `BrokerConfig` with other queue limits than the
        defaults. ``blobs`` is the folder or URL of the blob store that the workers use (their
        INGESTQ_BLOB_URL). Without it, texts of any size travel through Redis and `upload` cannot be
        used. ``collection`` is the collection of documents that name none.

        The connection has been tested. Raises BrokerUnavailable if Redis does not answer,
        UsageError if a URL is invalid or Redis refuses the credentials, and ValueError if the
        collection's name is invalid.
        """
        # In a thread: these imports would block the event loop for too long.
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
        """Return a client with the same connection whose default collection is ``collection``.

        Raises ValueError if that is not a valid name.
        """
        return IngestClient(self.queue, self._blobs, collection)

    async def issue_version(self) -> int:
        """Issue a version for documents that you are about to read; one call is enough for many.

        It is the time of Redis in microseconds, or larger: never less than an earlier one. Call it
        before you read a document's content, so that a change made while you read counts as newer.
        """
        return await self.queue.issue_version()

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
        """Put one document on the queue. Raise QueueFull at once if there is no space.

            receipt = await client.submit("wiki/42", text=body, source=url, metadata={"team": "a"})

        The content is ``text``, or ``path``, a file that the workers can read; a text of more than
        64 KiB goes into the blob store, if there is one. ``version`` is an integer that only grows
        for a document; by default Redis issues one. ``source`` and ``metadata`` are
        stored with every chunk; for the other fields see `Document`.

        ``lane`` says that somebody is waiting for the document (the default), or that it is bulk
        work. ``collection`` defaults to that of the client.

        With an ``idempotency_key``, the same call within a day returns the same receipt and queues
        nothing new; a different call with the same key raises KeyReused.

        Raises ValueError if the content is not exactly one of text and path, or a field is invalid
        or exceeds its limit, which the message names.
        """
        collection = self.collection if collection is None else collection
        fields = (version, tenant, media_type, metadata, lane, collection)
        request = (doc_id, source, text, path, *fields)
        document = Document(
            doc_id=doc_id,
            version=await self.issue_version() if version is None else version,
            source=source,
            tenant=tenant,
            text=text,
            path=path,
            media_type=media_type,
            metadata={} if metadata is None else metadata,
            collection=collection,
        )
        async with self.blob_writer() as writer:
            batch = IngestBatch(new_submission(), (await writer.offload(document),), lane)
            return await self._offer(batch, writer, request, idempotency_key)

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
        """Store the content of one document in the blob store, and put the document on the queue.

            await client.upload("report-7", Path("report.pdf"), source="intranet")

        ``content`` is a file on this machine, or an asynchronous iterable of bytes; it is never
        held in memory as a whole. ``media_type`` is guessed from a file's name if it is not given,
        and ``version`` defaults to one that is issued before the content is read. The other
        arguments are those of `submit`.

        Raises as `submit` does, BlobStoreUnavailable, UsageError if the client has no blob store,
        UploadExpired if the upload took hours, and whatever ``content`` raises.
        """
        if isinstance(content, Path):
            media_type = guess_media_type(content.name) if media_type is None else media_type
            content = read_parts(content)
        async with self.blob_writer() as writer:
            upload = Upload(
                doc_id=doc_id,
                content=await writer.put(content),
                source=source,
                collection=self.collection if collection is None else collection,
                tenant=tenant,
                version=version,
                media_type=media_type,
                metadata={} if metadata is None else metadata,
            )
            return await self.submit_uploads(
                [upload], writer, lane=lane, idempotency_key=idempotency_key
            )

    def blob_writer(self) -> AbstractAsyncContextManager[BlobWriter]:
        """Return a context manager that yields a writer to the blob store.

        Blobs whose documents are not on the queue on leaving are deleted.
        """
        return blob_writer(self.queue, self._blobs)

    async def submit_uploads(
        self,
        uploads: Sequence[Upload],
        writer: BlobWriter,
        *,
        lane: Lane = Lane.INTERACTIVE,
        idempotency_key: str | None = None,
    ) -> Receipt:
        """Put documents whose content ``writer`` has written on the queue, all or none.

        They share a job, so they must name the same collection and tenant, and there may be at most
        JOB_DOCUMENTS of them; ValueError is raised otherwise. Raises as `submit` does.
        """
        if not 1 <= len(uploads) <= JOB_DOCUMENTS:
            raise ValueError(f"{len(uploads)} documents; from 1 to {JOB_DOCUMENTS} can share a job")
        documents = tuple(upload.document for upload in uploads)
        batch = IngestBatch(new_submission(), documents, lane)
        request = (lane, *(upload.request for upload in uploads))
        return await self._offer(batch, writer, request, idempotency_key)

    async def _offer(
        self, batch: IngestBatch, writer: BlobWriter, request: tuple[object, ...], key: str | None
    ) -> Receipt:
        """Put one job on the queue, or raise QueueFull."""
        check_texts(idempotency_key=key)
        submission = batch.submission
        writer.mark_offered([batch])
        try:
            if key is None:
                [answer] = await self.queue.offer([batch])
            else:
                answer, submission = await self.queue.offer_once(
                    batch, key=key, digest=_digest(request)
                )
        except (KeyReused, UploadExpired):
            writer.mark_refused([batch])
            raise
        if answer is EnqueueResult.FULL or submission != batch.submission:
            writer.mark_refused([batch])
        if answer is EnqueueResult.FULL:
            raise QueueFull(FULL_RETRY_SECONDS)
        # A duplicate is our own job, whose first answer was lost, or the job of the key.
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
        """Put many documents on the queue, in shared jobs; wait while the queue is full.

            await client.submit_many(Document(...) for row in rows)

        ``documents`` may be any iterable, also an asynchronous one. While the queue is full nothing
        more is read from it, so memory stays bounded. ``patience`` is how many seconds to wait for
        space before QueueFull is raised, whose ``documents`` were refused; None waits without
        limit. ``submission`` adds the documents to an existing submission (see `new_submission`);
        by default it is a new one.

        ``on_failed`` is called with each document that could not be read, and with each that cannot
        be encoded (a lone surrogate in its text, or metadata that MessagePack cannot hold). Without
        it, the first such document raises DocumentRejected. After either error, documents that were
        queued before stay on the queue.
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
        """Put jobs on the queue, with their large texts in the blob store."""
        async with self.blob_writer() as writer:
            offloaded = [await writer.offload_batch(batch) for batch in batches]
            writer.mark_offered(offloaded)
            try:
                return await self.queue.enqueue(offloaded, patience=patience)
            except QueueFull as error:
                writer.mark_refused(batch for batch in offloaded if batch.job_id in error.refused)
                raise

    async def delete(
        self,
        *doc_ids: str,
        tenant: str = "",
        version: int | None = None,
        any_form: bool = False,
        lane: Lane = Lane.INTERACTIVE,
        collection: str | None = None,
    ) -> Receipt:
        """Put the deletion of documents on the queue. Raise QueueFull at once if there is no space.

            await client.delete("invoice-17", "invoice-18")

        Without a ``version``, what is there is deleted: neither that version nor an older one, nor
        any that was queued before, brings the document back. With a version of your own, that one
        and older ones are deleted. ``any_form`` is for ids that a person typed, see `Deletion`. The
        attribute ``documents`` of QueueFull has the ids whose deletion was refused; the others are
        queued, and sending all again is safe. Raises ValueError if an id is empty or too long, or
        ``version`` is invalid.
        """
        version = await self.issue_version() if version is None else version
        deletions = [
            Deletion(
                doc_id=doc_id,
                version=version,
                tenant=tenant,
                any_form=any_form,
                collection=collection,
            )
            for doc_id in dict.fromkeys(doc_ids)
        ]
        submission = new_submission()
        batches = self._deletion_batches(deletions, submission, lane)
        answers = await self.queue.offer(batches)
        refused = compress(batches, (answer is EnqueueResult.FULL for answer in answers))
        if EnqueueResult.FULL in answers:
            raise queue_full(refused)
        return Receipt(submission, accepted=len(deletions), duplicates=0)

    async def delete_many(
        self, deletions: Sequence[Deletion], *, submission: str, lane: Lane = Lane.BULK
    ) -> Receipt:
        """Put the deletion of many documents on the queue; wait while the queue is full.

        They may be of any tenants and collections, and each has its own version.
        """
        counts: Counter[EnqueueResult] = Counter()
        batches = self._deletion_batches(deletions, submission, lane)
        for group in in_groups(batches, ROUND_TRIP_JOBS):
            for batch, answer in zip(group, await self.queue.enqueue(group), strict=True):
                counts[answer] += len(batch.documents)
        return _receipt(submission, counts)

    async def sweep(self, sweeps: Sequence[Sweep], *, submission: str) -> Receipt:
        """Queue the deletion of what folder scans no longer found; wait while the queue is full.

        Call it once everything that the scans found is on the queue.
        """
        counts: Counter[EnqueueResult] = Counter()
        for sweep in sweeps:  # one a round trip, as each may be large
            batch = SweepBatch(submission, (with_collection(self.collection, sweep),))
            counts.update(await self.queue.enqueue([batch]))
        return _receipt(submission, counts)

    async def status(self, submission: str) -> SubmissionStatus:
        """Return the progress of a submission. An unknown submission has accepted 0 documents."""
        return await self.queue.submission(submission)

    def progress(self, submission: str) -> AsyncIterator[SubmissionStatus]:
        """Yield the progress of a submission: now, and after each change, until it is complete.

        Outages of Redis of up to a minute are waited out. An unknown submission is complete.
        """
        return self.queue.progress(submission)

    async def wait(self, submission: str, *, timeout: float | None = None) -> SubmissionStatus:
        """Wait until every document of a submission has an outcome, and return the final status.

        Raises TimeoutError after ``timeout`` seconds; None waits without limit.
        """
        async with asyncio.timeout(timeout):
            async for status in self.progress(submission):
                last = status
        return last

    async def failed_documents(self, submission: str) -> list[FailedDocument]:
        """Return the documents of a submission that were rejected so far, with their reasons."""
        return await self.queue.failed_documents(submission)

    async def warnings(self, submission: str) -> list[DocumentWarning]:
        """Return what could not be read of the documents of a submission that are indexed.

        The first thousand warnings are listed, for a day; the attribute ``warned`` of `status` has
        the number of all.
        """
        return await self.queue.warnings(submission)

    def _deletion_batches(
        self, deletions: Sequence[Deletion], submission: str, lane: Lane
    ) -> list[DeleteBatch]:
        named = [with_collection(self.collection, deletion) for deletion in deletions]
        return deletion_batches(named, submission, lane)


def _digest(request: tuple[object, ...]) -> str:
    packed = msgspec.msgpack.encode(request, order="deterministic")
    return hashlib.blake2b(packed, digest_size=16).hexdigest()


def _refuse(document: FailedDocument) -> None:
    raise DocumentRejected(f"{document.doc_id}: {document.reason}")


def _receipt(submission: str, documents: Counter[EnqueueResult]) -> Receipt:
    return Receipt(
        submission, documents[EnqueueResult.ACCEPTED], documents[EnqueueResult.DUPLICATE]
    )
