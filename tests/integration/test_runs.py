"""The record of scheduled runs: each begins once, and none is forgotten."""

import asyncio

import msgspec
import pytest

from ingestq.app.composition import Broker
from ingestq.broker import keys
from ingestq.broker.schedule.runs import (
    KEPT_RUNS,
    LISTED_RUNS,
    LOST,
    MAX_LOST_IN_A_ROW,
    BeginRefusal,
    EntryStatus,
    Run,
    RunClaim,
    RunOutcome,
    Runs,
)
from ingestq.core.results import ChunkCounts, DocumentCounts

LEASE_MS = 60_000
HOUR_MS = 3600 * 1000
NIGHTLY = EntryStatus(
    name="nightly",
    cron="0 3 * * *",
    timezone="Atlantic/Azores",
    action="rescan",
    source="/srv/notes",
    next_ms=1,
)


@pytest.fixture
def runs(broker: Broker) -> Runs:
    return Runs(broker.redis, broker.config)


async def begun(runs: Runs, due_ms: int | None = None) -> RunClaim:
    claim = await runs.begin("nightly", due_ms=due_ms, lease_ms=LEASE_MS)
    assert isinstance(claim, RunClaim)
    return claim


async def end(runs: Runs, claim: RunClaim, outcome: RunOutcome = RunOutcome.DONE) -> Run:
    ended = msgspec.structs.replace(
        claim.run,
        outcome=outcome,
        finished_ms=await runs.now_ms(),
        documents=DocumentCounts(indexed=2),
        chunks=ChunkCounts(embedded=3),
    )
    assert await runs.end(claim, ended)
    return ended


def up(entry: EntryStatus) -> EntryStatus:
    """Return the entry of a live scheduler."""
    return msgspec.structs.replace(entry, live=True)


async def lose_lease(broker: Broker) -> None:
    """Let the lease of the run expire, as if its process had died."""
    assert await broker.redis.delete(keys.RUN_LEASE + "nightly")


async def test_only_one_of_several_schedulers_begins_a_run(runs: Runs) -> None:
    due_ms = await runs.now_ms() - HOUR_MS
    answers = await asyncio.gather(
        *(runs.begin("nightly", due_ms=due_ms, lease_ms=LEASE_MS) for _ in range(5))
    )
    [claim] = [answer for answer in answers if isinstance(answer, RunClaim)]
    assert answers.count(BeginRefusal.BEFORE) == 4
    await end(runs, claim)
    again = await runs.begin("nightly", due_ms=due_ms, lease_ms=LEASE_MS)
    assert again is BeginRefusal.BEFORE


async def test_one_run_replaces_all_missed_runs(runs: Runs) -> None:
    now_ms = await runs.now_ms()
    await end(runs, await begun(runs, now_ms - 5 * HOUR_MS))
    assert await runs.begun_until("nightly") >= now_ms
    for hours in (4, 3, 2, 1):
        due_ms = now_ms - hours * HOUR_MS
        answer = await runs.begin("nightly", due_ms=due_ms, lease_ms=LEASE_MS)
        assert answer is BeginRefusal.BEFORE


async def test_a_new_entry_has_no_missed_runs(runs: Runs) -> None:
    before_ms = await runs.now_ms()
    assert before_ms <= await runs.begun_until("nightly") <= await runs.now_ms()


async def test_a_run_is_skipped_while_the_previous_one_runs(runs: Runs) -> None:
    now_ms = await runs.now_ms()
    claim = await begun(runs, now_ms - HOUR_MS)
    due_ms = now_ms + HOUR_MS
    answer = await runs.begin("nightly", due_ms=due_ms, lease_ms=LEASE_MS)
    assert answer is BeginRefusal.RUNNING
    await end(runs, claim)
    answer = await runs.begin("nightly", due_ms=due_ms, lease_ms=LEASE_MS)
    assert answer is BeginRefusal.BEFORE


async def test_a_run_on_request_does_not_change_what_is_due(runs: Runs) -> None:
    due_ms = await runs.begun_until("nightly") + 1
    claim = await begun(runs)
    asked = await runs.begin("nightly", due_ms=None, lease_ms=LEASE_MS)
    assert asked is BeginRefusal.RUNNING
    await end(runs, claim, RunOutcome.INTERRUPTED)
    await end(runs, await begun(runs, due_ms))


