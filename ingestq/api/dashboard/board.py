"""The state that the dashboard shows, read once for all viewers."""

import asyncio
import math
import time
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from redis.exceptions import RedisError

from ingestq.api.dashboard.plots import SAMPLE_SECONDS, History, Sample
from ingestq.api.routes.dead_letters import may_see
from ingestq.api.routes.monitoring import IndexCounter
from ingestq.api.routes.submissions import may_follow
from ingestq.broker.queue.dead_letters import DeadLetterId, DeadLetters
from ingestq.broker.queue.job_queue import JobQueue
from ingestq.broker.queue.stats import EndedJob, RecentSubmission, RecentWork, RecentWorkReader
from ingestq.broker.schedule.runs import EntryStatus, Runs
from ingestq.core.errors import BrokerUnavailable, ServiceUnavailable, UsageError
from ingestq.core.outages import note_failure
from ingestq.core.results import IndexOverview, Overview, QueueDepth
from ingestq.core.service import happens_within
from ingestq.core.tokens import UNLIMITED, Principal
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
READ_JOBS: Final = 100
"""Finished jobs that are read, so that those of one tenant are among them."""
MAX_LIMITED_BOARDS: Final = 64
"""Tenants whose parts of the state are kept between two views."""
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
    """The state at one moment. ``seconds_left`` has the submissions that have an estimate.

    ``recent`` has more submissions and jobs than are shown.
    """

    taken_ms: int
    overview: Overview
    submissions: Sequence[RecentSubmission]
    seconds_left: dict[str, float]
    ended: Sequence[EndedJob]
    dead_letters: Sequence[DeadLetterRow]
    entries: Sequence[EntryStatus]
    recent: RecentWork


@dataclass(frozen=True)
class View:
    """What the page shows: the last snapshot, if there is one.

    It ``is_part`` of the state if its reader has a token for a tenant or for some collections.
    ``problem`` says why the snapshot is not current; None if it is. ``at`` is the time of reading,
    on the same clock as the ``samples``. ``index`` is what the collections hold.
    """

    at: float
    snapshot: QueueSnapshot | None
    problem: str | None
    samples: Sequence[Sample]
    index: IndexOverview
    is_part: bool = False


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
        self._rows = _DeadLetterRows(dead_letters)
        self._limited_boards: OrderedDict[
            tuple[str | None, frozenset[str] | None], _LimitedBoard
        ] = OrderedDict()
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

    async def view(self, principal: Principal = UNLIMITED, *, fresh: bool = False) -> View:
        """Return the state: the current one if ``fresh``, else at most a second old.

        It has only what exists for ``principal``.
        """
        if principal.is_limited:
            return await self._limited_board(principal).view(await self._current(fresh=fresh))
        await self._count_again()
        return await self._current(fresh=fresh)

    def _limited_board(self, principal: Principal) -> "_LimitedBoard":
        scope = principal.tenant, principal.collections
        board = self._limited_boards.pop(scope, None)
        if board is None:
            board = _LimitedBoard(principal, self._dead_letters, self._count)
        self._limited_boards[scope] = board  # at the end
        if len(self._limited_boards) > MAX_LIMITED_BOARDS:
            self._limited_boards.popitem(last=False)
        return board

    async def _count_again(self) -> None:
        async with self._counting:
            if self._count is not None and time.monotonic() - self._counted_at >= COUNT_SECONDS:
                self._index = await self._count(SHOWN_WARNED)
                self._counted_at = time.monotonic()

    async def _current(self, *, fresh: bool) -> View:
        asked = time.monotonic()
        async with self._turn:
            # All who waited while Redis was slow get what was read since they asked.
            oldest = asked if fresh else asked - FRESH_SECONDS
            if self._view is None or self._view.at <= oldest:
                self._view = await self._read(time.monotonic(), self._view)
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
        work = await self._recent.read(READ_JOBS)
        self._history.add(Sample.of(overview, now))
        running_first = sorted(work.submissions, key=lambda submission: submission.status.complete)
        return QueueSnapshot(
            taken_ms=time.time_ns() // 1_000_000,
            overview=overview,
            submissions=running_first[:SHOWN_SUBMISSIONS],
            seconds_left=self._pace.seconds_left(now, work.submissions),
            ended=work.ended[:SHOWN_JOBS],
            dead_letters=await self._rows.read(await self._dead_letters.newest(SHOWN_DEAD_LETTERS)),
            entries=await self._runs.overview(),
            recent=work,
        )


