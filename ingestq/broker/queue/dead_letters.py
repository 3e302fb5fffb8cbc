"""Dead letters, the documents that failed for good: read, requeue and purge them.

A document has at most one dead letter. A newer failure replaces it, and when a version of the
document succeeds it is deleted.
"""

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import msgspec
from redis.asyncio import Redis

from ingestq.broker import keys
from ingestq.broker.blobs.store import BlobStore, delete_blobs_of
from ingestq.broker.connection import BrokerConfig, awaited, translate_errors
from ingestq.broker.queue.job_queue import SUBMISSION_SECONDS
from ingestq.broker.scripts import Scripts
from ingestq.core.documents import Document, Lane
from ingestq.core.errors import ContractError
from ingestq.core.jobs import IngestBatch, dead_letter_key, decode_job, encode_job
from ingestq.core.results import DeadLetter


@dataclass(frozen=True)
class StoredDeadLetter:
    """A dead letter as it was read.

    Requeueing or purging it does nothing if it has changed since.
    """

    dead_letter: DeadLetter
    raw: bytes

    @property
    def document(self) -> Document | None:
        """The document to be indexed, if the dead letter holds one; else None."""
        return _document(self.dead_letter)


@dataclass(frozen=True)
class DeadLetterId:
    """The key of a dead letter, and when it was written (Redis time in ms).

    One that is written later under the same key has another id.
    """

    key: str
    written_ms: int


@dataclass(frozen=True)
class DeadLetterFilter:
    """The conditions that a dead letter must meet, all that are given.

    An empty ``doc_ids`` matches any document. ``reason`` is a part of the reason, ignoring case.
    """

    doc_ids: frozenset[str] = frozenset()
    tenant: str | None = None
    reason: str | None = None
    collection: str | None = None

    def matches(self, dead_letter: DeadLetter) -> bool:
        """Return whether ``dead_letter`` meets the conditions."""
        return (
            (not self.doc_ids or dead_letter.doc_id in self.doc_ids)
            and (self.tenant is None or dead_letter.tenant == self.tenant)
            and (self.collection is None or dead_letter.collection == self.collection)
            and (self.reason is None or self.reason.lower() in dead_letter.reason.lower())
        )


class DeadLetters:
    """The dead letters of a queue.

    Blobs in ``blobs`` are deleted with the dead letters that refer to them. Every method raises
    BrokerUnavailable while Redis cannot be used.
    """

    def __init__(self, redis: Redis, config: BrokerConfig, blobs: BlobStore | None = None) -> None:
        self._redis = redis
        self._blobs = blobs
        self._config = config
        self._scripts = Scripts.register(redis)

    async def find(self, wanted: DeadLetterFilter) -> AsyncIterator[StoredDeadLetter]:
        """Yield the dead letters that match ``wanted``, in no particular order, a few at a time."""
        with self._translated():
            async for _, raw in self._redis.hscan_iter(keys.DEAD):
                dead_letter = _dead_letter(raw)
                if wanted.matches(dead_letter):
                    yield StoredDeadLetter(dead_letter, raw)

    async def newest(self, count: int) -> list[DeadLetterId]:
        """Return the ids of the ``count`` newest dead letters, newest first.

        Read their contents, which may be large, with `get`.
        """
        with self._translated():
            rows = await self._redis.zrevrange(keys.DEAD_TIMES, 0, count - 1, withscores=True)
        return [DeadLetterId(key.decode(), int(written_ms)) for key, written_ms in rows]

    async def get(self, names: Sequence[str]) -> list[StoredDeadLetter]:
        """Return the dead letters with these keys that still exist."""
        if not names:
            return []
        with self._translated():
            found = await awaited(self._redis.hmget(keys.DEAD, list(names)))
        return [StoredDeadLetter(_dead_letter(raw), raw) for raw in found if raw is not None]

    async def failed_versions(
        self, documents: Sequence[Document], collection: str
    ) -> list[Document | None]:
        """Return the dead-lettered version of each of ``documents``; None where there is none.

        The documents are those of ``collection``. The versions are in the same order.
        """
        if not documents:
            return []
        names = [dead_letter_key(collection, d.tenant, d.doc_id) for d in documents]
        with self._translated():
            found = await awaited(self._redis.hmget(keys.DEAD, names))
        return [None if raw is None else _document(_dead_letter(raw)) for raw in found]

    async def find_for_document(
        self, collection: str, tenant: str, doc_id: str
    ) -> StoredDeadLetter | None:
        """Return the dead letter of one document; None if there is none.

        ``doc_id`` may also be the id of a job that could not be decoded into its documents.
        """
        wanted = DeadLetterFilter(frozenset([doc_id]), tenant, collection=collection)
        names = [dead_letter_key(collection, tenant, doc_id), doc_id]
        with self._translated():
            found = await awaited(self._redis.hmget(keys.DEAD, names))
        for raw in found:
            if raw is not None:
                dead_letter = _dead_letter(raw)
                if wanted.matches(dead_letter):
                    return StoredDeadLetter(dead_letter, raw)
        return None

    async def requeue(self, dead_letters: Iterable[StoredDeadLetter], submission: str) -> int:
        """Put the documents of dead letters back on the queue; return how many dead letters.

        They become part of ``submission`` and get all their tries again. The queue's limits do not
        apply. A dead letter that has changed since it was read is skipped.
        """
        requeued = 0
        for stored in dead_letters:
            job_id, payload, documents = _job(stored.dead_letter, submission)
            with self._translated():
                requeued += await self._scripts.requeue(
                    args=[
                        stored.dead_letter.key,
                        stored.raw,
                        job_id,
                        payload,
                        Lane.BULK,
                        stored.dead_letter.tenant,
                        stored.dead_letter.collection,
                        submission,
                        documents,
                        SUBMISSION_SECONDS,
                    ],
                )
        return requeued

    async def purge(self, dead_letters: Iterable[StoredDeadLetter]) -> int:
        """Delete dead letters for good; return how many.

        A dead letter that has changed since it was read is skipped.
        """
        purged = 0
        for stored in dead_letters:
            with self._translated():
                deleted = await self._scripts.purge(args=[stored.dead_letter.key, stored.raw])
            if deleted:
                await delete_blobs_of(self._blobs, [stored.dead_letter.payload])
            purged += deleted
        return purged

    def _translated(self) -> AbstractContextManager[None]:
        return translate_errors(self._config)


def _dead_letter(raw: bytes) -> DeadLetter:
    return msgspec.msgpack.decode(raw, type=DeadLetter)


def _document(dead_letter: DeadLetter) -> Document | None:
    try:
        batch = decode_job(dead_letter.payload).known_batch
    except ContractError:
        return None
    return batch.documents[0] if isinstance(batch, IngestBatch) else None


def _job(dead_letter: DeadLetter, submission: str) -> tuple[str, bytes, int]:
    """Return the id, payload and number of documents of the job that tries ``dead_letter`` again.

    A job that this version cannot read goes back as it came: a newer worker may be able to.
    """
    try:
        job = decode_job(dead_letter.payload)
    except ContractError:
        return dead_letter.key, dead_letter.payload, dead_letter.documents
    if job.known_batch is None:
        return dead_letter.key, dead_letter.payload, dead_letter.documents
    batch = job.known_batch.with_submission(submission)
    return batch.job_id, encode_job(batch, enqueued_ms=job.enqueued_ms), batch.accepted
