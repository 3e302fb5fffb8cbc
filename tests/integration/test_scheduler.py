"""Schedulers begin each run once, when it is due or as soon as one is up, and record its end."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from ingestq.app.composition import Broker
from ingestq.broker import keys
from ingestq.broker.connection import awaited
from ingestq.broker.schedule.runs import BeginRefusal, Run, RunClaim, RunOutcome, Runs
from ingestq.core import events
from ingestq.core.errors import BrokerUnavailable, SourceFailed
from ingestq.core.results import DocumentCounts
from producers.schedule.entry import Action, ScheduledEntry, Timetable
from producers.schedule.runner import STOPPED, ActionHandler, ActionResult, Runner
from producers.schedule.scheduler import Scheduler
from tests.waiting import ended, eventually

DAY_MS = 24 * 3600 * 1000
LEASE_SECONDS = 15.0
LEASE_MS = 15_000
DAILY = ScheduledEntry("daily", Timetable("0 3 * * *"))
DONE = ActionResult(documents=DocumentCounts(indexed=1), submission="s")


@pytest.fixture
def runs(broker: Broker) -> Runs:
    return Runs(broker.redis, broker.config)


@pytest.fixture
def renewed_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Renew leases all the time, long before they end."""
    monkeypatch.setattr("producers.schedule.runner.RENEWALS", 100)


async def missed(broker: Broker, days: int = 3) -> None:
    """Set the last run of the daily entry to ``days`` ago."""
    begun_ms = await Runs(broker.redis, broker.config).now_ms() - days * DAY_MS
    await awaited(broker.redis.hset(keys.RUN_CLOCK, "daily", cast(str, begun_ms)))


@asynccontextmanager
async def scheduling(
    broker: Broker, handler: ActionHandler, *entries: ScheduledEntry
) -> AsyncIterator[Scheduler]:
    """Run a scheduler; on leaving, stop it, which must be prompt."""
    runs = Runs(broker.redis, broker.config)
    runner = Runner(runs, {Action.RESCAN: handler})
    scheduler = Scheduler(entries or [DAILY], runs, runner, LEASE_SECONDS)
    running = asyncio.create_task(scheduler.run())
    try:
        yield scheduler
    finally:
        scheduler.stop()
        await ended(running)


class CountingHandler:
    """Counts the runs that were begun; with ``lasting`` each runs until `ended` is set."""

    def __init__(self, *, lasting: bool = False) -> None:
        self.begun = 0
        self.ended = asyncio.Event()
        if not lasting:
            self.ended.set()

    async def __call__(self, entry: ScheduledEntry, queued: Callable[[str], None]) -> ActionResult:
        self.begun += 1
        queued("s")
        await self.ended.wait()
        return DONE

    async def has_begun(self, times: int = 1) -> None:
        async def begun() -> int:
            return self.begun

        await eventually(begun, lambda begun: begun >= times)


async def history(runs: Runs, length: int = 1) -> list[Run]:
    return await eventually(lambda: runs.history("daily"), lambda runs: len(runs) >= length)


async def published(runs: Runs) -> None:
    """Wait until a scheduler has checked all its entries."""
    await eventually(runs.overview)


def logged(logs: Sequence[Mapping[str, Any]], event: str) -> list[Mapping[str, Any]]:
    return [entry for entry in logs if entry["event"] == event]


async def test_several_missed_runs_are_run_once(broker: Broker, runs: Runs) -> None:
    await missed(broker)
    handler = CountingHandler()
    async with scheduling(broker, handler):
        [run] = await history(runs)
        await published(runs)
    async with scheduling(broker, handler):
        await published(runs)
    assert handler.begun == 1
    assert (run.outcome, run.documents, run.submission) == (RunOutcome.DONE, DONE.documents, "s")
    assert run.due_ms % DAY_MS == 3 * DAY_MS // 24
    [status] = await runs.overview()
    assert status.next_ms is not None
    assert status.next_ms > await runs.now_ms()
    assert status.next_ms % DAY_MS == 3 * DAY_MS // 24


