"""The state that the dashboard shows, read once for all viewers."""

import asyncio
import math
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from redis.exceptions import RedisError

from ingestq.api.dashboard.plots import SAMPLE_SECONDS, History, Sample
from ingestq.api.routes.monitoring import IndexCounter
from ingestq.broker.queue.dead_letters import DeadLetterId, DeadLetters
from ingestq.broker.queue.job_queue import JobQueue
from ingestq.broker.queue.stats import EndedJob, RecentSubmission, RecentWorkReader
from ingestq.broker.schedule.runs import EntryStatus, Runs
from ingestq.core.errors import BrokerUnavailable, ServiceUnavailable, UsageError
from ingestq.core.outages import note_failure
from ingestq.core.results import IndexOverview, Overview
from ingestq.core.service import happens_within
from ingestq.core.urls import without_secrets
from ingestq.monitoring.health_checks import PROBE_SECONDS

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
SHOWN_WARNED: Final = 20
"""Documents with warnings that are shown of each collection."""
COUNT_SECONDS: Final = 10.0
"""How long the counts of the collections are shown before they are read again."""


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
    on the same clock as the ``samples``. ``index`` is what the collections hold.
    """

    at: float
    snapshot: QueueSnapshot | None
    problem: str | None
    samples: Sequence[Sample]
    index: IndexOverview


class Board:
    """Reads the state for all viewers, and every ten seconds for the ``history``.

    It is read at most once a second however many viewers there are, and each dead letter only once.
    What the collections hold is read for viewers only, and less often; without ``count`` it is
    unknown.
    """

    def __init__(
        self,
        queue: JobQueue,
        dead_letters: DeadLetters,
        recent: RecentWorkReader,
        runs: Runs,
        history: History,
        count: IndexCounter | None = None,
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
        self._count = count
        self._index = IndexOverview()
        self._counted_at = -math.inf
        self._counting = asyncio.Lock()

    async def run(self, stopping: asyncio.Event) -> None:
        """Keep the history until ``stopping`` is set."""
        while not stopping.is_set():
            await self._current(fresh=False)
            await happens_within(stopping, SAMPLE_SECONDS)

    async def view(self, *, fresh: bool = False) -> View:
        """Return the state: the current one if ``fresh``, else at most a second old."""
        await self._count_again()
        return await self._current(fresh=fresh)

    async def _count_again(self) -> None:
        async with self._counting:
            if self._count is not None and time.monotonic() - self._counted_at >= COUNT_SECONDS:
                self._index = await self._count(SHOWN_WARNED)
                self._counted_at = time.monotonic()

    async def _current(self, *, fresh: bool) -> View:
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
            problem = without_secrets(str(error))
        except RedisError as error:  # any other error must not stop the server
            problem = without_secrets(f"Redis answers with an error: {error}")
        else:
            return View(now, snapshot, None, self._history.samples(), self._index)
        note_failure(BrokerUnavailable(problem))
        last = None if before is None else before.snapshot
        return View(now, last, problem, self._history.samples(), self._index)

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
