"""Checks whether this process is live and ready."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from itertools import starmap
from typing import Final

from ingestq.broker.queue.job_queue import JobQueue
from ingestq.core.errors import IngestqError
from ingestq.core.health import Health, HealthCheck, Pulse
from ingestq.core.outages import note_failure

PROBE_SECONDS: Final = 3.0
"""Time limit of a check: a probe cannot wait for all retries of a connection."""
REUSED_SECONDS: Final = 1.0
"""A result is given again for so long, however many ask."""
TOLD_BY_A_SERVICE: Final = frozenset({HealthCheck.WORKERS, HealthCheck.FINGERPRINT})
"""Checks whose result is unknown while a service does not answer, which is a check of its own."""

Probe = Callable[[], Awaitable[bool | None]]
"""Makes a check; the result is None if it cannot be made now. Raises IngestqError if it fails."""


class HealthChecks:
    """The checks of this process: ``pulses`` say whether it is live, ``probes`` if it is ready.

    Parts of the process add their own while they start. Until `is_started`, it is not ready.
    """

    def __init__(self, *, is_started: bool = True) -> None:
        self.pulses: dict[HealthCheck, Pulse] = {}
        self.probes: dict[HealthCheck, Probe] = {}
        self.is_started = is_started
        self._turn = asyncio.Lock()
        self._last = Health({})
        self._checked_at = float("-inf")

    def live(self) -> Health:
        """Return whether the process is live. Any thread may call it."""
        return Health({check: pulse.is_alive for check, pulse in list(self.pulses.items())})

    async def ready(self) -> Health:
        """Return whether the process is ready, or was within the last second."""
        if not self.is_started:
            return Health({HealthCheck.STARTED: False})
        async with self._turn:
            if time.monotonic() - self._checked_at > REUSED_SECONDS:
                probes = dict(self.probes)
                results = await asyncio.gather(*starmap(_result, probes.items()))
                self._last = Health(dict(zip(probes, results, strict=True)))
                self._checked_at = time.monotonic()
            return self._last


async def _result(check: HealthCheck, probe: Probe) -> bool | None:
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            return await probe()
    except TimeoutError:
        return None if check in TOLD_BY_A_SERVICE else False
    except IngestqError as error:
        note_failure(error)
        return False


def probe_writes(queue: JobQueue) -> Probe:
    """Return the check that Redis can be written to."""

    async def probe() -> bool:
        await queue.check_writable()
        return True

    return probe


def probe_workers(queue: JobQueue) -> Probe:
    """Return the check that a worker runs; None while Redis does not say so."""

    async def probe() -> bool | None:
        try:
            return bool(await queue.workers())
        except IngestqError:
            return None

    return probe
