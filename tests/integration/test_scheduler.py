"""Schedulers begin each run once, when it is due, or late; and write down how it ended."""

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
from producers.schedule.runner import STOPPED, Act, Result, Runner
from producers.schedule.scheduler import Scheduler
from tests.waiting import eventually

DAY_MS = 24 * 3600 * 1000
LEASE_SECONDS = 15.0
DAILY = ScheduledEntry("daily", Timetable("0 3 * * *"))
DONE = Result(documents=DocumentCounts(indexed=1), submission="s")


@pytest.fixture
def runs(broker: Broker) -> Runs:
    return Runs(broker.redis, broker.config)


async def missed(broker: Broker, days: int = 3) -> None:
    """The last run of the daily entry was begun so many days ago."""
    begun_ms = await Runs(broker.redis, broker.config).now_ms() - days * DAY_MS
    await awaited(broker.redis.hset(keys.RUN_CLOCK, "daily", cast(str, begun_ms)))


@asynccontextmanager
async def scheduling(
    broker: Broker, act: Act, *entries: ScheduledEntry, lease_seconds: float = LEASE_SECONDS
) -> AsyncIterator[Scheduler]:
    """A scheduler is up; on leaving it is stopped, and has to end promptly."""
    runs = Runs(broker.redis, broker.config)
    runner = Runner(runs, {Action.RESCAN: act})
    scheduler = Scheduler(entries or [DAILY], runs, runner, lease_seconds)
    running = asyncio.create_task(scheduler.run())
    try:
        yield scheduler
    finally:
        scheduler.stop()
        await asyncio.wait_for(running, 10)


class Acting:
    """Counts the runs that were begun; each lasts until it is allowed to end."""

    def __init__(self, *, lasting: bool = False) -> None:
        self.begun = 0
        self.ended = asyncio.Event()
        if not lasting:
            self.ended.set()

    async def __call__(self, entry: ScheduledEntry, queued: Callable[[str], None]) -> Result:
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
    """A scheduler has looked at all its entries."""
    await eventually(runs.overview)


def told(logs: Sequence[Mapping[str, Any]], event: str) -> list[Mapping[str, Any]]:
    return [entry for entry in logs if entry["event"] == event]


async def test_of_several_missed_runs_one_is_made_up_for(broker: Broker, runs: Runs) -> None:
    await missed(broker)
    act = Acting()
    async with scheduling(broker, act):
        [run] = await history(runs)
        await published(runs)
    async with scheduling(broker, act):
        await published(runs)
    assert act.begun == 1
    assert (run.outcome, run.documents, run.submission) == (RunOutcome.DONE, DONE.documents, "s")
    assert run.due_ms % DAY_MS == 3 * DAY_MS // 24
    [status] = await runs.overview()
    assert status.next_ms is not None
    assert status.next_ms > await runs.now_ms()
    assert status.next_ms % DAY_MS == 3 * DAY_MS // 24


async def test_a_new_entry_waits_until_it_is_due(broker: Broker, runs: Runs) -> None:
    act = Acting()
    async with scheduling(broker, act):
        await published(runs)
    assert act.begun == 0


async def test_runs_are_begun_when_they_are_due(broker: Broker, runs: Runs) -> None:
    every_second = ScheduledEntry("daily", Timetable("* * * * * *"))
    async with scheduling(broker, Acting(), every_second):
        run = (await history(runs))[0]
    assert 0 <= run.started_ms - run.due_ms < 1000


async def test_two_schedulers_begin_a_run_once(broker: Broker, runs: Runs) -> None:
    every_second = ScheduledEntry("daily", Timetable("* * * * * *"))
    act = Acting()
    async with scheduling(broker, act, every_second), scheduling(broker, act, every_second):
        await history(runs, 2)
    due = [run.due_ms for run in await runs.history("daily")]
    assert len(set(due)) == len(due)
    assert act.begun == len(due)


async def test_what_is_due_while_the_run_before_lasts_is_skipped(
    broker: Broker, runs: Runs
) -> None:
    every_second = ScheduledEntry("daily", Timetable("* * * * * *"))
    act = Acting(lasting=True)

    async def skipped() -> Sequence[Mapping[str, Any]]:
        return told(logs, events.RUN_SKIPPED)

    with capture_logs() as logs:
        async with scheduling(broker, act, every_second), scheduling(broker, act, every_second):
            await eventually(skipped)
            assert act.begun == 1
            act.ended.set()
            await history(runs)
    due = [entry["due"] for entry in told(logs, events.RUN_SKIPPED)]
    assert len(set(due)) == len(due), "each is said once"
    assert act.begun == len(await runs.history("daily"))