class _DeadLetterRows:
    """Reads dead letters for the page, each only once: it brings its document."""

    def __init__(self, dead_letters: DeadLetters) -> None:
        self._dead_letters = dead_letters
        self._known: dict[DeadLetterId, DeadLetterRow] = {}

    async def read(self, names: Sequence[DeadLetterId]) -> list[DeadLetterRow]:
        """Return the dead letters with these ``names`` that still exist."""
        known = {name: self._known.get(name) for name in names}
        for name, dead_letter in known.items():
            if dead_letter is None:  # one at a time
                known[name] = await self._read_one(name)
        self._known = {
            name: dead_letter for name, dead_letter in known.items() if dead_letter is not None
        }
        return list(self._known.values())

    async def _read_one(self, name: DeadLetterId) -> DeadLetterRow | None:
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


class _LimitedBoard:
    """What exists of the state for one ``principal``, whose token is for a tenant or collections.

    The numbers of the queue, the workers and the schedule are of everybody: they are left out.
    """

    def __init__(
        self, principal: Principal, dead_letters: DeadLetters, count: IndexCounter | None
    ) -> None:
        self._principal = principal
        self._dead_letters = dead_letters
        self._count = count
        self._rows = _DeadLetterRows(dead_letters)
        self._turn = asyncio.Lock()
        self._index = IndexOverview()
        self._counted_at = -math.inf
        self._whole: View | None = None
        self._view: View | None = None

    async def view(self, whole: View) -> View:
        """Return what of the ``whole`` state exists for the principal."""
        async with self._turn:
            if self._view is None or self._whole is not whole:
                self._view = await self._read(whole, self._view)
                self._whole = whole
            return self._view

    async def _read(self, whole: View, before: View | None) -> View:
        if self._count is not None and time.monotonic() - self._counted_at >= COUNT_SECONDS:
            self._index = await self._count(SHOWN_WARNED, principal=self._principal)
            self._counted_at = time.monotonic()
        snapshot = None if before is None else before.snapshot
        problem = whole.problem
        if whole.snapshot is not None and problem is None:
            try:
                async with asyncio.timeout(PROBE_SECONDS):
                    snapshot = await self._snapshot(whole.snapshot)
            except (TimeoutError, ServiceUnavailable, UsageError, RedisError):
                problem = "Redis does not answer"
        return View(whole.at, snapshot, problem, (), self._index, is_part=True)

    async def _snapshot(self, whole: QueueSnapshot) -> QueueSnapshot:
        principal, overview = self._principal, whole.overview
        total, newest = await self._dead_letters.count(
            partial(may_see, principal), listed=SHOWN_DEAD_LETTERS
        )
        recent = whole.recent
        submissions = [each for each in recent.submissions if may_follow(principal, each.status)]
        submissions.sort(key=lambda submission: submission.status.complete)  # running ones first
        ended = [job for job in recent.ended if principal.sees(job.tenant, job.collection)]
        part = Overview(
            QueueDepth(0, 0, 0, 0.0, 0, total, 0, 0, 0),
            [],
            watched_folders=[
                folder
                for folder in overview.watched_folders
                if principal.sees(folder.tenant, folder.collection)
            ],
            held_back=[
                source
                for source in overview.held_back
                if principal.sees(source.tenant, source.collection)
            ],
        )
        return QueueSnapshot(
            taken_ms=whole.taken_ms,
            overview=part,
            submissions=submissions[:SHOWN_SUBMISSIONS],
            seconds_left=whole.seconds_left,
            ended=ended[:SHOWN_JOBS],
            dead_letters=await self._rows.read(newest),
            entries=(),
            recent=recent,
        )
