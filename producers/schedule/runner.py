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
"""Renewals in the duration of a lease."""
RECORD_SECONDS: Final = 3.0
"""Time that a stopping scheduler may take to record that a run was interrupted. If Redis is away
longer than that, another scheduler records it when the lease has expired."""
STOPPED: Final = "the scheduler was stopped"
NEED_ATTENTION: Final = frozenset({RunOutcome.FAILED, RunOutcome.REFUSED})
"""Outcomes that an operator has to look at."""


class ActionResult(Struct, frozen=True):
    """How an action ended, what it did, and the submission under which it queued."""

    outcome: RunOutcome = RunOutcome.DONE
    detail: str = ""
    documents: DocumentCounts = DocumentCounts()
    chunks: ChunkCounts = ChunkCounts()
    submission: str | None = None


ActionHandler = Callable[[ScheduledEntry, Callable[[str], None]], Awaitable[ActionResult]]
"""Performs the action of an entry. Calls the second argument with its submission as soon as that is
known. May be called again after any interruption. What it raises is the reason of the failure."""


class Runner:
    """Runs entries, with a handler for each of their actions."""

    def __init__(self, runs: Runs, handlers: Mapping[Action, ActionHandler]) -> None:
        self._runs = runs
        self._handlers = handlers
        self._refused: set[str] = set()

    async def run(
        self, entry: ScheduledEntry, claim: RunClaim, stopping: asyncio.Event
    ) -> Run | None:
        """Run ``entry`` to its end, or until ``stopping``, and return the recorded run.

        None if another scheduler took the run over because its lease was not renewed in time. Waits
        while Redis is away.
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
                result = ActionResult(RunOutcome.INTERRUPTED, STOPPED)
                await cancel(acting)
            submission = result.submission or next(reversed(queued), None)
            return await self._record(entry, claim, result, submission, stop)
        finally:
            await cancel(acting, renewing, stop)

    async def _act(self, entry: ScheduledEntry, queued: Callable[[str], None]) -> ActionResult:
        handle = partial(self._handlers[entry.action], entry, queued)
        try:
            return await retry_until_redis_answers(handle)
        except Exception as error:
            known = expected_error(error)
            if known is not None:
                return ActionResult(RunOutcome.FAILED, describe(known))
            # A defect fails this run, but must not end the scheduler.
            log.exception(events.RUN_CRASHED, entry=entry.name)
            return ActionResult(RunOutcome.FAILED, in_one_line(error))

    async def _renew(self, claim: RunClaim, queued: list[str]) -> None:
        """Renew the lease until it is lost."""
        while True:
            await asyncio.sleep(claim.lease_ms / 1000 / RENEWALS)
            submission = next(reversed(queued), None)
            if not await retry_until_redis_answers(partial(self._runs.renew, claim, submission)):
                return

    async def _record(
        self,
        entry: ScheduledEntry,
        claim: RunClaim,
        result: ActionResult,
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
            await asyncio.wait({writing}, timeout=RECORD_SECONDS)
            ended = writing.result() if writing.done() else None
        finally:
            await cancel(writing)
        if ended is None:
            log.warning(events.RUN_LOST, entry=entry.name)
            return None
        self._log_ended(entry.name, ended)
        return ended

    def _log_ended(self, entry: str, ended: Run) -> None:
        """Log the run; as a warning if it needs attention, but only the first refusal in a row."""
        is_known = ended.outcome is RunOutcome.REFUSED and entry in self._refused
        log_ended = log.warning if ended.outcome in NEED_ATTENTION and not is_known else log.info
        log_ended(
            events.RUN_FINISHED,
            entry=entry,
            submission=ended.submission,
            outcome=ended.outcome.value,
            seconds=ended.seconds,
            detail=ended.detail,
        )
        if ended.outcome is RunOutcome.REFUSED:
            self._refused.add(entry)
        else:
            self._refused.discard(entry)

    async def _end(self, claim: RunClaim, run: Run) -> Run | None:
        ended = msgspec.structs.replace(run, finished_ms=await self._runs.now_ms())
        return ended if await self._runs.end(claim, ended) else None