async def test_a_new_entry_waits_until_it_is_due(broker: Broker, runs: Runs) -> None:
    handler = CountingHandler()
    async with scheduling(broker, handler):
        await published(runs)
    assert handler.begun == 0


async def test_runs_are_begun_when_they_are_due(broker: Broker, runs: Runs) -> None:
    every_second = ScheduledEntry("daily", Timetable("* * * * * *"))
    async with scheduling(broker, CountingHandler(), every_second):
        # On a busy machine, some may be late.
        begun = await eventually(
            lambda: runs.history("daily"),
            lambda begun: any(run.started_ms - run.due_ms < 1000 for run in begun),
        )
    assert all(run.started_ms >= run.due_ms for run in begun)


async def test_two_schedulers_begin_a_run_once(broker: Broker, runs: Runs) -> None:
    every_second = ScheduledEntry("daily", Timetable("* * * * * *"))
    handler = CountingHandler()
    async with scheduling(broker, handler, every_second), scheduling(broker, handler, every_second):
        await history(runs, 2)
    due = [run.due_ms for run in await runs.history("daily")]
    assert len(set(due)) == len(due)
    assert handler.begun == len(due)


async def test_a_run_is_skipped_while_the_previous_one_lasts(broker: Broker, runs: Runs) -> None:
    every_second = ScheduledEntry("daily", Timetable("* * * * * *"))
    handler = CountingHandler(lasting=True)

    async def skipped() -> Sequence[Mapping[str, Any]]:
        return logged(logs, events.RUN_SKIPPED)

    with capture_logs() as logs:
        async with (
            scheduling(broker, handler, every_second),
            scheduling(broker, handler, every_second),
        ):
            await eventually(skipped)
            assert handler.begun == 1
            handler.ended.set()
            await history(runs)
    due = [entry["due"] for entry in logged(logs, events.RUN_SKIPPED)]
    assert len(set(due)) == len(due), "each is logged once"
    assert handler.begun == len(await runs.history("daily"))


async def test_a_stopped_scheduler_records_its_run_and_the_next_one_runs_it(
    broker: Broker, runs: Runs
) -> None:
    await missed(broker)
    handler = CountingHandler(lasting=True)
    async with scheduling(broker, handler):
        await handler.has_begun()
    [interrupted] = await runs.history("daily")
    assert (interrupted.outcome, interrupted.detail) == (RunOutcome.INTERRUPTED, STOPPED)
    assert interrupted.submission == "s"
    handler.ended.set()
    async with scheduling(broker, handler):
        again, _ = await history(runs, 2)
    assert (again.outcome, again.due_ms) == (RunOutcome.DONE, interrupted.due_ms)
    assert handler.begun == 2


