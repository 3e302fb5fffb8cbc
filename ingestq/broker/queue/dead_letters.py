"""Dead letters, the documents that failed for good: read, requeue and purge them.

A document has at most one dead letter. A newer failure replaces it, and when a version of the
document succeeds it is deleted.
"""

from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import AbstractContextManager, aclosing
from dataclasses import dataclass
from typing import Final

import msgspec
from redis.asyncio import Redis

from ingestq.broker import keys
from ingestq.broker.blobs.store import BlobStore, delete_blobs_of
from ingestq.broker.connection import BrokerConfig, awaited, translate_errors
from ingestq.broker.scripts import Scripts, new_call
from ingestq.core.documents import Document, Lane, SeenDocuments, Sweep
from ingestq.core.errors import ContractError
from ingestq.core.jobs import IngestBatch, SweepBatch, dead_letter_key, decode_job, encode_job
from ingestq.core.paths import folders_of
from ingestq.core.results import DeadLetter
from ingestq.core.unicode_forms import composed

MS_PER_DAY: Final = 24 * 3600 * 1000
IDS_PAGE: Final = 5_000
"""How many ids of dead letters are read at once."""
EXPIRED_BATCH: Final = 100
"""How many dead letters are deleted at once because of their age."""


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
    """The key of a dead letter, and when it was written (ms of the steady clock in Redis).

    One that is written later under the same key has another id.
    """

    key: str
    written_ms: int


