"""Begins the runs of all entries when they are due, until it is stopped."""

import asyncio
from collections.abc import Sequence
from typing import Final

import structlog

from ingestq.broker.connection import RETRY_SECONDS
from ingestq.broker.schedule.runs import BeginRefusal, Run, RunClaim, Runs, iso
from ingestq.core import events
from ingestq.core.errors import BrokerUnavailable
from ingestq.core.outages import note_failure
from ingestq.core.service import cancel, happens_within
from producers.schedule.entry import ScheduledEntry
from producers.schedule.runner import Runner

log = structlog.get_logger()

POLL_SECONDS: Final = 10.0
"""Longest time between two checks for due runs, each of which also publishes the entries."""


class Scheduler:
    """One of any number of schedulers with the same entries.

    All use the clock of Redis, and record there up to which time runs were begun. If runs were
    missed while no scheduler was up, or a run was interrupted, the next scheduler that checks
    begins one run, however many were missed.
    """

    def __init__(
        self, entries: Sequence[ScheduledEntry], runs: Runs, runner: Runner, lease_seconds: float
    ) -> None:
        self._entries = entries
        self._runs = runs
        self._runner = runner
        self._lease_ms = int(lease_seconds * 1000)
        self._stopping = asyncio.Event()
        self._running: set[asyncio.Task[Run | None]] = set()

    def stop(self) -> None:
        """Let `run` return; runs in progress are interrupted, and due again."""
        self._stopping.set()

    async def run(self) -> None:
        """Begin runs until `stop` is called. Raises UsageError if Redis refuses the credentials."""
        log.info(events.SCHEDULE_STARTED, entries=len(self._entries))
        try:
            while not self._stopping.is_set():
                seconds = await self._begin_due_runs()
                await happens_within(self._stopping, seconds)
                self._remove_ended()
            if self._running:
                await asyncio.wait(self._running)
                self._remove_ended()
        finally:
            await cancel(*self._running)
        log.info(events.SCHEDULE_STOPPED)

    def _remove_ended(self) -> None:
        """Remove the runs that have ended. Raises what one of them raised."""
        for task in [task for task in self._running if task.done()]:
            self._running.remove(task)
            task.result()

    async def _begin_due_runs(self) -> float:
        """Begin the runs that are due; return the seconds until the next check."""
        try:
            next_ms = [await self._begin_if_due(entry) for entry in self._entries]
            await self._runs.publish(
                [entry.status(ms) for entry, ms in zip(self._entries, next_ms, strict=True)]
            )
            now_ms = await self._runs.now_ms()
        except BrokerUnavailable as error:
            note_failure(error)
            return RETRY_SECONDS
        soonest = min((ms for ms in next_ms if ms is not None), default=None)
        if soonest is None:
            return POLL_SECONDS
        return min(max(soonest - now_ms, 0) / 1000, POLL_SECONDS)

    async def _begin_if_due(self, entry: ScheduledEntry) -> int | None:
        """Begin a run of ``entry`` if one is due; return when the next one begins (Unix ms)."""
        if await self._runs.end_lost(entry.name) is not None:
            log.warning(events.RUN_LOST, entry=entry.name)
        due_ms = entry.timetable.next_after(await self._runs.begun_until(entry.name))
        now_ms = await self._runs.now_ms()
        if due_ms is not None and due_ms <= now_ms:
            await self._begin(entry, due_ms)
            due_ms = entry.timetable.next_after(max(due_ms, now_ms))
        return None if due_ms is None else max(due_ms, now_ms)

    async def _begin(self, entry: ScheduledEntry, due_ms: int) -> None:
        begun = await self._runs.begin(entry.name, due_ms=due_ms, lease_ms=self._lease_ms)
        match begun:
            case RunClaim():
                log.info(
                    events.RUN_STARTED,
                    entry=entry.name,
                    action=entry.action.value,
                    due=iso(due_ms),
                    late_seconds=(begun.run.started_ms - due_ms) / 1000,
                )
                running = self._runner.run(entry, begun, self._stopping)
                self._running.add(asyncio.create_task(running))
            case BeginRefusal.RUNNING:
                log.warning(events.RUN_SKIPPED, entry=entry.name, due=iso(due_ms))
            case BeginRefusal.BEFORE:
                pass  # another scheduler began it
