"""What waits or runs on the queue: who compares the index with something must not call wrong what
a job is about to do."""

from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from typing import Final

from redis.asyncio import Redis

from ingestq.broker import keys
from ingestq.broker.connection import BrokerConfig, translate_errors
from ingestq.core.documents import SeenDocuments, SeenDocumentsBuilder
from ingestq.core.errors import ContractError
from ingestq.core.jobs import SweepBatch, decode_job

READ_JOBS: Final = 64
"""Jobs that are read in one round trip; each may hold some 256 KiB."""
DocumentLocation = tuple[str, str, Sequence[str]]
"""Tenant and id of a document, and the folders it lies in."""


class PendingDocuments:
    """The documents that the queue holds a job for, at one moment."""

    def __init__(
        self, seen: SeenDocuments, swept: Collection[tuple[str, str]], everything: bool
    ) -> None:
        self._seen = seen
        self._swept = swept
        self._everything = everything

    def may_change(self, tenant: str, doc_id: str, folders: Iterable[str]) -> bool:
        """Whether a job may be about to write or delete the document, which lies in ``folders``."""
        return (
            self._everything
            or _name(tenant, doc_id) in self._seen
            or any((tenant, folder) in self._swept for folder in folders)
        )


class PendingReader:
    """Looks through the queue for what is meant for ``collection``.

    It keeps eight bytes a document. Raises BrokerUnavailable while Redis cannot be used.
    """

    def __init__(self, redis: Redis, config: BrokerConfig, collection: str) -> None:
        self._redis = redis
        self._config = config
        self._collection = collection
        self._last: PendingDocuments | None = None

    async def read(self, about: Iterable[DocumentLocation]) -> PendingDocuments:
        """What waits or runs now, as far as it matters for these documents.

        The queue may be long: while all of them were seen on it, it is not read again.
        """
        if self._last is None or not all(self._last.may_change(*place) for place in about):
            with translate_errors(self._config):
                self._last = await self._read()
        return self._last

    async def _read(self) -> PendingDocuments:
        seen = SeenDocumentsBuilder()
        swept: set[tuple[str, str]] = set()
        everything = False
        async for jobs in job_payloads(self._redis):
            for payload in jobs:
                everything |= not self._note(payload, seen, swept)
        return PendingDocuments(SeenDocuments(seen.pack()), swept, everything)

    def _note(
        self, payload: bytes, seen: SeenDocumentsBuilder, swept: set[tuple[str, str]]
    ) -> bool:
        """Note what a job is about; False if it may be about anything."""
        try:
            job = decode_job(payload)
        except ContractError:
            return False
        if job.known_batch is None:
            return False
        if job.batch.collection != self._collection:
            return True
        for item in job.batch.documents:
            if isinstance(job.batch, SweepBatch):
                swept.add((item.tenant, item.doc_id))
            else:
                seen.add(_name(item.tenant, item.doc_id))
        return True


async def job_payloads(redis: Redis) -> AsyncIterator[Sequence[bytes]]:
    """Those of all jobs, some at a time: of each that is on the queue from the beginning to the end
    of it, and perhaps of others. Raises what redis-py raises."""
    ids: list[bytes] = []
    async for job_id, _ in redis.zscan_iter(keys.QUEUE):
        ids.append(job_id)
        if len(ids) == READ_JOBS:
            yield await _read(redis, ids)
            ids.clear()
    if ids:
        yield await _read(redis, ids)


async def _read(redis: Redis, ids: Sequence[bytes]) -> list[bytes]:
    found = await redis.mget([keys.JOB.encode() + job_id for job_id in ids])
    return [payload for payload in found if payload is not None]  # else it has just ended


def _name(tenant: str, doc_id: str) -> str:
    return f"{tenant}\0{doc_id}"
