"""Runs the parts of a process side by side until SIGINT or SIGTERM."""

import asyncio
import signal
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ingestq.core.service import cancel


@contextmanager
def stop_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Call ``stop`` on every SIGINT and SIGTERM while inside."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


@dataclass(frozen=True)
class ProcessPart:
    """Something that runs until ``stop`` is called; a second call makes it stop at once."""

    run: Callable[[], Coroutine[Any, Any, None]]
    stop: Callable[[], None]


async def run_parts(*parts: ProcessPart) -> None:
    """Run ``parts`` until SIGINT or SIGTERM; a second signal stops them at once.

    If one part ends by itself, the others are stopped. When all have ended, raises the error of the
    first argument that failed.
    """
    stopping = False

    def stop() -> None:
        nonlocal stopping
        stopping = True
        for part in parts:
            part.stop()

    async def run(part: ProcessPart) -> None:
        try:
            await part.run()
        finally:
            if not stopping:
                stop()

    with stop_signals(stop):
        tasks = [asyncio.create_task(run(part)) for part in parts]
        try:
            await asyncio.wait(tasks)
        finally:
            await cancel(*tasks)
    for task in tasks:
        task.result()
