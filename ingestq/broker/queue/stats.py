"""Recent submissions and recently finished jobs."""

from collections.abc import Sequence
from typing import Final, Self

import msgspec
from msgspec import Struct
from redis.asyncio import Redis

from ingestq.broker.connection import BrokerConfig, translate_errors
from ingestq.broker.scripts import Scripts
from ingestq.core.results import (
    BatchReport,
    ChunkCounts,
    DocumentCounts,
    JobResult,
    SubmissionStatus,
    WarningCounts,
)

ABOUT_CHARACTERS: Final = 500
"""How much of a document's id is kept; an id may have any length."""


class EndedJob(Struct, frozen=True):
    """A finished job and the outcomes of its documents.

    ``about`` is the id of the first document, or of the job if it has none or cannot be read.
    ``finished_ms`` is Unix time in ms at the worker. If ``success`` is false the job failed for
    good. ``tenant`` and ``collection`` are those of its documents; None if they are not known.
    """

    function: str
    about: str
    success: bool
    documents: DocumentCounts
    chunks: ChunkCounts
    finished_ms: int
    seconds: float
    warned: WarningCounts = WarningCounts()
    tenant: str | None = None
    collection: str | None = None

    @classmethod
    def of(
        cls, report: BatchReport, result: JobResult, about: str, tenant: str | None, collection: str
    ) -> Self:
        """Return the summary of a job with this ``report`` and ``result``."""
        return cls(
            function=result.function,
            about=(about or result.job_id)[:ABOUT_CHARACTERS],
            success=result.success,
            documents=report.documents,
            chunks=report.chunks,
            finished_ms=result.finished_ms,
            seconds=(result.finished_ms - result.started_ms) / 1000,
            warned=report.warned,
            tenant=tenant,
            collection=collection,
        )


class RecentSubmission(Struct, frozen=True):
    """The progress of a submission, and how many seconds ago it last changed."""

    id: str
    changed_seconds_ago: float
    status: SubmissionStatus


class RecentWork(Struct, frozen=True):
    """The submissions that changed last and the jobs that finished last, newest first."""

    submissions: Sequence[RecentSubmission]
    ended: Sequence[EndedJob]


class RecentWorkReader:
    """Reads the last hundred submissions of a queue, and up to a hundred finished jobs."""

    def __init__(self, redis: Redis, config: BrokerConfig) -> None:
        self._config = config
        self._scripts = Scripts.register(redis)

    async def read(self, jobs: int) -> RecentWork:
        """Return all recent submissions, and up to ``jobs`` finished jobs, in one round trip.

        Raises BrokerUnavailable while Redis cannot be used.
        """
        with translate_errors(self._config):
            submissions, ended = await self._scripts.recent(args=[jobs])
        return RecentWork(
            [_submission(*row) for row in submissions],
            [msgspec.msgpack.decode(job, type=EndedJob) for job in reversed(ended)],
        )


def _submission(submission: bytes, changed_ms: int, counts: list[bytes]) -> RecentSubmission:
    status = SubmissionStatus.of(dict(zip(counts[::2], counts[1::2], strict=True)))
    return RecentSubmission(submission.decode(), changed_ms / 1000, status)
