"""The documents that were given up: look at them, try them again, or drop them.

There is one letter a document. A newer failure replaces it, and when a version of the document
succeeds it goes by itself.
"""

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import msgspec
from arq.connections import ArqRedis

from broker import keys
from broker.connection import BrokerConfig, awaited, translated
from broker.contract import (
    DeadLetter,
    Document,
    IngestBatch,
    Lane,
    dead_letter_key,
    decode_job,
    encode_job,
    letter_key,
    meant_for,
)
from broker.errors import ContractError
from broker.queue import SUBMISSION_SECONDS
from broker.scripts import Scripts
from broker.spool.release import release
from broker.spool.store import Spool


@dataclass(frozen=True)
class StoredLetter:
    """A dead letter as it was read: what is done to it later is refused if it changed since."""

    letter: DeadLetter
    raw: bytes

    @property
    def document(self) -> Document | None:
        """The document to be indexed that the letter is about, if that is what it holds."""
        return _document(self.letter)


@dataclass(frozen=True)
class LetterName:
    """The key of a letter, and when (Redis time in ms) it was written: a newer one is another."""

    key: str
    written_ms: int


@dataclass(frozen=True)
class LetterFilter:
    """Which letters are meant: all conditions that are given have to hold.

    ``doc_ids`` is empty for any document; ``reason`` is part of the reason, in any case. Letters
    that name no collection are of any.
    """

    doc_ids: frozenset[str] = frozenset()
    tenant: str | None = None
    reason: str | None = None
    collection: str | None = None

    def matches(self, letter: DeadLetter) -> bool:
        """Whether ``letter`` is meant."""
        return (
            (not self.doc_ids or letter.doc_id in self.doc_ids)
            and (self.tenant is None or letter.tenant == self.tenant)
            and (self.collection is None or letter.collection in ("", self.collection))
            and (self.reason is None or self.reason.lower() in letter.reason.lower())
        )


class DeadLetters:
    """The dead letters of a queue.

    What letters name in the ``spool`` is removed with them. Every method raises BrokerUnavailable
    while Redis cannot be used.
    """

    def __init__(self, redis: ArqRedis, config: BrokerConfig, spool: Spool | None = None) -> None:
        self._redis = redis
        self._spool = spool
        self._config = config
        self._scripts = Scripts.register(redis)

    async def find(self, wanted: LetterFilter) -> AsyncIterator[StoredLetter]:
        """The letters that are meant, in no particular order; read a few at a time."""
        with self._translated():
            async for _, raw in self._redis.hscan_iter(keys.DEAD):
                letter = _letter(raw)
                if wanted.matches(letter):
                    yield StoredLetter(letter, raw)

    async def newest(self, count: int) -> list[LetterName]:
        """The names of the newest letters: what they say may be large, and is read by `named`."""
        with self._translated():
            rows = await self._redis.zrevrange(keys.DEAD_TIMES, 0, count - 1, withscores=True)
        return [LetterName(key.decode(), int(written_ms)) for key, written_ms in rows]

    async def named(self, names: Sequence[str]) -> list[StoredLetter]:
        """The letters of these keys that are still there."""
        if not names:
            return []
        with self._translated():
            found = await awaited(self._redis.hmget(keys.DEAD, list(names)))
        return [StoredLetter(_letter(raw), raw) for raw in found if raw is not None]

    async def about(
        self, documents: Sequence[Document], collection: str = ""
    ) -> list[Document | None]:
        """What each of ``documents`` was when it was given up; None if it was not.

        Those that name no collection are of ``collection``.
        """
        if not documents:
            return []
        names = [dead_letter_key(meant_for(collection, document)) for document in documents]
        with self._translated():
            found = await awaited(self._redis.hmget(keys.DEAD, names))
        return [None if raw is None else _document(_letter(raw)) for raw in found]

    async def about_document(
        self, tenant: str, doc_id: str, collection: str = ""
    ) -> StoredLetter | None:
        """The letter about one document; None if there is none.

        Of a job that could not be taken apart, its id counts as that of a document.
        """
        wanted = LetterFilter(frozenset([doc_id]), tenant, collection=collection)
        names = [letter_key(collection, tenant, doc_id), letter_key("", tenant, doc_id), doc_id]
        with self._translated():
            found = await awaited(self._redis.hmget(keys.DEAD, names))
        for raw in found:
            if raw is not None:
                letter = msgspec.msgpack.decode(raw, type=DeadLetter)
                if wanted.matches(letter):
                    return StoredLetter(letter, raw)
        return None

    async def requeue(self, letters: Iterable[StoredLetter], submission: str) -> int:
        """Queue the letters' documents again, as part of ``submission``; how many that were.

        Each gets all its tries again. A letter that changed since it was read is left alone.
        """
        requeued = 0
        for stored in letters:
            job_id, payload, documents = _job(stored.letter, submission)
            with self._translated():
                requeued += await self._scripts.requeue(
                    args=[
                        stored.letter.key,
                        stored.raw,
                        job_id,
                        payload,
                        Lane.BULK,
                        stored.letter.tenant,
                        stored.letter.collection,
                        submission,
                        documents,
                        SUBMISSION_SECONDS,
                    ],
                )
        return requeued

    async def purge(self, letters: Iterable[StoredLetter]) -> int:
        """Delete letters for good; how many that were."""
        purged = 0
        for stored in letters:
            with self._translated():
                gone = await self._scripts.purge(args=[stored.letter.key, stored.raw])
            if gone:
                await release(self._spool, [stored.letter.payload])
            purged += gone
        return purged

    def _translated(self) -> AbstractContextManager[None]:
        return translated(self._config)


def _letter(raw: bytes) -> DeadLetter:
    return msgspec.msgpack.decode(raw, type=DeadLetter)


def _document(letter: DeadLetter) -> Document | None:
    try:
        batch = decode_job(letter.payload).known_batch
    except ContractError:
        return None
    return batch.documents[0] if isinstance(batch, IngestBatch) else None


def _job(letter: DeadLetter, submission: str) -> tuple[str, bytes, int]:
    """Id, payload and number of documents of the job that tries ``letter`` again.

    What this version cannot take apart goes back as it came: a newer worker may know it.
    """
    try:
        job = decode_job(letter.payload)
    except ContractError:
        return letter.key, letter.payload, letter.documents
    if job.known_batch is None:
        return letter.key, letter.payload, letter.documents
    batch = job.known_batch.within(submission)
    return batch.job_id, encode_job(batch, enqueued_ms=job.enqueued_ms), batch.counted
