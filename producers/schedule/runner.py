"""Runs an entry under its lease, and records how that ended."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Final, Literal

import msgspec
import structlog
from msgspec import Struct

from ingestq.broker.connection import retry_until_redis_answers
from ingestq.broker.schedule.runs import Run, RunClaim, RunOutcome, Runs
from ingestq.core import events
from ingestq.core.errors import describe, expected_error, in_one_line
from ingestq.core.results import ChunkCounts, DocumentCounts
from ingestq.core.service import cancel
from producers.schedule.entry import Action, ScheduledEntry

log = structlog.get_logger()

RENEWALS: Final = 3
"""How often a lease is renewed in the time that it lasts."""
LAST_WORDS_SECONDS: Final = 3.0
"""How long whoever is told to stop may take to write down that the run was interrupted; if Redis is
away for longer, it is found out when the lease has run out."""
STOPPED: Final = "the scheduler was stopped"
NEED_SOMEBODY: Final = frozenset({RunOutcome.FAILED, RunOutcome.REFUSED})
"""Outcomes that somebody has to look at."""


class Result(Struct, frozen=True):
    """How an action ended, and what it did."""

    outcome: RunOutcome = RunOutcome.DONE
    detail: str = ""
    documents: DocumentCounts = DocumentCounts()
    chunks: ChunkCounts = ChunkCounts()
    submission: str | None = None


Act = Callable[[ScheduledEntry, Callable[[str], None]], Awaitable[Result]]
"""Does what an entry says. Tells the submission under which it queues, as soon as it is known. May
be called again after any interruption. What it raises is why it failed."""


class Runner:
    """Runs entries, with the ``actions`` that there are."""

    def __init__(self, runs: Runs, actions: Mapping[Action, Act]) -> None:
        self._runs = runs
        self._actions = actions

    async def run(
        self, entry: ScheduledEntry, claim: RunClaim, stopping: asyncio.Event
    ) -> Run | None:
        """Run ``entry`` to its end, or until ``stopping``, and write that down.

        None if the run was lost to somebody else, because its lease could not be renewed in time.
        Redis going away meanwhile costs time only.
        """
        queued: list[str] = []
        acting = asyncio.create_task(self._act(entry, queued.append))
        renewing = asyncio.create_task(self._renew(claim, queued))
        stop = asyncio.create_task(stopping.wait())
        try:
            await asyncio.wait({acting, renewing, stop}, return_when=asyncio.FIRST_COMPLETED)
            if acting.done():
                result = acting.result()
            elif renewing.done():
                renewing.result()
                log.warning(events.RUN_LOST, entry=entry.name)
                return None
            else:
                result = Result(RunOutcome.INTERRUPTED, STOPPED)
                await cancel(acting)
            submission = result.submission or next(reversed(queued), None)
            return await self._write_down(entry, claim, result, submission, stop)
        finally:
            await cancel(acting, renewing, stop)

    async def _act(self, entry: ScheduledEntry, queued: Callable[[str], None]) -> Result:
        act = partial(self._actions[entry.action], entry, queued)
        try:
            return await retry_until_redis_answers(act)
        except Exception as error:
            known = expected_error(error)
            if known is not None:
                return Result(RunOutcome.FAILED, describe(known))
            # A defect ends the run, and not all that come after it.
            log.exception(events.RUN_CRASHED, entry=entry.name)
            return Result(RunOutcome.FAILED, in_one_line(error))

    async def _renew(self, claim: RunClaim, queued: list[str]) -> None:
        """Returns when the run is lost."""
        while True:
            await asyncio.sleep(claim.lease_ms / 1000 / RENEWALS)
            submission = next(reversed(queued), None)
            if not await retry_until_redis_answers(partial(self._runs.renew, claim, submission)):
                return

    async def _write_down(
        self,
        entry: ScheduledEntry,
        claim: RunClaim,
        result: Result,
        submission: str | None,
        stop: asyncio.Task[Literal[True]],
    ) -> Run | None:
        run = msgspec.structs.replace(
            claim.run,
            outcome=result.outcome,
            detail=result.detail,
            submission=submission,
            documents=result.documents,
            chunks=result.chunks,
        )
        writing = asyncio.create_task(retry_until_redis_answers(partial(self._end, claim, run)))
        try:
            await asyncio.wait({writing, stop}, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait({writing}, timeout=LAST_WORDS_SECONDS)
            ended = writing.result() if writing.done() else None
        finally:
            await cancel(writing)
        if ended is None:
            log.warning(events.RUN_LOST, entry=entry.name)
            return None
        say = log.warning if ended.outcome in NEED_SOMEBODY else log.info
        say(
            events.RUN_ENDED,
            entry=entry.name,
            outcome=ended.outcome.value,
            seconds=ended.seconds,
            detail=ended.detail,
        )
        return ended

    async def _end(self, claim: RunClaim, run: Run) -> Run | None:
        ended = msgspec.structs.replace(run, finished_ms=await self._runs.now_ms())
        return ended if await self._runs.end(claim, ended) else None
