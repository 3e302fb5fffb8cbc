"""The workers' side of the queue: claim under a lease, renew, ack, nack.

A claim carries a fencing token. Every later step compares it with the one in Redis in the same
script, so a worker that lost its lease (it was stopped, or cut off) changes nothing any more.
All times are those of Redis.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import chain
from typing import Final

import msgspec
from redis.asyncio import Redis

from ingestq.broker import keys
from ingestq.broker.blobs.store import BlobStore, delete_unnamed_blobs
from ingestq.broker.connection import BrokerConfig, awaited, translate_errors
from ingestq.broker.queue.job_queue import SUBMISSION_SECONDS
from ingestq.broker.queue.stats import EndedJob
from ingestq.broker.scripts import Scripts
from ingestq.core.documents import Lane
from ingestq.core.errors import ContractError
from ingestq.core.jobs import Job, decode_job
from ingestq.core.results import (
    WORKER_TIMEOUT_MS,
    BatchReport,
    DeadLetter,
    FailedDocument,
    JobResult,
    WorkerInfo,
)

RESULT_MS: Final = 3600 * 1000
"""How long arq's ``Job.result()`` can read the report of a finished job."""


@dataclass(frozen=True)
class Claim:
    """A job this worker owns as long as its lease lasts.

    ``submission`` and ``documents`` (how many there are) are known even of a payload that cannot be
    decoded. ``failures`` counts earlier tries, ``crashes`` the workers that died while they had it.
    A poison job has had too many and is to be run alone, one document after the other;
    ``poison_documents`` are the indexes of those at which a worker died that did nothing else.
    ``aborted`` says that it is to be given up. It is for ``collection``; empty if neither the job
    nor the worker names one.
    """

    job_id: str
    token: int
    payload: bytes
    lane: Lane
    submission: str
    documents: int
    failures: int
    crashes: int
    poison_documents: frozenset[int]
    is_poison: bool
    aborted: bool
    collection: str

    def job(self) -> Job:
        """Return the job.

        Raises ContractError for anything that is not a job of a known version, and for one whose
        documents name another collection than the queue was told.
        """
        job = decode_job(self.payload)
        if job.batch is not None and job.batch.collection != self.collection:
            named = job.batch.collection
            raise ContractError(f"its documents are meant for the collection {named!r}")
        return job


@dataclass(frozen=True)
class ClaimResult:
    """The answer to a claim. ``drain``: let all jobs end, then a poison job can be claimed.

    ``shut`` has the collections whose gates are shut, so that none of their jobs was claimed, and
    for each what it was replaced by, which is empty as long as that is going on; see
    `ingestq.broker.queue.gate`.
    """

    claims: Sequence[Claim]
    drain: bool
    shut: Mapping[str, str] = field(default_factory=dict)


