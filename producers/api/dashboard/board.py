"""How things stand, read once for however many look."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import structlog
from redis.exceptions import RedisError

from broker import events
from broker.dead_letters import DeadLetters, LetterName
from broker.errors import ServiceUnavailable, UsageError
from broker.queue import JobQueue
from broker.recent import Ended, Recent, RecentSubmission
from broker.runs import EntryStatus, Runs
from broker.status import Overview
from producers.api.dashboard.history import SAMPLE_SECONDS, History, Sample
from producers.api.dashboard.pace import Pace
from producers.api.probe import PROBE_SECONDS

FRESH_SECONDS: Final = 1.0
"""What was read less than this ago is shown to others, too."""
SHOWN_SUBMISSIONS: Final = 8
SHOWN_JOBS: Final = 12
SHOWN_LETTERS: Final = 20

log = structlog.get_logger()


@dataclass(frozen=True)
class Letter:
    """What is shown of a dead letter: all but the document, which may be large."""

    key: str
    doc_id: str
    collection: str
    tenant: str
    reason: str
    tries: int
    buried_ms: int


@dataclass(frozen=True)
class Standing:
    """How things stood at a moment; ``seconds_left`` of the submissions where it can be known."""

    taken_ms: int
    overview: Overview
    submissions: Sequence[RecentSubmission]
    seconds_left: dict[str, float]
    ended: Sequence[Ended]
    letters: Sequence[Letter]
    entries: Sequence[EntryStatus]


@dataclass(frozen=True)
class View:
    """What can be shown: how things stood last, if ever, and why that is not now.

    ``at`` is when it was read, of the clock of the ``samples``.
    """

    at: float
    standing: Standing | None
    problem: str | None
    samples: Sequence[Sample]


class Board:
    """Reads how things stand: for who looks, and every ten seconds for the ``history``.

    However many look, it is read once a second at most, and of each dead letter once.
    """

    def __init__(
        self,
        queue: JobQueue,
        letters: DeadLetters,
        recent: Recent,
        runs: Runs,
        history: History,
    ) -> None:
        self._queue = queue
        self._letters = letters
        self._recent = recent
        self._runs = runs
        self._history = history
        self._pace = Pace()
        self._known_letters: dict[LetterName, Letter] = {}
        self._view: View | None = None
        self._turn = asyncio.Lock()

    async def run(self, stopping: asyncio.Event) -> None:
        """Keep the history until ``stopping`` is set."""
        while not stopping.is_set():
            await self.look()
            with suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), SAMPLE_SECONDS)

    async def look(self, *, fresh: bool = False) -> View:
        """How things stand; with ``fresh`` as of now, else as of a second ago at most."""
        async with self._turn:
            now = time.monotonic()
            if self._view is None or fresh or now - self._view.at >= FRESH_SECONDS:
                self._view = await self._read(now, self._view)
            return self._view

    async def _read(self, now: float, before: View | None) -> View:
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                standing = await self._standing(now)
        except TimeoutError:
            problem = f"Redis does not answer within {PROBE_SECONDS:g} s"
        except (ServiceUnavailable, UsageError) as error:  # the latter: it refuses our credentials
            problem = str(error)
        except RedisError as error:  # any other answer: this is not what the server is there for
            problem = f"Redis refuses to answer: {error}"
        else:
            return View(now, standing, None, self._history.samples())
        if before is None or before.problem is None:
            log.warning(events.SERVICE_AWAY, error=problem, retry_in=SAMPLE_SECONDS)
        last = None if before is None else before.standing
        return View(now, last, problem, self._history.samples())

    async def _standing(self, now: float) -> Standing:
        overview = await self._queue.overview()
        work = await self._recent.read(SHOWN_JOBS)
        self._history.add(Sample.of(overview, now))
        running_first = sorted(work.submissions, key=lambda submission: submission.status.complete)
        return Standing(
            taken_ms=time.time_ns() // 1_000_000,
            overview=overview,
            submissions=running_first[:SHOWN_SUBMISSIONS],
            seconds_left=self._pace.seconds_left(now, work.submissions),
            ended=work.ended,
            letters=await self._newest_letters(),
            entries=await self._runs.overview(),
        )

    async def _newest_letters(self) -> list[Letter]:
        names = await self._letters.newest(SHOWN_LETTERS)
        known = {name: self._known_letters.get(name) for name in names}
        for name, letter in known.items():
            if letter is None:  # one at a time, as each has its document with it
                known[name] = await self._read_letter(name)
        self._known_letters = {name: letter for name, letter in known.items() if letter is not None}
        return list(self._known_letters.values())

    async def _read_letter(self, name: LetterName) -> Letter | None:
        for stored in await self._letters.named([name.key]):
            found = stored.letter
            return Letter(
                key=name.key,
                doc_id=found.doc_id,
                collection=found.collection,
                tenant=found.tenant,
                reason=found.reason,
                tries=found.tries,
                buried_ms=found.buried_ms,
            )
        return None