async def test_the_run_of_a_dead_scheduler_is_run_again(broker: Broker, runs: Runs) -> None:
    await missed(broker)
    due_ms = (await runs.now_ms() // DAY_MS - 1) * DAY_MS
    assert isinstance(await runs.begin("daily", due_ms=due_ms, lease_ms=1), RunClaim)
    handler = CountingHandler()
    with capture_logs() as logs:
        async with scheduling(broker, handler):
            _, lost = await history(runs, 2)
    assert lost.outcome is RunOutcome.INTERRUPTED
    assert len(logged(logs, events.RUN_LOST)) == 1
    assert handler.begun == 1


@pytest.mark.usefixtures("renewed_often")
async def test_the_lease_of_a_long_run_is_renewed(broker: Broker, runs: Runs) -> None:
    await missed(broker)
    handler = CountingHandler(lasting=True)
    lease, half_ms = keys.RUN_LEASE + "daily", LEASE_MS // 2
    async with scheduling(broker, handler):
        await handler.has_begun()
        await published(runs)
        for _ in range(2):
            assert await broker.redis.pexpire(lease, half_ms)  # half of its time passes
            await eventually(lambda: broker.redis.pttl(lease), lambda left_ms: left_ms > half_ms)
        [status] = await runs.overview()
        assert (status.runs[0].outcome, status.runs[0].submission) == (RunOutcome.RUNNING, "s")
        assert await runs.begin("daily", due_ms=None, lease_ms=1) is BeginRefusal.RUNNING
        handler.ended.set()
        [run] = await history(runs)
    assert run.outcome is RunOutcome.DONE


@pytest.mark.usefixtures("renewed_often")
async def test_a_run_that_lost_its_lease_is_stopped(broker: Broker, runs: Runs) -> None:
    """Another scheduler has ended it, because the lease was not renewed in time."""
    await missed(broker)
    handler = CountingHandler(lasting=True)

    async def entries() -> Sequence[Mapping[str, Any]]:
        return logged(logs, events.RUN_LOST)

    with capture_logs() as logs:
        async with scheduling(broker, handler):
            await handler.has_begun()
            await broker.redis.delete(keys.RUN + "daily", keys.RUN_LEASE + "daily")
            await eventually(entries)
    assert await runs.history("daily") == []


@pytest.mark.parametrize(
    ("error", "detail"),
    [
        (SourceFailed("erp:export failed: ValueError: no"), "erp:export failed: ValueError: no"),
        (ZeroDivisionError("division by zero"), "ZeroDivisionError: division by zero"),
    ],
)
async def test_a_failed_run_is_recorded_and_other_runs_go_on(
    broker: Broker, runs: Runs, error: Exception, detail: str
) -> None:
    async def handler(entry: ScheduledEntry, queued: Callable[[str], None]) -> ActionResult:
        if entry is DAILY:
            raise error
        return DONE

    await missed(broker)
    other = ScheduledEntry("other", Timetable("* * * * * *"))
    async with scheduling(broker, handler, DAILY, other):
        [run] = await history(runs)
        await eventually(lambda: runs.history("other"))
    assert (run.outcome, run.detail) == (RunOutcome.FAILED, detail)


async def test_a_run_waits_while_redis_is_away(broker: Broker, runs: Runs) -> None:
    await missed(broker)
    tries = 0

    async def handler(entry: ScheduledEntry, queued: Callable[[str], None]) -> ActionResult:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise BrokerUnavailable("it is away")
        return DONE

    await broker.redis.config_set("maxmemory", "1")
    try:
        with capture_logs() as logs:
            async with scheduling(broker, handler):

                async def entries() -> Sequence[Mapping[str, Any]]:
                    return logged(logs, events.SERVICE_UNAVAILABLE)

                await eventually(entries)
                assert tries == 0
                await broker.redis.config_set("maxmemory", "0")
                [run] = await history(runs)
    finally:
        await broker.redis.config_set("maxmemory", "0")
    assert (run.outcome, tries) == (RunOutcome.DONE, 2)


async def test_only_the_first_refused_run_in_a_row_is_a_warning(broker: Broker, runs: Runs) -> None:
    refused = ActionResult(RunOutcome.REFUSED, "2 of 2 documents of this source are gone")
    results = [refused, refused, DONE, refused]
    ahead = iter(results)

    async def handle(entry: ScheduledEntry, queued: Callable[[str], None]) -> ActionResult:
        return next(ahead)

    runner = Runner(runs, {Action.RESCAN: handle})
    with capture_logs() as logs:
        for _ in results:
            claim = await runs.begin("daily", due_ms=None, lease_ms=LEASE_MS)
            assert isinstance(claim, RunClaim)
            await runner.run(DAILY, claim, asyncio.Event())
    levels = [entry["log_level"] for entry in logged(logs, events.RUN_FINISHED)]
    assert levels == ["warning", "info", "info", "warning"]
