"""The documents of waiting and running jobs.

`ingestq verify` needs them: a difference that a pending job is about to resolve is no error.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterable, Sequence
from typing import Final

from redis.asyncio import Redis

from ingestq.broker import keys
from ingestq.broker.connection import BrokerConfig, translate_errors
from ingestq.core.documents import Document, SeenDocuments, SeenDocumentsBuilder
from ingestq.core.errors import ContractError
from ingestq.core.jobs import IngestBatch, SweepBatch, decode_job

READ_JOBS: Final = 64
"""Jobs read in one round trip. Each may be up to about 256 KiB."""
DocumentLocation = tuple[str, str, Sequence[str]]
"""Tenant and id of a document, and the ids of the folders that contain it."""


class PendingDocuments:
    """The documents for which there are jobs on the queue, at one moment.

    ``swept`` has tenant and id of folders whose scan is pending. ``has_unknown_jobs`` is true if
    there is a job that cannot be read, which may be about any document.
    """

    def __init__(
        self, seen: SeenDocuments, swept: Collection[tuple[str, str]], has_unknown_jobs: bool
    ) -> None:
        self._seen = seen
        self._swept = swept
        self._has_unknown_jobs = has_unknown_jobs

    def may_change(self, tenant: str, doc_id: str, folders: Iterable[str]) -> bool:
        """Return whether a pending job may write or delete the document in ``folders``."""
        return (
            self._has_unknown_jobs
            or _name(tenant, doc_id) in self._seen
            or any((tenant, folder) in self._swept for folder in folders)
        )


class PendingReader:
    """Reads which documents of ``collection`` have pending jobs.

    Keeps eight bytes for each of them. Raises BrokerUnavailable while Redis cannot be used.
    """

    def __init__(self, redis: Redis, config: BrokerConfig, collection: str) -> None:
        self._redis = redis
        self._config = config
        self._collection = collection
        self._last: PendingDocuments | None = None

    async def read(self, documents: Iterable[DocumentLocation]) -> PendingDocuments:
        """Return the pending documents, up to date at least for ``documents``.

        The queue may be long, so it is not read again if all of them were on it the last time.
        """
        if self._last is None or not all(
            self._last.may_change(*location) for location in documents
        ):
            with translate_errors(self._config):
                self._last = await self._read_queue()
        return self._last

    async def _read_queue(self) -> PendingDocuments:
        seen = SeenDocumentsBuilder()
        swept: set[tuple[str, str]] = set()
        has_unknown_jobs = False
        async for jobs in job_payloads(self._redis):
            for payload in jobs:
                has_unknown_jobs |= not self._note(payload, seen, swept)
        return PendingDocuments(SeenDocuments(seen.pack()), swept, has_unknown_jobs)

    def _note(
        self, payload: bytes, seen: SeenDocumentsBuilder, swept: set[tuple[str, str]]
    ) -> bool:
        """Note the documents of a job; return False if it may be about any document."""
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


async def queued_documents(
    redis: Redis, config: BrokerConfig, collection: str
) -> AsyncGenerator[Document]:
    """Yield the documents of ``collection`` that wait or are being indexed.

    Jobs that cannot be read are left out. Raises BrokerUnavailable while Redis cannot be used.
    """
    with translate_errors(config):
        async for jobs in job_payloads(redis):
            for payload in jobs:
                try:
                    batch = decode_job(payload).known_batch
                except ContractError:
                    continue
                if isinstance(batch, IngestBatch) and batch.collection == collection:
                    for document in batch.documents:
                        yield document


async def job_payloads(redis: Redis) -> AsyncIterator[Sequence[bytes]]:
    """Yield the payloads of all jobs, a page at a time.

    Includes every job that is on the queue from the beginning to the end of the iteration, and
    perhaps others. Raises redis-py's exceptions.
    """
    ids: list[bytes] = []
    async for job_id, _ in redis.zscan_iter(keys.QUEUE):
        ids.append(job_id)
        if len(ids) == READ_JOBS:
            yield await _read_jobs(redis, ids)
            ids.clear()
    if ids:
        yield await _read_jobs(redis, ids)


async def _read_jobs(redis: Redis, ids: Sequence[bytes]) -> list[bytes]:
    found = await redis.mget([keys.JOB.encode() + job_id for job_id in ids])
    return [payload for payload in found if payload is not None]  # None: it has just ended


def _name(tenant: str, doc_id: str) -> str:
    return f"{tenant}\0{doc_id}"
