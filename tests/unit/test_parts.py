"""The parts of a process stop together."""

import asyncio
import os
import signal
from dataclasses import dataclass, field

import pytest

from ingestq.app.services import ProcessPart, run_parts
from ingestq.core.errors import UsageError
from tests.waiting import SECONDS


@dataclass
class Working:
    """A part that runs until it has been stopped ``stops_needed`` times."""

    stops_needed: int = 1
    started: asyncio.Event = field(default_factory=asyncio.Event)
    stopped: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))
    done: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        self.started.set()
        for _ in range(self.stops_needed):
            await self.stopped.acquire()
        self.done.set()

    def part(self) -> ProcessPart:
        return ProcessPart(self.run, self.stopped.release)


async def fail() -> None:
    raise UsageError("a setting is wrong")


async def test_a_failing_part_stops_the_others() -> None:
    working = Working()
    with pytest.raises(UsageError, match="a setting is wrong"):
        await run_parts(working.part(), ProcessPart(fail, lambda: None))
    assert working.done.is_set(), "it was stopped, not cut off"


async def test_each_signal_stops_all_parts() -> None:
    """A part that ends after the first signal does not make the others stop at once."""
    quick, slow = Working(), Working(stops_needed=2)
    running = asyncio.create_task(run_parts(quick.part(), slow.part()))
    await quick.started.wait()
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(quick.done.wait(), SECONDS)
    assert not slow.done.is_set()
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(running, SECONDS)
    assert slow.done.is_set()
