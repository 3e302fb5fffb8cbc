"""Locks between processes. Waiting for one has a deadline, can be cancelled, and names the holder.

The kernel releases a lock however its holder ends. A lock is requested without blocking, again and
again: a thread that blocks in flock could be neither cancelled nor left behind.
"""

import asyncio
import fcntl
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import IO, Final

import structlog

from ingestq.core import events
from ingestq.core.errors import ServiceUnavailable

log = structlog.get_logger()

POLL_SECONDS: Final = 0.02
NOTICE_SECONDS: Final = 3.0
"""A wait that lasts longer is logged, once."""
OWNER_ONLY: Final = 0o600
PID_BYTES: Final = 20


def open_lock(path: Path) -> IO[bytes]:
    """Open the lock file ``path``, which is created if it is missing. Raises OSError."""

    def create(name: str, _: int) -> int:
        return os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, OWNER_ONLY)

    return open(path, "r+b", buffering=0, opener=create)


def try_lock(file: IO[bytes], kind: int) -> bool:
    """Take the lock, LOCK_SH or LOCK_EX, unless it is taken; return whether it was."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def unlock(file: IO[bytes]) -> None:
    """Give the lock back, and keep the file open."""
    fcntl.flock(file, fcntl.LOCK_UN)


def is_locked(file: IO[bytes]) -> bool:
    """Return whether another process holds the lock exclusively."""
    if try_lock(file, fcntl.LOCK_SH):
        unlock(file)
        return False
    return True


async def acquire(
    file: IO[bytes], kind: int, seconds: float, unavailable: type[ServiceUnavailable]
) -> None:
    """Take the lock; wait for it up to ``seconds``.

    Raises ``unavailable``, which names the holder, if it is taken for longer.
    """
    began = time.monotonic()
    noticed = False
    while not try_lock(file, kind):
        waited = time.monotonic() - began
        if waited > seconds:
            raise unavailable(
                f"{file.name} has been locked for {seconds:g} s by {_holder(file)}, which starts "
                "or stops the bundled server there; wait until it is done, or end it"
            )
        if waited > NOTICE_SECONDS and not noticed:
            noticed = True
            log.warning(events.LOCK_AWAITED, lock=file.name, holder=_holder(file))
        await asyncio.sleep(POLL_SECONDS)


@asynccontextmanager
async def exclusive(
    path: Path, seconds: float, unavailable: type[ServiceUnavailable]
) -> AsyncIterator[None]:
    """Hold the lock ``path`` while inside, with this process as its named holder.

    Raises ``unavailable`` as `acquire` does, and OSError if the file cannot be opened.
    """
    with await asyncio.to_thread(open_lock, path) as file:
        await acquire(file, fcntl.LOCK_EX, seconds, unavailable)
        with suppress(OSError):  # a full disk does not keep anybody from stopping a server
            os.ftruncate(file.fileno(), 0)
            os.pwrite(file.fileno(), str(os.getpid()).encode(), 0)
        yield


def _holder(file: IO[bytes]) -> str:
    pid = os.pread(file.fileno(), PID_BYTES, 0).decode(errors="replace").strip()
    return f"the process {pid}" if pid.isdecimal() else "another process"