@dataclass(frozen=True)
class DeadLetterFilter:
    """The conditions that a dead letter must meet, all that are given.

    An empty ``doc_ids`` matches any document; others match in any of Unicode's normal forms.
    ``reason`` is a part of the reason, ignoring case.
    """

    doc_ids: frozenset[str] = frozenset()
    tenant: str | None = None
    reason: str | None = None
    collection: str | None = None

    def matches(self, dead_letter: DeadLetter) -> bool:
        """Return whether ``dead_letter`` meets the conditions."""
        return (
            (not self.doc_ids or composed(dead_letter.doc_id) in map(composed, self.doc_ids))
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

    async def find(self, wanted: DeadLetterFilter) -> AsyncGenerator[StoredDeadLetter, None]:
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

    async def count(
        self, wanted: Callable[[str], bool], *, listed: int = 0
    ) -> tuple[int, list[DeadLetterId]]:
        """Count the dead letters with ``wanted`` keys; also return ids of the newest ``listed``."""
        total, newest = 0, list[DeadLetterId]()
        async with aclosing(self._ids()) as ids:
            async for dead_letter in ids:
                if wanted(dead_letter.key):
                    total += 1
                    if total <= listed:
                        newest.append(dead_letter)
        return total, newest

    async def _ids(self) -> AsyncGenerator[DeadLetterId, None]:
        """Yield the ids of all dead letters, newest first, without their contents.

        Each once, whatever is written or deleted meanwhile: a page goes on at the time of the last
        dead letter, not at its rank.
        """
        last_ms: float | str = "+inf"
        yielded: set[bytes] = set()  # those of this time
        while True:
            size = IDS_PAGE + len(yielded)
            with self._translated():
                rows = await self._redis.zrevrangebyscore(
                    keys.DEAD_TIMES, last_ms, "-inf", start=0, num=size, withscores=True
                )
            for key, written_ms in rows:
                if key in yielded:
                    continue
                if written_ms != last_ms:
                    last_ms, yielded = written_ms, set()
                yielded.add(key)
                yield DeadLetterId(key.decode(), int(written_ms))
            if len(rows) < size:
                return

    async def get(self, names: Sequence[str] | Sequence[bytes]) -> list[StoredDeadLetter]:
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
        names = [dead_letter_key(collection, tenant, doc_id), doc_id]
        with self._translated():
            found = await awaited(self._redis.hmget(keys.DEAD, names))
        for raw in found:
            if raw is not None:
                dead_letter = _dead_letter(raw)
                if _is_of(dead_letter, collection, tenant, doc_id):
                    return StoredDeadLetter(dead_letter, raw)
        return None

    async def find_any_form(
        self, collection: str, tenant: str, doc_id: str
    ) -> StoredDeadLetter | None:
        """Do what `find_for_document` does; if there is none, for an id that looks the same.

        Such an id differs only in Unicode's normal form.
        """
        exact = await self.find_for_document(collection, tenant, doc_id)
        if exact is not None or doc_id.isascii():
            return exact
        place, wanted = dead_letter_key(collection, tenant, ""), composed(doc_id)
        async with aclosing(self._ids()) as ids:  # without contents, which may be large
            async for dead_letter in ids:
                key = dead_letter.key
                if key.startswith(place) and composed(key.removeprefix(place)) == wanted:
                    return next(iter(await self.get([key])), None)
        return None

    async def requeue(
        self,
        dead_letters: Iterable[StoredDeadLetter],
        submission: str,
        *,
        allow_mass_delete: bool = False,
    ) -> int:
        """Put the documents of dead letters back on the queue; return how many dead letters.

        They become part of ``submission`` and get all their tries again. The queue's limits do not
        apply. A dead letter that has changed since it was read is skipped. A sweep that held
        something back is decided again; with ``allow_mass_delete`` it deletes that.
        """
        requeued = 0
        for stored in dead_letters:
            job_id, payload, documents = _job(stored.dead_letter, submission, allow_mass_delete)
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
                        new_call(),
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
                deleted = await self._scripts.purge(
                    args=[stored.dead_letter.key, stored.raw, new_call()]
                )
            if deleted:
                await delete_blobs_of(self._blobs, [stored.dead_letter.payload])
            purged += deleted
        return purged

    async def purge_unseen(self, swept: Sweep) -> int:
        """Purge the dead letters of what is no document of a swept folder any more.

        Its file is gone, or has become a folder, or is left out. Returns how many were purged.
        """
        seen = SeenDocuments(swept.seen)
        purged = 0
        wanted = DeadLetterFilter(tenant=swept.tenant, collection=swept.collection)
        async for stored in self.find(wanted):
            document = stored.document
            if document is None or not document.scanned or document.version > swept.version:
                continue
            folders = folders_of(document.doc_id)
            if swept.doc_id in folders and not seen.may_hold(document.doc_id, folders):
                purged += await self.purge([stored])
        return purged

    async def expired_count(self) -> int:
        """Return how many dead letters were deleted because of their age."""
        with self._translated():
            return int(await self._redis.get(keys.DEAD_EXPIRED) or 0)

    async def delete_expired(self, days: float) -> int:
        """Delete up to EXPIRED_BATCH dead letters that are older than ``days``, oldest first.

        Returns how many it deleted; call it again until there are none. Ages are measured by the
        steady clock, so a wrong time makes no dead letter old.
        """
        arguments = [int(days * MS_PER_DAY), EXPIRED_BATCH]
        with self._translated():
            names = await self._scripts.expired_dead_letters(args=arguments)
        deleted = await self.purge(await self.get(names))
        if deleted:
            with self._translated():
                await self._redis.incrby(keys.DEAD_EXPIRED, deleted)
        return deleted

    def _translated(self) -> AbstractContextManager[None]:
        return translate_errors(self._config)


def _is_of(dead_letter: DeadLetter, collection: str, tenant: str, doc_id: str) -> bool:
    named = (dead_letter.collection, dead_letter.tenant, dead_letter.doc_id)
    return named == (collection, tenant, doc_id)


def _dead_letter(raw: bytes) -> DeadLetter:
    return msgspec.msgpack.decode(raw, type=DeadLetter)


def _document(dead_letter: DeadLetter) -> Document | None:
    try:
        batch = decode_job(dead_letter.payload).known_batch
    except ContractError:
        return None
    return batch.documents[0] if isinstance(batch, IngestBatch) else None


def _job(
    dead_letter: DeadLetter, submission: str, allow_mass_delete: bool
) -> tuple[str, bytes, int]:
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
    if allow_mass_delete and isinstance(batch, SweepBatch):
        batch = batch.allowed()
    return batch.job_id, encode_job(batch, enqueued_ms=job.enqueued_ms), batch.accepted
