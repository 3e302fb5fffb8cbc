"""Stops a bundled server whose users were all killed: ``python -I -S guard.py FOLDER PROGRAM``.

The last user to leave a server stops it, but one that is killed cannot. So every server has a
guard, which is started with it and stops it as soon as nobody uses it. ``FOLDER`` has the files
that `ingestq.embedded.server` lists, and

    guard.lock      held by the guard for as long as it lives

``PROGRAM`` is a part of the server's command line. The guard imports nothing but the standard
library, and little of that: commands that start a server for a moment start the guard, too.
"""

import contextlib
import fcntl
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

POLL_SECONDS: Final = 0.2
LOOKS: Final = 2
"""So often in a row the server was not in use: the last user stops it in less time."""
STOP_SECONDS: Final = 10.0
"""How long the server may take to end before it is killed."""
REPEAT_SECONDS: Final = 1.0
OWNER_ONLY: Final = 0o600


def main() -> None:
    """Guard the server of a folder, unless that has a guard."""
    # By its descriptor the folder is the same one also when it is renamed, or deleted and another
    # one put in its place.
    folder, program = os.open(sys.argv[1], os.O_RDONLY), sys.argv[2]
    with _opened(folder, "guard") as guard, _opened(folder, "start") as start:
        if not _lock(guard, fcntl.LOCK_EX):
            return
        _name_holder(guard)
        with _opened(folder, "users") as users, _opened(folder, "alive") as alive:
            pid, unused = None, 0
            while True:
                time.sleep(POLL_SECONDS)
                pid = _pid(folder, pid)
                with _held(start) as may_stop:
                    # Not without that lock: the last user would take us for another one.
                    unused = unused + 1 if may_stop and _is_free(users) else 0
                    if unused == LOOKS:
                        _name_holder(start)
                        _stop(folder, pid, alive, program.encode())
                        guard.close()  # before another server, and its guard, may be started
                        return


def holds(pid: int, file: IO[bytes], program: bytes) -> bool:
    """Return whether the process ``pid`` has ``file`` open, so it is the server. Blocks.

    A pid may be reused, or be that of another container. Where the kernel does not tell, the
    command line, of which ``program`` is a part, must do.
    """
    if Path("/proc/self/fd").is_dir():
        wanted = os.fstat(file.fileno())
        try:
            with os.scandir(f"/proc/{pid}/fd") as descriptors:
                for descriptor in descriptors:
                    with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                        if os.path.samestat(descriptor.stat(), wanted):
                            return True
        except OSError:
            pass
        return False
    import subprocess

    asked = ["ps", "-o", "command=", "-p", str(pid)]
    said = subprocess.run(asked, capture_output=True, check=False, timeout=STOP_SECONDS)  # noqa: S603
    return program in said.stdout


def _opened(folder: int, lock: str) -> IO[bytes]:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
    return os.fdopen(os.open(f"{lock}.lock", flags, OWNER_ONLY, dir_fd=folder), "r+b", 0)


def _lock(file: IO[bytes], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def _held(file: IO[bytes]) -> Iterator[bool]:
    """Hold the lock inside if nobody else does; yield whether that is so."""
    is_held = _lock(file, fcntl.LOCK_EX)
    try:
        yield is_held
    finally:
        if is_held:
            fcntl.flock(file, fcntl.LOCK_UN)


def _is_free(file: IO[bytes]) -> bool:
    with _held(file) as is_free:
        return is_free


def _name_holder(lock: IO[bytes]) -> None:
    """Write our pid into the file, so that people see who holds it, unless the disk is full."""
    with contextlib.suppress(OSError):
        os.ftruncate(lock.fileno(), 0)
        os.pwrite(lock.fileno(), str(os.getpid()).encode(), 0)


def _pid(folder: int, known: int | None) -> int | None:
    """Return the pid of the server, or the ``known`` one if its file is deleted."""
    try:
        with os.fdopen(os.open("server.pid", os.O_RDONLY, dir_fd=folder), encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return known


def _stop(folder: int, pid: int | None, alive: IO[bytes], program: bytes) -> None:
    """Ask the server to end, and kill it if it does not. Leaves ``alive`` free."""
    next_request = time.monotonic()
    deadline = next_request + STOP_SECONDS
    while not _lock(alive, fcntl.LOCK_SH) and (now := time.monotonic()) < deadline + STOP_SECONDS:
        pid = _pid(folder, pid)  # one that has just been started may not have written it yet
        if now >= next_request and pid is not None and holds(pid, alive, program):
            next_request = now + REPEAT_SECONDS
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM if now < deadline else signal.SIGKILL)
        time.sleep(POLL_SECONDS / 10)
    fcntl.flock(alive, fcntl.LOCK_UN)


if __name__ == "__main__":
    main()
