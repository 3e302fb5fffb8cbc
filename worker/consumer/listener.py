"""Waits for wake-ups of the queue."""

import asyncio
from collections.abc import Sequence
from typing import Final

from ingestq.broker.queue.leases import LeaseQueue
from ingestq.core.documents import Lane
from ingestq.core.service import cancel

POLL_SECONDS: Final = 1
"""How long an idle worker waits for a wake-up before it looks for deferred and expired jobs."""


class Listener:
    """Listens for jobs that become ready, lane by lane.

    A wait that was begun goes on while its lane is not listened to: to cancel it costs a
    connection, and perhaps a wake-up.
    """

    def __init__(self, leases: LeaseQueue) -> None:
        self._leases = leases
        self._waits: dict[Lane, asyncio.Task[None]] = {}

    async def listen(self, lanes: Sequence[Lane], until: asyncio.Event) -> None:
        """Return when there may be work in ``lanes``, when ``until`` is set, or after a second.

        Raises BrokerUnavailable.
        """
        for lane in lanes:
            if lane not in self._waits:
                wait = self._leases.wait_for_work(lane, POLL_SECONDS)
                self._waits[lane] = asyncio.create_task(wait, name=f"listen for {lane} jobs")
        event = asyncio.create_task(until.wait())
        waits = [self._waits[lane] for lane in lanes]
        await asyncio.wait([event, *waits], return_when=asyncio.FIRST_COMPLETED)
        await cancel(event)
        for lane in [lane for lane, wait in self._waits.items() if wait.done()]:
            self._waits.pop(lane).result()

    async def stop(self) -> None:
        """End every wait."""
        await cancel(*self._waits.values())
        self._waits.clear()
