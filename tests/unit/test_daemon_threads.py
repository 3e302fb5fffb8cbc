"""Calls that may wait for ever: bounded in number, and no reason for a process not to end."""

import asyncio
import subprocess
import sys
import threading

import pytest

from ingestq.core.daemon_threads import DaemonThreads
from tests.waiting import SECONDS

WAITS_FOR_EVER = """
import asyncio, threading
from ingestq.core.daemon_threads import DaemonThreads

async def main():
    calling = asyncio.create_task(DaemonThreads("x", 1).call(threading.Event().wait))
    await asyncio.sleep(0.1)
    calling.cancel()
    await asyncio.wait([calling])
    print(calling.cancelled())

asyncio.run(main())
"""


async def test_a_call_returns_and_raises_as_its_function_does() -> None:
    threads = DaemonThreads("test", 2)
    assert await threads.call(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await threads.call(divmod, 7, 0)


async def test_a_cancelled_call_keeps_its_place_until_it_ends() -> None:
    threads = DaemonThreads("test", 1)
    loop = asyncio.get_running_loop()
    has_begun, may_end = asyncio.Event(), threading.Event()

    def wait() -> None:
        loop.call_soon_threadsafe(has_begun.set)
        assert may_end.wait(SECONDS)

    first = asyncio.create_task(threads.call(wait))
    await has_begun.wait()
    first.cancel()
    await asyncio.wait([first])
    assert first.cancelled()
    second = asyncio.create_task(threads.call(may_end.is_set))
    await asyncio.wait([second], timeout=0.1)
    may_end.set()
    assert await second  # it did not begin before


def test_a_process_ends_although_a_call_goes_on() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", WAITS_FOR_EVER],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "True\n", "")
