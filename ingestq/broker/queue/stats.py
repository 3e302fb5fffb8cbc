"""What was submitted lately, and what ended lately."""

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
)

ABOUT_CHARACTERS: Final = 500
"""What is kept of a document's id, which may have any length."""


class EndedJob(Struct, frozen=True):
    """A job that ended, and what became of its documents.

    ``about`` is the first of them, or the job itself if it has none or cannot be read.
    ``finished_ms`` is Unix time in ms at the worker. Without ``success`` the job was given up.
    """

    function: str
    about: str
    success: bool
    documents: DocumentCounts
    chunks: ChunkCounts
    finished_ms: int
    seconds: float

    @classmethod
    def of(cls, report: BatchReport, result: JobResult, about: str) -> Self:
        """What is told of a job with this ``report`` and ``result``."""
        return cls(
            function=result.function,
            about=(about or result.job_id)[:ABOUT_CHARACTERS],
            success=result.success,
            documents=report.documents,
            chunks=report.chunks,
            finished_ms=result.finished_ms,
            seconds=(result.finished_ms - result.started_ms) / 1000,
        )


class RecentSubmission(Struct, frozen=True):
    """How far a submission is, and how long ago that last changed."""

    id: str
    changed_seconds_ago: float
    status: SubmissionStatus


class RecentWork(Struct, frozen=True):
    """The submissions that changed last and the jobs that ended last, the newest first."""

    submissions: Sequence[RecentSubmission]
    ended: Sequence[EndedJob]


class RecentWorkReader:
    """Remembers the last hundred submissions of a queue, and at least as many jobs."""

    def __init__(self, redis: Redis, config: BrokerConfig) -> None:
        self._config = config
        self._scripts = Scripts.register(redis)

    async def read(self, jobs: int) -> RecentWork:
        """All submissions that are remembered, and up to so many jobs, in one round trip.

        Raises BrokerUnavailable while Redis cannot be used.
        """
        with translate_errors(self._config):
            submissions, ended = await self._scripts.recent(args=[jobs])
        return RecentWork(
            [_submission(*row) for row in submissions],
            [msgspec.msgpack.decode(told, type=EndedJob) for told in reversed(ended)],
        )


def _submission(submission: bytes, changed_ms: int, counts: list[bytes]) -> RecentSubmission:
    status = SubmissionStatus.of(dict(zip(counts[::2], counts[1::2], strict=True)))
    return RecentSubmission(submission.decode(), changed_ms / 1000, status)
