"""Runs the parts of a process side by side until it is told to stop by a signal."""

import asyncio
import os
import signal
import stat
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, Final

from ingestq.core.service import cancel
from ingestq.core.signals import STOP_SIGNALS, ignore_stop_signals

_stops: Final[list[Callable[[], None]]] = []
"""What a signal calls: the last of them. Signal handlers belong to the process as a whole."""


@contextmanager
def stop_signals(stop: Callable[[], None], *, until_exit: bool = False) -> Iterator[None]:
    """Call ``stop`` on every SIGINT, SIGTERM and SIGHUP while inside.

    When nested, only the innermost is called. A SIGHUP that this process was started to ignore, as
    by nohup, stays ignored. If the terminal is gone, output to it is discarded. With
    ``until_exit``, the process ends after the block, and signals no longer disturb it. (The event
    loop's own handlers would give way to those of Python, which raise or kill.)
    """
    loop = asyncio.get_running_loop()

    def schedule(_: int, __: FrameType | None) -> None:
        loop.call_soon_threadsafe(_on_signal)

    nohup = not _stops and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    numbers = [n for n in STOP_SIGNALS if not (nohup and n is signal.SIGHUP)]
    _stops.append(stop)
    if len(_stops) == 1:
        before = {number: signal.signal(number, schedule) for number in numbers}
    try:
        yield
    finally:
        _stops.pop()
        if not _stops:
            if until_exit:
                ignore_stop_signals()
            else:
                for number, handler in before.items():
                    signal.signal(number, handler)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Let no signal interrupt what is done while inside, which must be bounded in time."""
    with stop_signals(lambda: None):
        yield


def _on_signal() -> None:
    _leave_dead_terminal()
    if _stops:
        _stops[-1]()


def _leave_dead_terminal() -> None:
    """Send what is printed from now on to /dev/null if the terminal was closed.

    Writing to it fails, and an error in logging must not disturb how the process ends.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            descriptor = stream.fileno()
            is_device = stat.S_ISCHR(os.fstat(descriptor).st_mode)
        except (OSError, ValueError):  # closed, or replaced by a test
            continue
        # Of a dead terminal, the kernel says that it is none.
        if is_device and not os.isatty(descriptor):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, descriptor)
            os.close(null)


@dataclass(frozen=True)
class ProcessPart:
    """Something that runs until ``stop`` is called; a second call makes it stop at once."""

    run: Callable[[], Coroutine[Any, Any, None]]
    stop: Callable[[], None]


async def run_parts(*parts: ProcessPart) -> None:
    """Run ``parts`` until SIGINT, SIGTERM or SIGHUP; a second signal stops them at once.

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
