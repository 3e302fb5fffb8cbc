"""A worker like that of ``ingestq worker``, which also measures its event loop lag.

Run as ``python -m benchmarks.embedding.worker`` with the settings in the environment; it answers
requests on stdin, and drains when that ends.
"""

import asyncio
import json
import logging
import statistics
import sys
import time
from typing import Final

import numpy as np

from benchmarks.embedding.pool import query_vectors, warm_up
from benchmarks.embedding.processes import Answer, open_replies
from ingestq.app.composition import open_broker
from ingestq.app.settings import load_settings
from ingestq.app.worker import open_worker
from ingestq.core.log_setup import configure_logging

SAMPLE_SECONDS: Final = 0.05
"""Waking up costs processor time, which the benchmark counts as the worker's."""


class LoopLag:
    """Samples how much later than requested a task of the event loop wakes up."""

    def __init__(self) -> None:
        self.lags: list[float] = []

    async def sample(self) -> None:
        """Sample until cancelled."""
        while True:
            started = time.perf_counter()
            await asyncio.sleep(SAMPLE_SECONDS)
            self.lags.append(time.perf_counter() - started - SAMPLE_SECONDS)

    def take(self) -> Answer:
        """Return the lag since the last call in milliseconds, and the number of samples."""
        lags, self.lags = self.lags, []
        if len(lags) < 2:
            return {"samples": len(lags), "p50": 0.0, "p99": 0.0, "max": 0.0}
        cuts = statistics.quantiles(lags, n=100, method="inclusive")
        ms = {"p50": cuts[49] * 1e3, "p99": cuts[98] * 1e3, "max": max(lags) * 1e3}
        return {"samples": len(lags), **ms}


async def main() -> None:
    """Work until stdin ends."""
    configure_logging(logging.INFO)
    settings = load_settings()
    lag = LoopLag()
    async with open_broker(settings) as broker, open_worker(settings, broker) as running:

        async def answer(request: Answer) -> Answer:
            match request:
                case {"queries": texts, "save": path}:
                    np.save(path, await query_vectors(running, texts))
                    return {}
                case {"lag": _}:
                    return lag.take()
                case _:
                    raise ValueError(request)

        await warm_up(running)
        async with asyncio.TaskGroup() as group:
            sampling = group.create_task(lag.sample())
            working = group.create_task(running.run_until_stopped())
            try:
                send = open_replies({"ready": True})
                while line := await asyncio.to_thread(sys.stdin.readline):
                    send(await answer(json.loads(line)))
            finally:
                sampling.cancel()
                running.stop()
                await working


if __name__ == "__main__":
    asyncio.run(main())
