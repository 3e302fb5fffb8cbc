"""In any order of events, no run begins twice, and no lost run is forgotten."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from ingestq.broker import keys
from ingestq.broker.connection import BrokerConfig, connect
from ingestq.broker.schedule.runs import (
    MAX_AHEAD_MS,
    MAX_LOST_IN_A_ROW,
    BeginRefusal,
    RunClaim,
    RunOutcome,
    Runs,
)

T = TypeVar("T")

LEASE_MS = 3600 * 1000
LATER_MS = MAX_AHEAD_MS // 2
"""Runs of the test are due in the future, so that Redis time does not matter."""


class RunMachine(RuleBasedStateMachine):
    """Schedulers that begin, end, lose and die, and the one entry that they share."""

    url: str

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        config = BrokerConfig(self.url)
        self.redis = connect(config)
        self.runs = Runs(self.redis, config)
        self.run(self._empty())
        self.start_ms = self.run(self.runs.begun_until("e")) + LATER_MS
        self.begun_until = -LATER_MS
        self.claim: RunClaim | None = None
        self.due: int | None = None
        self.stale: list[RunClaim] = []
        self.lost = 0
        self.ended = 0

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    async def _empty(self) -> None:
        await self.redis.flushdb()

    def teardown(self) -> None:
        self.run(self.redis.aclose())
        self.runner.close()

    @rule(due=st.integers(0, 9))
    def begin_what_is_due(self, due: int) -> None:
        answer = self.run(self.runs.begin("e", due_ms=self.start_ms + due, lease_ms=LEASE_MS))
        if due <= self.begun_until:
            assert answer is BeginRefusal.BEFORE
            return
        self.begun_until = due
        if self.claim is not None:
            assert answer is BeginRefusal.RUNNING
            return
        assert isinstance(answer, RunClaim)
        self.claim, self.due = answer, due

    @rule()
    def begin_what_somebody_asks_for(self) -> None:
        answer = self.run(self.runs.begin("e", due_ms=None, lease_ms=LEASE_MS))
        if self.claim is not None:
            assert answer is BeginRefusal.RUNNING
            return
        assert isinstance(answer, RunClaim)
        self.claim, self.due = answer, None

    @rule()
    def renew(self) -> None:
        if self.claim is not None:
            assert self.run(self.runs.renew(self.claim, "s"))

    @rule(outcome=st.sampled_from([o for o in RunOutcome if o is not RunOutcome.RUNNING]))
    def end(self, outcome: RunOutcome) -> None:
        if self.claim is None:
            return
        ended = msgspec.structs.replace(self.claim.run, outcome=outcome, finished_ms=self.ended)
        assert self.run(self.runs.end(self.claim, ended))
        assert self.run(self.runs.end(self.claim, ended)), "the answer may have been lost"
        self.lost = 0
        self._has_ended(again=outcome is RunOutcome.INTERRUPTED)

    @rule(noticed=st.booleans())
    def die(self, noticed: bool) -> None:
        if self.claim is None:
            return
        self.run(self._delete_lease())
        if not noticed:
            assert self.run(self.runs.renew(self.claim, None)), "it was late, and nobody saw it"
            return
        lost = self.run(self.runs.end_lost("e"))
        assert lost is not None
        assert lost.outcome is RunOutcome.INTERRUPTED
        self.lost += 1
        self._has_ended(again=self.lost <= MAX_LOST_IN_A_ROW)

    @rule()
    def be_too_late(self) -> None:
        for claim in self.stale:
            assert not self.run(self.runs.renew(claim, None))
            ended = msgspec.structs.replace(claim.run, detail="too late")
            assert not self.run(self.runs.end(claim, ended))

    @invariant()
    def nothing_is_lost_that_is_not(self) -> None:
        assert self.run(self.runs.end_lost("e")) is None
        assert len(self.run(self.runs.history("e"))) == self.ended
        if self.begun_until >= 0:
            assert self.run(self.runs.begun_until("e")) == self.start_ms + self.begun_until

    async def _delete_lease(self) -> None:
        await self.redis.delete(keys.RUN_LEASE + "e")

    def _has_ended(self, *, again: bool) -> None:
        assert self.claim is not None
        if again and self.due is not None:
            self.begun_until = self.due - 1
        self.stale.append(self.claim)
        self.claim, self.due = None, None
        self.ended += 1


@pytest.mark.timeout(600)
def test_each_run_begins_once(redis_url: str) -> None:
    machine = type("Machine", (RunMachine,), {"url": redis_url})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=30,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