class LeaseQueue:
    """The queue as a worker sees it.

    ``serving`` has the collections whose jobs it may have, by their public names, and what is
    behind each, which is what a gate stands before. What jobs name in the ``blobs`` is removed when
    it is not needed any more. Every method raises BrokerUnavailable while Redis cannot be used.
    """

    def __init__(
        self,
        redis: Redis,
        config: BrokerConfig,
        lease_seconds: float,
        serving: Mapping[str, str],
        blobs: BlobStore | None = None,
    ) -> None:
        self.redis = redis
        self.serving = serving
        self.lease_seconds = lease_seconds
        self._config = config
        self._lease_ms = int(lease_seconds * 1000)
        self._scripts = Scripts.register(redis)
        self._blobs = blobs

    async def claim(self, worker_id: str, n: int, *, bulk: int, running: int) -> ClaimResult:
        """Claim up to ``n`` jobs that are ready, up to ``bulk`` of them of the bulk lane.

        ``running`` says how many the worker owns already. Jobs that are to be aborted come first;
        then a poison job, alone. Where both lanes have jobs, three of four are interactive ones; of
        those, collections take turns.
        """
        serving = chain.from_iterable(self.serving.items())
        with self._translated():
            rows, drain, shut = await self._scripts.claim(
                args=[worker_id, n, bulk, running, self._lease_ms, *serving]
            )
        names = [name.decode() for name in shut]
        gates = dict(zip(names[::2], names[1::2], strict=True))
        return ClaimResult([_claim(*row) for row in rows], bool(drain), gates)

    async def renew(self, claims: Sequence[Claim]) -> frozenset[int]:
        """Renew the leases of ``claims``; answers the tokens of those that are lost."""
        pairs = [part for claim in claims for part in (claim.job_id, claim.token)]
        with self._translated():
            return frozenset(map(int, await self._scripts.renew(args=[self._lease_ms, *pairs])))

    async def aborted(self) -> frozenset[str]:
        """Ids of the jobs that are to be given up, wherever they are."""
        with self._translated():
            return frozenset(
                job_id.decode() for job_id in await self.redis.zrange(keys.ABORT, 0, -1)
            )

    async def nack(self, claim: Claim, *, delay_seconds: float, counts_as_try: bool) -> bool:
        """Put the job back on the queue; it can be claimed again after ``delay_seconds``.

        False if the job was not ours any more.
        """
        with self._translated():
            return bool(
                await self._scripts.nack(
                    args=[claim.job_id, claim.token, int(delay_seconds * 1000), int(counts_as_try)]
                )
            )

    async def ack(
        self, claim: Claim, report: BatchReport, result: JobResult, *, about: str = ""
    ) -> bool:
        """Remove the job and record ``report`` under its submission, in one step; then remove from
        the blob store what only the job named, and dead letters that are out of date.

        What the report has beyond the documents of the job, or short of them, counts as accepted
        with it: nobody knew before how many documents a sweep would find.

        ``result`` is kept for arq's ``Job.result()``. ``about`` is the first document of the job,
        for who looks at what ended lately. False if the job was not ours any more: then nothing was
        recorded.
        """
        with self._translated():
            outdated = await self._scripts.ack(
                args=[
                    claim.job_id,
                    claim.token,
                    msgspec.msgpack.encode(result),
                    RESULT_MS,
                    SUBMISSION_SECONDS,
                    msgspec.msgpack.encode(EndedJob.of(report, result, about)),
                    *_lists(claim, report),
                ],
            )
        if outdated is None:
            return False
        dead_letters = [msgspec.msgpack.decode(raw, type=DeadLetter) for raw in outdated]
        named = [claim.payload, *(dead_letter.payload for dead_letter in dead_letters)]
        await delete_unnamed_blobs(
            self._blobs, named, kept=[dead_letter.payload for dead_letter in report.dead]
        )
        return True

    async def mark_alone(self, claim: Claim, index: int) -> bool:
        """Write down that the document at ``index`` is worked on, and nothing else in this worker.

        False if the job is not ours any more.
        """
        with self._translated():
            return bool(await self._scripts.mark_alone(args=[claim.job_id, claim.token, index]))

    async def report_progress(self, claim: Claim, *, chunks_done: int, chunks_known: int) -> None:
        """Show how far a running job is; the figures go with its ack or nack."""
        with self._translated():
            await awaited(
                self.redis.hset(
                    keys.SUBMISSION + claim.submission,
                    f"live:{claim.job_id}",
                    f"{chunks_done}/{chunks_known}",
                )
            )

    async def wait_for_work(self, lane: Lane, seconds: int) -> None:
        """Return as soon as a job that may be had is enqueued in ``lane``, or after ``seconds``."""
        lines = [f"{keys.WAKE}{lane}:{collection}" for collection in self.serving]
        with self._translated():
            await awaited(self.redis.blpop(lines, timeout=seconds))

    async def heartbeat(self, worker_id: str, info: WorkerInfo) -> frozenset[str]:
        """Record that a worker is there, and what it does; answers the collections that jobs are
        ready for and that no worker serves."""
        with self._translated():
            unserved = await self._scripts.heartbeat(
                args=[worker_id, msgspec.msgpack.encode(info), WORKER_TIMEOUT_MS]
            )
        return frozenset(name.decode() for name in unserved)

    async def deregister(self, worker_id: str) -> None:
        """Forget this worker: it stopped on purpose."""
        with self._translated():
            async with self.redis.pipeline() as pipe:
                pipe.zrem(keys.WORKERS, worker_id)
                pipe.hdel(keys.WORKER_INFO, worker_id)
                await pipe.execute()

    def _translated(self) -> AbstractContextManager[None]:
        return translate_errors(self._config)


def _claim(
    job_id: bytes,
    token: int,
    payload: bytes,
    lane: bytes,
    submission: bytes,
    documents: int,
    failures: int,
    crashes: int,
    poison_documents: bytes,
    is_poison: int,
    aborted: int,
    collection: bytes,
) -> Claim:
    return Claim(
        job_id=job_id.decode(),
        token=token,
        payload=payload,
        lane=Lane(lane.decode()),
        submission=submission.decode(),
        documents=documents,
        failures=failures,
        crashes=crashes,
        poison_documents=frozenset(map(int, poison_documents.split())),
        is_poison=bool(is_poison),
        aborted=bool(aborted),
        collection=collection.decode(),
    )


def _lists(claim: Claim, report: BatchReport) -> Iterator[str | int | bytes]:
    """The lists that ``ack.lua`` takes, each after its length."""
    groups = {"documents": report.documents, "chunks": report.chunks}
    counts = {
        f"{group}.{name}": n
        for group, members in groups.items()
        for name, n in msgspec.structs.asdict(members).items()
        if n
    }
    if found := report.documents.total - claim.documents:
        counts["accepted"] = found
    yield len(counts)
    yield from chain.from_iterable(counts.items())
    yield len(report.dead)
    for dead_letter in report.dead:
        yield msgspec.msgpack.encode(FailedDocument(dead_letter.doc_id, dead_letter.reason))
    yield len(report.dead)
    for dead_letter in report.dead:
        yield dead_letter.key
        yield msgspec.msgpack.encode(dead_letter)
    yield len(report.resolved)
    yield from report.resolved