async def test_who_is_stopped_writes_that_down_and_the_next_one_makes_up_for_it(
    broker: Broker, runs: Runs
) -> None:
    await missed(broker)
    act = Acting(lasting=True)
    async with scheduling(broker, act):
        await act.has_begun()
    [interrupted] = await runs.history("daily")
    assert (interrupted.outcome, interrupted.detail) == (RunOutcome.INTERRUPTED, STOPPED)
    assert interrupted.submission == "s"
    act.ended.set()
    async with scheduling(broker, act):
        made_up, _ = await history(runs, 2)
    assert (made_up.outcome, made_up.due_ms) == (RunOutcome.DONE, interrupted.due_ms)
    assert act.begun == 2


async def test_the_run_of_a_dead_scheduler_is_made_up_for(broker: Broker, runs: Runs) -> None:
    await missed(broker)
    due_ms = (await runs.now_ms() // DAY_MS - 1) * DAY_MS
    assert isinstance(await runs.begin("daily", due_ms=due_ms, lease_ms=1), RunClaim)
    act = Acting()
    with capture_logs() as logs:
        async with scheduling(broker, act):
            _, lost = await history(runs, 2)
    assert lost.outcome is RunOutcome.INTERRUPTED
    assert len(told(logs, events.RUN_LOST)) == 1
    assert act.begun == 1


async def test_a_run_lasts_longer_than_its_lease(broker: Broker, runs: Runs) -> None:
    await missed(broker)
    act = Acting(lasting=True)
    async with scheduling(broker, act, lease_seconds=0.3):
        await act.has_begun()
        [status] = await eventually(runs.overview)
        started_ms = status.runs[0].started_ms
        await eventually(runs.now_ms, lambda now_ms: now_ms > started_ms + 700)
        [status] = await runs.overview()
        assert (status.runs[0].outcome, status.runs[0].submission) == (RunOutcome.RUNNING, "s")
        assert await runs.begin("daily", due_ms=None, lease_ms=1) is BeginRefusal.RUNNING
        act.ended.set()
        [run] = await history(runs)
    assert run.outcome is RunOutcome.DONE


async def test_who_lost_a_run_stops_it(broker: Broker, runs: Runs) -> None:
    """Somebody else has ended it meanwhile, because the lease was not renewed in time."""
    await missed(broker)
    act = Acting(lasting=True)

    async def said() -> Sequence[Mapping[str, Any]]:
        return told(logs, events.RUN_LOST)

    with capture_logs() as logs:
        async with scheduling(broker, act, lease_seconds=0.3):
            await act.has_begun()
            await broker.redis.delete(keys.RUN + "daily", keys.RUN_LEASE + "daily")
            await eventually(said)
    assert await runs.history("daily") == []


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (SourceFailed("erp:export failed: ValueError: no"), "erp:export failed: ValueError: no"),
        (ZeroDivisionError("division by zero"), "ZeroDivisionError: division by zero"),
    ],
)
async def test_a_run_that_fails_is_written_down_and_ends_nothing_else(
    broker: Broker, runs: Runs, error: Exception, said: str
) -> None:
    async def act(entry: ScheduledEntry, queued: Callable[[str], None]) -> Result:
        if entry is DAILY:
            raise error
        return DONE

    await missed(broker)
    other = ScheduledEntry("other", Timetable("* * * * * *"))
    async with scheduling(broker, act, DAILY, other):
        [run] = await history(runs)
        await eventually(lambda: runs.history("other"))
    assert (run.outcome, run.detail) == (RunOutcome.FAILED, said)


async def test_redis_going_away_costs_time_only(broker: Broker, runs: Runs) -> None:
    await missed(broker)
    tries = 0

    async def act(entry: ScheduledEntry, queued: Callable[[str], None]) -> Result:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise BrokerUnavailable("it is away")
        return DONE

    await broker.redis.config_set("maxmemory", "1")
    try:
        with capture_logs() as logs:
            async with scheduling(broker, act):

                async def said() -> Sequence[Mapping[str, Any]]:
                    return told(logs, events.SERVICE_AWAY)

                await eventually(said)
                assert tries == 0
                await broker.redis.config_set("maxmemory", "0")
                [run] = await history(runs)
    finally:
        await broker.redis.config_set("maxmemory", "0")
    assert (run.outcome, tries) == (RunOutcome.DONE, 2)
