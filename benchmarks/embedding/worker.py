"""A worker as ``ingestq worker`` opens it, which also watches its own event loop.

Run as ``python -m benchmarks.embedding.worker`` with the settings in the environment; it answers
questions on stdin, and drains when that ends.
"""

import asyncio
import json
import logging
import statistics
import sys
import time
from typing import Final

import numpy as np

from benchmarks.embedding.children import query_vectors, warm_up
from benchmarks.embedding.processes import Answer, speaker
from ingestq.app.composition import open_broker
from ingestq.app.settings import load_settings
from ingestq.app.worker import open_worker
from ingestq.cli.output import configure_logging

SAMPLE_SECONDS: Final = 0.01


class LoopWatch:
    """Samples how much later than wished a task of the loop wakes up."""

    def __init__(self) -> None:
        self.lags: list[float] = []

    async def sample(self) -> None:
        """Sample until cancelled."""
        while True:
            started = time.perf_counter()
            await asyncio.sleep(SAMPLE_SECONDS)
            self.lags.append(time.perf_counter() - started - SAMPLE_SECONDS)

    def take(self) -> Answer:
        """Milliseconds of lag since the last call, and how often it was looked at."""
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
    watch = LoopWatch()
    async with open_broker(settings) as broker, open_worker(settings, broker) as running:

        async def answer(question: Answer) -> Answer:
            match question:
                case {"queries": texts, "save": path}:
                    np.save(path, await query_vectors(running, texts))
                    return {}
                case {"lag": _}:
                    return watch.take()
                case _:
                    raise ValueError(question)

        await warm_up(running)
        async with asyncio.TaskGroup() as group:
            sampling = group.create_task(watch.sample())
            working = group.create_task(running.run_until_stopped())
            try:
                say = speaker({"ready": True})
                while line := await asyncio.to_thread(sys.stdin.readline):
                    say(await answer(json.loads(line)))
            finally:
                sampling.cancel()
                running.stop()
                await working


if __name__ == "__main__":
    asyncio.run(main())
