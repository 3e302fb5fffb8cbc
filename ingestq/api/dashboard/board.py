"""The state that the dashboard shows, read once for all viewers."""

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import structlog
from redis.exceptions import RedisError

from ingestq.api.dashboard.plots import SAMPLE_SECONDS, History, Sample
from ingestq.api.routes.monitoring import PROBE_SECONDS
from ingestq.broker.queue.dead_letters import DeadLetterId, DeadLetters
from ingestq.broker.queue.job_queue import JobQueue
from ingestq.broker.queue.stats import EndedJob, RecentSubmission, RecentWorkReader
from ingestq.broker.schedule.runs import EntryStatus, Runs
from ingestq.core import events
from ingestq.core.errors import ServiceUnavailable, UsageError
from ingestq.core.results import Overview
from ingestq.core.service import happens_within

log = structlog.get_logger()

MARK_SECONDS: Final = 5.0
"""Minimum time between two measurements of a speed."""
MARKS: Final = 13
"""Number of measurements kept, so that the speed is that of the last minute or two."""


@dataclass(frozen=True)
class Mark:
    """The number of documents done at a time of the monotonic clock."""

    at: float
    done: int


@dataclass
class Pace:
    """Estimates the time that recent submissions will still take, from their recent speed."""

    _marks: dict[str, deque[Mark]] = field(default_factory=dict)

    def seconds_left(self, now: float, submissions: Sequence[RecentSubmission]) -> dict[str, float]:
        """Return the estimates at ``now``, by submission, as far as the speed is known."""
        marks = {s.id: self._marks.get(s.id, deque(maxlen=MARKS)) for s in submissions}
        self._marks = marks
        left = {}
        for submission in submissions:
            status, known = submission.status, marks[submission.id]
            mark = Mark(now, status.documents.total)
            if not known or now - known[-1].at >= MARK_SECONDS:
                known.append(mark)
            remaining = status.accepted - mark.done
            if remaining > 0 and (speed := _speed(known[0], mark)) > 0:
                left[submission.id] = remaining / speed
        return left


def _speed(first: Mark, last: Mark) -> float:
    """Return documents per second; 0 if it is too early to tell."""
    seconds = last.at - first.at
    return (last.done - first.done) / seconds if seconds >= MARK_SECONDS else 0.0


FRESH_SECONDS: Final = 1.0
"""A view is shown to all viewers for this long before it is read again."""
SHOWN_SUBMISSIONS: Final = 8
SHOWN_JOBS: Final = 12
SHOWN_DEAD_LETTERS: Final = 20


@dataclass(frozen=True)
class DeadLetterRow:
    """A dead letter without its document, which may be large."""

    key: str
    doc_id: str
    collection: str
    tenant: str
    reason: str
    tries: int
    failed_ms: int


@dataclass(frozen=True)
class QueueSnapshot:
    """The state at one moment. ``seconds_left`` has the submissions that have an estimate."""

    taken_ms: int
    overview: Overview
    submissions: Sequence[RecentSubmission]
    seconds_left: dict[str, float]
    ended: Sequence[EndedJob]
    dead_letters: Sequence[DeadLetterRow]
    entries: Sequence[EntryStatus]


@dataclass(frozen=True)
class View:
    """What the page shows: the last snapshot, if there is one.

    ``problem`` says why the snapshot is not current; None if it is. ``at`` is the time of reading,
    on the same clock as the ``samples``.
    """

    at: float
    snapshot: QueueSnapshot | None
    problem: str | None
    samples: Sequence[Sample]


class Board:
    """Reads the state for all viewers, and every ten seconds for the ``history``.

    It is read at most once a second however many viewers there are, and each dead letter only once.
    """

    def __init__(
        self,
        queue: JobQueue,
        dead_letters: DeadLetters,
        recent: RecentWorkReader,
        runs: Runs,
        history: History,
    ) -> None:
        self._queue = queue
        self._dead_letters = dead_letters
        self._recent = recent
        self._runs = runs
        self._history = history
        self._pace = Pace()
        self._known_dead_letters: dict[DeadLetterId, DeadLetterRow] = {}
        self._view: View | None = None
        self._turn = asyncio.Lock()

    async def run(self, stopping: asyncio.Event) -> None:
        """Keep the history until ``stopping`` is set."""
        while not stopping.is_set():
            await self.view()
            await happens_within(stopping, SAMPLE_SECONDS)

    async def view(self, *, fresh: bool = False) -> View:
        """Return the state: the current one if ``fresh``, else at most a second old."""
        async with self._turn:
            now = time.monotonic()
            if self._view is None or fresh or now - self._view.at >= FRESH_SECONDS:
                self._view = await self._read(now, self._view)
            return self._view

    async def _read(self, now: float, before: View | None) -> View:
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                snapshot = await self._snapshot(now)
        except TimeoutError:
            problem = f"Redis does not answer within {PROBE_SECONDS:g} s"
        except (ServiceUnavailable, UsageError) as error:  # UsageError: it refuses our credentials
            problem = str(error)
        except RedisError as error:  # any other error must not stop the server
            problem = f"Redis answers with an error: {error}"
        else:
            return View(now, snapshot, None, self._history.samples())
        if before is None or before.problem is None:
            log.warning(events.SERVICE_AWAY, error=problem, retry_in=SAMPLE_SECONDS)
        last = None if before is None else before.snapshot
        return View(now, last, problem, self._history.samples())

    async def _snapshot(self, now: float) -> QueueSnapshot:
        overview = await self._queue.overview()
        work = await self._recent.read(SHOWN_JOBS)
        self._history.add(Sample.of(overview, now))
        running_first = sorted(work.submissions, key=lambda submission: submission.status.complete)
        return QueueSnapshot(
            taken_ms=time.time_ns() // 1_000_000,
            overview=overview,
            submissions=running_first[:SHOWN_SUBMISSIONS],
            seconds_left=self._pace.seconds_left(now, work.submissions),
            ended=work.ended,
            dead_letters=await self._newest_dead_letters(),
            entries=await self._runs.overview(),
        )

    async def _newest_dead_letters(self) -> list[DeadLetterRow]:
        names = await self._dead_letters.newest(SHOWN_DEAD_LETTERS)
        known = {name: self._known_dead_letters.get(name) for name in names}
        for name, dead_letter in known.items():
            if dead_letter is None:  # one at a time: each brings its document
                known[name] = await self._read_dead_letter(name)
        self._known_dead_letters = {
            name: dead_letter for name, dead_letter in known.items() if dead_letter is not None
        }
        return list(self._known_dead_letters.values())

    async def _read_dead_letter(self, name: DeadLetterId) -> DeadLetterRow | None:
        for stored in await self._dead_letters.get([name.key]):
            found = stored.dead_letter
            return DeadLetterRow(
                key=name.key,
                doc_id=found.doc_id,
                collection=found.collection,
                tenant=found.tenant,
                reason=found.reason,
                tries=found.tries,
                failed_ms=found.failed_ms,
            )
        return None
