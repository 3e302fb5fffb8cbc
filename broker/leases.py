"""The workers' side of the queue: claim under a lease, renew, put back, finish.

A claim carries a fencing token. Every later step compares it with the one in Redis in the same
script, so a worker that lost its lease (it was stopped, or cut off) changes nothing any more.
All times are those of Redis.
"""

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import chain
from typing import Final

import msgspec
from arq.connections import ArqRedis

from broker import keys
from broker.connection import BrokerConfig, awaited, translated
from broker.contract import BatchReport, FailedDocument, JobResult
from broker.queue import SUBMISSION_SECONDS
from broker.scripts import Scripts

RESULT_MS: Final = 3600 * 1000
"""How long arq's ``Job.result()`` can read the report of a finished job."""
SILENT_WORKER_MS: Final = 60_000
"""A worker that gave no sign of life for this long is forgotten."""


@dataclass(frozen=True)
class Claim:
    """A job this worker owns as long as its lease lasts. ``failures`` counts earlier tries."""

    job_id: str
    token: int
    payload: bytes
    failures: int


class LeaseQueue:
    """The queue as a worker sees it.

    Every method raises BrokerUnavailable while Redis cannot be used.
    """

    def __init__(self, redis: ArqRedis, config: BrokerConfig, lease_seconds: float) -> None:
        self.redis = redis
        self.lease_seconds = lease_seconds
        self._config = config
        self._lease_ms = int(lease_seconds * 1000)
        self._scripts = Scripts.register(redis)

    async def claim(self, n: int) -> list[Claim]:
        """Claim up to ``n`` jobs that are due, oldest first."""
        with self._translated():
            rows = await self._scripts.claim(
                keys=[keys.QUEUE, keys.FENCE],
                args=[n, self._lease_ms, keys.JOB, keys.LEASE, keys.FAILURES],
            )
        return [
            Claim(job_id.decode(), token, payload, failures)
            for job_id, token, payload, failures in rows
        ]

    async def renew(self, claims: Sequence[Claim]) -> frozenset[int]:
        """Renew the leases of ``claims``; answers the tokens of those that are lost."""
        pairs = [part for claim in claims for part in (claim.job_id, claim.token)]
        with self._translated():
            lost = await self._scripts.renew(
                keys=[keys.QUEUE], args=[self._lease_ms, keys.LEASE, *pairs]
            )
        return frozenset(map(int, lost))

    async def put_back(
        self, claim: Claim, submission: str, *, delay_seconds: float, failed: bool
    ) -> bool:
        """Let the job be claimed again after ``delay_seconds``.

        ``failed`` says whether this counts as a try. False if the job was not ours any more.
        """
        with self._translated():
            return bool(
                await self._scripts.put_back(
                    keys=[
                        keys.QUEUE,
                        keys.LEASE + claim.job_id,
                        keys.FAILURES + claim.job_id,
                        keys.WAKE,
                        keys.SUBMISSION + submission,
                    ],
                    args=[claim.job_id, claim.token, int(delay_seconds * 1000), int(failed)],
                )
            )

    async def finish(
        self, claim: Claim, submission: str, report: BatchReport, result: JobResult
    ) -> bool:
        """Remove the job and record ``report`` under ``submission``, in one step.

        False if the job was not ours any more; then nothing was recorded.
        """
        with self._translated():
            return bool(
                await self._scripts.finish(
                    keys=[
                        keys.QUEUE,
                        keys.JOB + claim.job_id,
                        keys.LEASE + claim.job_id,
                        keys.FAILURES + claim.job_id,
                        keys.RESULT + claim.job_id,
                        keys.ABORT,
                        keys.QUEUED_BYTES,
                        keys.SUBMISSION + submission,
                        keys.FAILED_DOCUMENTS + submission,
                        keys.DEAD,
                    ],
                    args=[
                        claim.job_id,
                        claim.token,
                        msgspec.msgpack.encode(result),
                        RESULT_MS,
                        SUBMISSION_SECONDS,
                        *_lists(report),
                    ],
                )
            )

    async def report_progress(
        self, claim: Claim, submission: str, *, chunks_done: int, chunks_known: int
    ) -> None:
        """Show how far a running job is; the figures go when it is finished or put back."""
        with self._translated():
            await awaited(
                self.redis.hset(
                    keys.SUBMISSION + submission,
                    f"live:{claim.job_id}",
                    f"{chunks_done}/{chunks_known}",
                )
            )

    async def wait_for_work(self, seconds: int) -> None:
        """Return as soon as a job is enqueued, or after ``seconds``."""
        with self._translated():
            await awaited(self.redis.blpop([keys.WAKE], timeout=seconds))

    async def sign_of_life(self, worker_id: str) -> None:
        """Record that this process works on the queue."""
        info = msgspec.msgpack.encode((socket.gethostname(), os.getpid()))
        with self._translated():
            await self._scripts.heartbeat(
                keys=[keys.WORKERS, keys.WORKER_INFO], args=[worker_id, info, SILENT_WORKER_MS]
            )

    async def sign_off(self, worker_id: str) -> None:
        """Forget this worker: it stopped on purpose."""
        with self._translated():
            async with self.redis.pipeline() as pipe:
                pipe.zrem(keys.WORKERS, worker_id)
                pipe.hdel(keys.WORKER_INFO, worker_id)
                await pipe.execute()

    def _translated(self) -> AbstractContextManager[None]:
        return translated(self._config)


def _lists(report: BatchReport) -> Iterator[str | int | bytes]:
    """The lists that ``finish.lua`` takes, each after its length."""
    groups = {"documents": report.documents, "chunks": report.chunks}
    counts = {
        f"{group}.{name}": n
        for group, members in groups.items()
        for name, n in msgspec.structs.asdict(members).items()
        if n
    }
    yield len(counts)
    yield from chain.from_iterable(counts.items())
    yield len(report.dead)
    for letter in report.dead:
        yield msgspec.msgpack.encode(FailedDocument(letter.doc_id, letter.reason))
    yield len(report.dead)
    for letter in report.dead:
        yield letter.key
        yield msgspec.msgpack.encode(letter)
    yield len(report.healed)
    yield from report.healed
