"""Measures how late the event loop wakes up, and notes that it turns."""

import asyncio
from typing import Final

from ingestq.core import metrics
from ingestq.core.health import Pulse

INTERVAL_SECONDS: Final = 0.25
"""Four samples a second cost less than a thousandth of a core."""


async def monitor_loop(pulse: Pulse, stopping: asyncio.Event) -> None:
    """Measure the lag of the running loop until ``stopping`` is set."""
    loop = asyncio.get_running_loop()
    try:
        while not stopping.is_set():
            due = loop.time() + INTERVAL_SECONDS
            pulse.beat()
            await asyncio.sleep(INTERVAL_SECONDS)
            metrics.observe(metrics.LOOP_LAG, max(0.0, loop.time() - due))
    finally:
        pulse.rest()
