"""The workers' side of the queue: claim under a lease, renew, ack, nack.

A claim carries a fencing token. Every later step compares it with the token in Redis within the
same script, so a worker that has lost its lease (it was suspended, or disconnected) cannot change
anything any more. All times are on the clock of Redis.
"""

import contextlib
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import chain
from typing import Final

import msgspec
from redis.asyncio import Redis

from ingestq.broker import keys
from ingestq.broker.blobs.store import BlobStore, delete_blobs_of
from ingestq.broker.connection import BrokerConfig, awaited, translate_errors
from ingestq.broker.queue.job_queue import SUBMISSION_SECONDS, WARNINGS_SECONDS
from ingestq.broker.queue.stats import EndedJob
from ingestq.broker.queue.versions import (
    LedgerReader,
    VersionOffset,
    compare_ledger,
    empty_ledger,
)
from ingestq.broker.scripts import Scripts
from ingestq.core.documents import Document, Lane
from ingestq.core.errors import ContractError
from ingestq.core.jobs import Job, decode_job
from ingestq.core.results import (
    LISTED_WARNINGS,
    WORKER_TIMEOUT_MS,
    BatchReport,
    DeadLetter,
    FailedDocument,
    HeldSource,
    JobResult,
    SubmissionStatus,
    WorkerInfo,
)
from ingestq.core.webhooks import Subscriptions, WebhookEvent, dead_letter_data

NO_WEBHOOKS: Final = Subscriptions()
RESULT_MS: Final = 3600 * 1000
"""How long the report of a finished job is kept for arq's ``Job.result()``."""