async def test_an_interrupted_run_is_due_again(runs: Runs) -> None:
    due_ms = await runs.now_ms() - HOUR_MS
    await end(runs, await begun(runs, due_ms), RunOutcome.INTERRUPTED)
    assert await runs.begun_until("nightly") == due_ms - 1
    await end(runs, await begun(runs, due_ms))


async def test_a_run_whose_process_died_is_due_again(runs: Runs, broker: Broker) -> None:
    due_ms = await runs.now_ms() - HOUR_MS
    claim = await begun(runs, due_ms)
    assert await runs.end_lost("nightly") is None
    await lose_lease(broker)
    again = await begun(runs, due_ms)
    [lost] = await runs.history("nightly")
    assert (lost.outcome, lost.detail) == (RunOutcome.INTERRUPTED, LOST)
    assert lost.finished_ms is not None
    # If the process is alive after all, it learns that it is too late.
    assert not await runs.renew(claim, None)
    assert not await runs.end(claim, claim.run)
    await end(runs, again)


async def test_an_expired_lease_can_be_renewed_until_the_run_is_ended(
    runs: Runs, broker: Broker
) -> None:
    claim = await begun(runs)
    await lose_lease(broker)
    assert await runs.renew(claim, "s")
    assert await runs.end_lost("nightly") is None
    await lose_lease(broker)
    await end(runs, claim)


async def test_a_run_that_kills_its_process_is_repeated_a_limited_number_of_times(
    runs: Runs, broker: Broker
) -> None:
    due_ms = await runs.now_ms() - HOUR_MS
    for _ in range(MAX_LOST_IN_A_ROW + 1):
        await begun(runs, due_ms)
        await lose_lease(broker)
    answer = await runs.begin("nightly", due_ms=due_ms, lease_ms=LEASE_MS)
    assert answer is BeginRefusal.BEFORE
    due_ms = await runs.begun_until("nightly") + HOUR_MS
    await end(runs, await begun(runs, due_ms))
    assert len(await runs.history("nightly")) == MAX_LOST_IN_A_ROW + 2


async def test_every_step_can_be_repeated(runs: Runs, broker: Broker) -> None:
    """A client repeats a step whose answer was lost."""
    claim = await begun(runs)
    ended = await end(runs, claim)
    assert await runs.end(claim, ended)
    assert await runs.history("nightly") == [ended]


async def test_the_overview_lists_entries_and_their_runs(runs: Runs, broker: Broker) -> None:
    await runs.publish([NIGHTLY])
    first = await end(runs, await begun(runs))
    claim = await begun(runs)
    assert await runs.renew(claim, "what it queued")
    [entry] = await runs.overview()
    running = msgspec.structs.replace(claim.run, submission="what it queued")
    assert entry == msgspec.structs.replace(NIGHTLY, live=True, runs=(running, first))
    await lose_lease(broker)
    [entry] = await runs.overview()
    assert entry.runs[0].outcome is RunOutcome.INTERRUPTED


async def test_the_history_is_bounded(runs: Runs) -> None:
    for _ in range(KEPT_RUNS + 1):
        await end(runs, await begun(runs))
    assert len(await runs.history("nightly")) == KEPT_RUNS
    [entry] = await runs.overview([NIGHTLY])
    assert len(entry.runs) == LISTED_RUNS
    assert entry.runs[0].started_ms >= entry.runs[1].started_ms


async def test_entries_that_no_scheduler_publishes_are_forgotten(
    runs: Runs, broker: Broker
) -> None:
    weekly = msgspec.structs.replace(NIGHTLY, name="weekly")
    await runs.publish([NIGHTLY, weekly])
    assert await runs.overview() == [up(NIGHTLY), up(weekly)]
    await broker.redis.zadd(keys.ENTRIES, {"nightly": 1})
    assert await runs.overview() == [up(weekly)]
    assert await runs.overview([NIGHTLY]) == [NIGHTLY, up(weekly)]
    await runs.publish([weekly])
    assert not await broker.redis.hexists(keys.ENTRY_INFO, "nightly")  # type: ignore[misc]