@dataclass(frozen=True)
class Claim:
    """A job that this worker owns for as long as its lease lasts.

    ``submission``, ``documents`` (how many) and ``collection`` are known even if the payload cannot
    be decoded. ``failures`` counts earlier tries, ``crashes`` the workers that died while they
    owned the job. A job with too many crashes ``is_poison`` and must be run alone, one document
    after the other; ``poison_documents`` has the indexes of the documents during which a worker
    died that did nothing else. An ``aborted`` job must be dead-lettered, not run.
    ``version_offset`` is to be added to versions before they are compared with the ledger's.
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
    version_offset: VersionOffset | None = None

    def job(self) -> Job:
        """Decode the job.

        Raises ContractError if the payload is not a job of a known version, or if its documents
        name another collection than the one it was queued for.
        """
        job = decode_job(self.payload)
        if job.batch.collection != self.collection:
            raise ContractError(
                f"its documents name the collection {job.batch.collection!r}, but it was queued "
                f"for {self.collection!r}"
            )
        return job


@dataclass(frozen=True)
class ClaimResult:
    """The answer to a claim.

    If ``drain`` is true, the worker must finish its running jobs; then it can claim a poison job.
    ``shut`` maps each collection whose gate is shut, so that none of its jobs was claimed, to the
    collection that replaced it, or to an empty string while the cut-over is under way (see
    `ingestq.broker.queue.gate`).
    """

    claims: Sequence[Claim]
    drain: bool
    shut: Mapping[str, str] = field(default_factory=dict)


class LeaseQueue:
    """The queue as a worker sees it.

    ``serving`` maps the public name of each collection that the worker serves to the collection
    behind it, to which gates belong. Blobs in ``blobs`` are deleted when no job needs them any
    more. ``read_ledger`` reads the head of a collection's ledger. The targets of ``webhooks`` are
    told of what happens. Every method raises BrokerUnavailable while Redis cannot be used.
    """

    def __init__(
        self,
        redis: Redis,
        config: BrokerConfig,
        lease_seconds: float,
        serving: Mapping[str, str],
        blobs: BlobStore | None = None,
        read_ledger: LedgerReader = empty_ledger,
        webhooks: Subscriptions = NO_WEBHOOKS,
    ) -> None:
        self.redis = redis
        self.serving = serving
        self.lease_seconds = lease_seconds
        self._config = config
        self._lease_ms = int(lease_seconds * 1000)
        self._scripts = Scripts.register(redis)
        self._blobs = blobs
        self._read_ledger = read_ledger
        self._webhooks = webhooks
        self._uncompared: Sequence[str] = list(serving)

    async def claim(self, worker_id: str, n: int, *, bulk: int, running: int) -> ClaimResult:
        """Claim up to ``n`` ready jobs, at most ``bulk`` of them from the bulk lane.

        ``running`` is the number of jobs that the worker owns already. Aborted jobs come first,
        then a poison job, alone. If both lanes have jobs, three of four are interactive. Within a
        lane, collections take turns.

        Before the first claim, and again if Redis has lost its data since, the ledgers are compared
        with the versions that Redis issues. Raises what ``read_ledger`` raises.
        """
        serving = list(chain.from_iterable(self.serving.items()))
        arguments: list[str | int] = [worker_id, n, bulk, running, self._lease_ms, *serving]
        while True:
            await self._compare_ledgers()
            with self._translated():
                rows, drain, shut, uncompared = await self._scripts.claim(args=arguments)
            self._uncompared = [name.decode() for name in uncompared]
            if rows or not uncompared:
                break
        names = [name.decode() for name in shut]
        gates = dict(zip(names[::2], names[1::2], strict=True))
        return ClaimResult([_claim(*row) for row in rows], bool(drain), gates)

    async def _compare_ledgers(self) -> None:
        for collection in self._uncompared:
            head = await self._read_ledger(collection)
            with self._translated():
                await compare_ledger(self._scripts, collection, head)
        self._uncompared = ()

    async def renew(self, claims: Sequence[Claim]) -> frozenset[int]:
        """Renew the leases of ``claims``; return the tokens of those that were lost."""
        pairs = [part for claim in claims for part in (claim.job_id, claim.token)]
        with self._translated():
            return frozenset(map(int, await self._scripts.renew(args=[self._lease_ms, *pairs])))

    async def aborted(self) -> frozenset[str]:
        """Return the ids of all jobs to be aborted, waiting or running."""
        with self._translated():
            return frozenset(
                job_id.decode() for job_id in await self.redis.zrange(keys.ABORT, 0, -1)
            )

    async def nack(self, claim: Claim, *, delay_seconds: float, counts_as_try: bool) -> bool:
        """Return the job to the queue, where it can be claimed again after ``delay_seconds``.

        Returns False, and does nothing, if the lease was lost.
        """
        with self._translated():
            return bool(
                await self._scripts.nack(
                    args=[claim.job_id, claim.token, int(delay_seconds * 1000), int(counts_as_try)]
                )
            )

    async def ack(
        self,
        claim: Claim,
        report: BatchReport,
        result: JobResult,
        *,
        about: str = "",
        tenant: str | None = None,
    ) -> bool:
        """Delete the job and record ``report`` under its submission, in one step.

        The same step writes what webhooks are told of it (`ingestq.broker.webhooks`).
        Afterwards, blobs that only the job or outdated dead letters referred to are deleted.

        If the report has more or fewer outcomes than the job has documents, the difference is added
        to the accepted documents: how many deletions a sweep makes is not known before.

        ``result`` is kept for arq's ``Job.result()``. ``about`` is the first document of the job,
        shown among recent jobs, and ``tenant`` its tenant, if that is known. Returns False, and
        records nothing, if the lease was lost.
        """
        ended = EndedJob.of(report, result, about, tenant, claim.collection)
        with self._translated():
            outdated = await self._scripts.ack(
                args=[
                    claim.job_id,
                    claim.token,
                    msgspec.msgpack.encode(result),
                    RESULT_MS,
                    SUBMISSION_SECONDS,
                    msgspec.msgpack.encode(ended),
                    WARNINGS_SECONDS,
                    LISTED_WARNINGS,
                    *_lists(claim, report),
                    *_webhook_lists(self._webhooks, report),
                ],
            )
        if outdated is None:
            return False
        dead_letters = [msgspec.msgpack.decode(raw, type=DeadLetter) for raw in outdated]
        payloads = [claim.payload, *(dead_letter.payload for dead_letter in dead_letters)]
        written = [dead for dead in report.dead if dead not in dead_letters]
        await delete_blobs_of(self._blobs, payloads, kept=[dead.payload for dead in written])
        return True

    async def unfinished(self, submission: str) -> int:
        """Return how many accepted documents of ``submission`` have no outcome yet."""
        with self._translated():
            status = await awaited(self.redis.hgetall(keys.SUBMISSION + submission))
        return SubmissionStatus.of(status).unfinished

    async def mark_alone(self, claim: Claim, index: int) -> bool:
        """Record that this worker processes the document at ``index`` and nothing else.

        Returns False if the lease was lost.
        """
        with self._translated():
            return bool(await self._scripts.mark_alone(args=[claim.job_id, claim.token, index]))

    async def report_progress(self, claim: Claim, *, chunks_done: int, chunks_known: int) -> None:
        """Publish the progress of a running job, until its ack or nack."""
        with self._translated():
            await awaited(
                self.redis.hset(
                    keys.SUBMISSION + claim.submission,
                    f"live:{claim.job_id}",
                    f"{chunks_done}/{chunks_known}",
                )
            )

    async def wait_for_work(self, lane: Lane, seconds: int) -> None:
        """Wait for up to ``seconds`` until a job of a served collection is ready in ``lane``."""
        lines = [f"{keys.WAKE}{lane}:{collection}" for collection in self.serving]
        with self._translated():
            await awaited(self.redis.blpop(lines, timeout=seconds))

    async def heartbeat(self, worker_id: str, info: WorkerInfo) -> frozenset[str]:
        """Record that a worker is alive, and what it does.

        Returns the collections that have ready jobs and that no live worker serves.
        """
        with self._translated():
            unserved = await self._scripts.heartbeat(
                args=[worker_id, msgspec.msgpack.encode(info), WORKER_TIMEOUT_MS]
            )
        return frozenset(name.decode() for name in unserved)

    async def deregister(self, worker_id: str) -> None:
        """Remove this worker from the live workers, because it stops."""
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
    version_offset: bytes,
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
        version_offset=VersionOffset.of(version_offset.decode()),
    )


def _lists(claim: Claim, report: BatchReport) -> Iterator[str | int | bytes]:
    """Yield the lists that ``ack.lua`` takes, each after its length."""
    groups = {
        "documents": report.documents,
        "chunks": report.chunks,
        "warned": report.warned,
        "usage": report.usage,
    }
    counts = {
        f"{group}.{name}": n
        for group, members in groups.items()
        for name, n in msgspec.structs.asdict(members).items()
        if n
    }
    if difference := report.documents.total - claim.documents:
        counts["accepted"] = difference
    yield len(counts)
    yield from chain.from_iterable(counts.items())
    yield len(report.dead)
    for dead_letter in report.dead:
        yield msgspec.msgpack.encode(FailedDocument(dead_letter.doc_id, dead_letter.reason))
    yield len(report.warnings)
    yield from map(msgspec.msgpack.encode, report.warnings)
    yield len(report.dead)
    for dead_letter in report.dead:
        yield dead_letter.key
        yield msgspec.msgpack.encode(dead_letter)
        yield _held_source(dead_letter)
        yield dead_letter.version
    yield len(report.resolved)
    yield from chain.from_iterable(report.resolved.items())


def _webhook_lists(webhooks: Subscriptions, report: BatchReport) -> Iterator[str | int | bytes]:
    """Yield what ``ack.lua`` takes for webhooks; nothing if there are none."""
    to_dead_letters = webhooks.to(WebhookEvent.DOCUMENT_DEAD_LETTERED)
    to_submissions = webhooks.to(WebhookEvent.SUBMISSION_FINISHED)
    if not (to_dead_letters or to_submissions):
        return
    about = [_about(dead_letter) for dead_letter in report.dead] if to_dead_letters else []
    for items in (to_dead_letters, about, to_submissions):
        yield len(items)
        yield from items
    yield f"msg_{uuid.uuid4().hex}_"


def _about(dead_letter: DeadLetter) -> bytes:
    """Return what webhooks say of a dead letter, in JSON."""
    source = None
    with contextlib.suppress(ContractError):  # then it is not known
        batch = decode_job(dead_letter.payload).known_batch
        if batch is not None and isinstance(document := batch.documents[0], Document):
            source = document.source
    return msgspec.json.encode(dead_letter_data(dead_letter, source))


def _held_source(dead_letter: DeadLetter) -> bytes:
    """Return what the dead letter holds back, encoded; empty if it is not that of a sweep."""
    held = dead_letter.held
    if held is None:
        return b""
    source = HeldSource(
        source=dead_letter.doc_id,
        tenant=dead_letter.tenant,
        collection=dead_letter.collection,
        documents=held.documents,
        first=held.first,
        reason=held.reason,
    )
    return msgspec.msgpack.encode(source)
