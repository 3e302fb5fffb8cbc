"""One bundled server: its files, its locks, and how it is started, reached and stopped.

The files of its folder that both servers have:

    alive.lock      held by the server for as long as it lives
    users.lock      shared by the processes that use it; the last one to leave stops it
    start.lock      held by the process that starts or stops it
    server.pid      the pid of the server, removed before each start
    guard.lock      held by the process that stops a server of which all users were killed
    NAME.sock       the socket, or a link to it where the path would be too long
"""

import asyncio
import contextlib
import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import IO, Final

import structlog

from ingestq.core.errors import ServiceUnavailable, UsageError
from ingestq.core.private_directory import private_directory
from ingestq.core.service import uninterrupted
from ingestq.embedded import guard
from ingestq.embedded.guard import holds
from ingestq.embedded.lock_file import (
    POLL_SECONDS,
    acquire,
    exclusive,
    is_locked,
    open_lock,
    try_lock,
    unlock,
)

log = structlog.get_logger()

SOCKET_PATH_BYTES: Final = 100
"""The kernel allows 108, on macOS 104."""
START_SECONDS: Final = 60.0
"""How long a start may take: reading an append-only file of gigabytes takes a while."""
STOP_SECONDS: Final = 10.0
"""How long the server may take to end before it is killed, and the kill to have an effect."""
LOCK_SECONDS: Final = START_SECONDS + 2 * STOP_SECONDS
"""How long another process may rightly hold `start.lock`."""
LEAVE_SECONDS: Final = 5.0
"""How long leaving may wait for `start.lock`. Whoever holds it for longer starts the server, so it
is a user of it and will stop it, or stops it already."""
REPEAT_SECONDS: Final = 1.0
"""A server that starts may miss a request to end, so it is repeated."""
SOCKET_SECONDS: Final = 2.0
"""A server that lives but has no socket for longer is restarted: its socket was deleted. While it
ends, it has none for a moment, and while it starts, for as long as that takes."""
PROBE_SECONDS: Final = 5.0
SPAWN_SECONDS: Final = 30.0
"""How long the server may take to become a daemon."""
LOG_BYTES: Final = 1024 * 1024
"""A longer log is renamed at the next start. The one before it is dropped."""
LITTLE_DISK_BYTES: Final = 1024 * 1024
"""With less free space the disk counts as full: not even a log can be written then."""
PRIVATE_UMASK: Final = 0o077
START_GUARD: Final = '"$@" &'
"""A shell script: run the arguments as a process that belongs to nobody."""


class Probe(Enum):
    """The state of a server, as its socket shows it."""

    READY = "ready"
    BUSY = "busy"
    """It is loading its data, or does not answer in time."""
    UNREACHABLE = "unreachable"
    """Nothing listens on its socket."""


@dataclass(frozen=True)
class ServerEvents:
    """The events that are logged of a server; `ingestq.core.events` says what they mean."""

    stopped: str
    restarted: str
    not_stopped: str


@dataclass(frozen=True)
class ServerProgram:
    """What is particular of one bundled server.

    ``name`` is its name in messages, ``setting`` the one that makes it unnecessary, ``socket`` and
    ``log`` the names of files in its folder. ``unavailable`` is the error while it is away.
    """

    name: str
    setting: str
    socket: str
    log: str
    unavailable: type[ServiceUnavailable]
    events: ServerEvents
    command: Callable[[Path, Path], Sequence[str | Path]]
    """Returns what to run for a folder and a socket. It starts a process that inherits open files
    and outlives it, sees to its server.pid, and ends."""
    program: bytes
    """Part of the command line of the server process."""
    probe: bytes
    """A request, and ``is_ready`` says what its answer means, by its first line."""
    is_ready: Callable[[bytes], bool]
    shutdown: bytes | None
    """The request to end; None if SIGTERM is the way."""
    is_hopeless: Callable[[Path], bool]
    """Returns whether a server with this log would end again at once. Blocks."""
    why_stopped: Callable[[Path], str]
    """Returns why the server with this log has ended, and what to do. Blocks, raises OSError."""


class BundledServer:
    """The server of ``folder``.

    ``socket`` is set by `join`; if its path would be too long, it is in a private directory of the
    user below one of ``socket_places``. The server process inherits `alive.lock`. So one that is
    still loading, or too busy to answer, is never taken for dead, and two never run on the same
    files.
    """

    def __init__(self, program: ServerProgram, folder: Path, socket_places: Sequence[Path]) -> None:
        self.program = program
        self._folder = folder
        self._socket_places = socket_places
        self._users: IO[bytes] | None = None
        self._alive: IO[bytes] | None = None
        self._pid: int | None = None
        self._is_user = False
        self.log = folder / program.log
        self.socket = folder / program.socket

    async def join(self) -> None:
        """Become a user of the server, and start it if it does not run.

        Raises the program's ``unavailable`` if it does not start, UsageError if the folder cannot
        be used.
        """
        try:
            await asyncio.to_thread(self._open)
            async with self._starting(LOCK_SECONDS):
                assert self._users is not None
                await acquire(self._users, fcntl.LOCK_SH, LOCK_SECONDS, self.program.unavailable)
                self._is_user = True
                await self._run()
        except OSError as error:
            raise UsageError(
                f"INGESTQ_DATA_DIR: {self._folder} cannot be used: {error.strerror}"
            ) from error

    async def restart(self) -> None:
        """Start the server if it has stopped or cannot be reached.

        Raises the program's ``unavailable`` if it does not start.
        """
        try:
            async with self._starting(LOCK_SECONDS):
                await self._run()
        except OSError as error:
            raise self.program.unavailable(
                f"{self._folder} cannot be used: {error.strerror or error}"
            ) from error

    async def leave(self) -> None:
        """Stop using the server, and stop it if nobody else uses it. Bounded in time."""
        users, alive = self._users, self._alive
        if users is None or alive is None:
            return
        with users, alive:
            if not self._is_user or not await asyncio.to_thread(self.is_in_place):
                return
            unlock(users)
            try:
                async with self._starting(LEAVE_SECONDS):
                    if try_lock(users, fcntl.LOCK_EX):  # nobody else uses the server
                        await self.stop()
            except (ServiceUnavailable, OSError) as error:
                log.warning(self.program.events.not_stopped, error=str(error))

    def is_in_place(self) -> bool:
        """Return whether the folder is still the one that was joined; note the server. Blocks."""
        assert self._users is not None
        with contextlib.suppress(OSError, ValueError):
            self._pid = int((self._folder / "server.pid").read_text(encoding="ascii"))
        try:
            return os.path.samestat(
                (self._folder / "users.lock").stat(), os.fstat(self._users.fileno())
            )
        except (FileNotFoundError, NotADirectoryError):
            return False

    def is_alive(self) -> bool:
        """Return whether the server process lives."""
        assert self._alive is not None
        return is_locked(self._alive)

    async def probe(self) -> Probe:
        """Ask the server whether it is ready."""
        answer = await self._ask(self.program.probe)
        if answer is None:
            return Probe.UNREACHABLE
        return Probe.READY if self.program.is_ready(answer) else Probe.BUSY

    async def stop(self) -> None:
        """Stop the server, by its socket or its pid, and wait until it is gone.

        One that does not end is killed. Raises the program's ``unavailable`` if that is not
        possible.
        """
        deadline = time.monotonic() + STOP_SECONDS
        next_request = time.monotonic()
        is_killed = False
        while self.is_alive():
            if time.monotonic() >= next_request and (
                await self._ask_to_end() or await self._signal(signal.SIGTERM)
            ):
                next_request = time.monotonic() + REPEAT_SECONDS
            if time.monotonic() > deadline:
                if is_killed or not await self._signal(signal.SIGKILL):
                    raise self.program.unavailable(
                        f"the server of {self._folder} does not end; end it"
                    )
                is_killed, deadline = True, time.monotonic() + STOP_SECONDS
            await asyncio.sleep(POLL_SECONDS)
        await asyncio.to_thread(self.socket.unlink, missing_ok=True)

    async def why_stopped(self) -> str:
        """Return why the server has stopped, and what to do."""
        try:
            return await asyncio.to_thread(self.program.why_stopped, self.log)
        except OSError as error:
            return f"its log {self.log} cannot be read: {error.strerror}"

    def _open(self) -> None:
        try:
            private_directory(self._folder)
        except UsageError as error:
            raise UsageError(f"INGESTQ_DATA_DIR: {error}") from error
        self._users = open_lock(self._folder / "users.lock")
        self._alive = open_lock(self._folder / "alive.lock")

    @asynccontextmanager
    async def _starting(self, seconds: float) -> AsyncIterator[None]:
        """Keep other processes from starting or stopping the server while inside."""
        lock = self._folder / "start.lock"
        async with exclusive(lock, seconds, self.program.unavailable):
            yield

    async def _run(self) -> None:
        """Wait until the server is ready; start it if it is dead, or cannot be reached."""
        name = self.program.name
        is_starting = not self.is_alive()
        if is_starting:
            await uninterrupted(asyncio.to_thread(self._spawn))
        else:
            self.socket = await asyncio.to_thread(self._recorded_socket)
            # Its guard may have been killed. Without one, the last user still stops the server.
            with contextlib.suppress(OSError, subprocess.SubprocessError):
                await asyncio.to_thread(self._start_guard)
        deadline = time.monotonic() + START_SECONDS
        unreachable_since: float | None = None
        while (state := await self.probe()) is not Probe.READY:
            now = time.monotonic()
            if not self.is_alive() and not is_starting:  # it was about to end when we found it
                await uninterrupted(asyncio.to_thread(self._spawn))
                is_starting, deadline = True, time.monotonic() + START_SECONDS
                continue
            if not self.is_alive():
                raise self.program.unavailable(
                    f"{name} does not start: {await self.why_stopped()} (see {self.log})"
                )
            if now > deadline:
                raise self.program.unavailable(
                    f"{name} is not ready after {START_SECONDS:g} s; it may still be reading its "
                    f"data (see {self.log})"
                )
            if state is not Probe.UNREACHABLE or is_starting:
                unreachable_since = None
            elif unreachable_since is None:
                unreachable_since = now
            elif now - unreachable_since > SOCKET_SECONDS:
                log.warning(self.program.events.stopped, reason=f"{self.socket} was deleted")
                await self.stop()
                await uninterrupted(asyncio.to_thread(self._spawn))
                is_starting = True
            await asyncio.sleep(POLL_SECONDS)
        await asyncio.to_thread(self.is_in_place)  # notes the pid

    def _spawn(self) -> None:
        """Start the server as a daemon, as it may have to outlive this process. Blocks.

        Raises the program's ``unavailable`` if that fails, or if it would end again at once.
        """
        name = self.program.name
        if self.program.is_hopeless(self.log):
            raise self.program.unavailable(
                f"{name} has stopped: {self.program.why_stopped(self.log)}"
            )
        self.socket = self._choose_socket()
        with open_lock(self._folder / "alive.lock") as alive:
            deadline = time.monotonic() + SPAWN_SECONDS
            while not try_lock(alive, fcntl.LOCK_EX):  # somebody looks whether it is taken
                if time.monotonic() > deadline:
                    return
                time.sleep(POLL_SECONDS)
            (self._folder / "server.pid").unlink(missing_ok=True)
            if self.log.exists() and self.log.stat().st_size > LOG_BYTES:
                self.log.replace(self.log.with_name(self.log.name + ".1"))
            try:
                self._start_guard()  # before the server: this process may be killed at any moment
                # A file and no pipe: the server keeps what it does not close itself.
                with open_log(self.log) as output:
                    subprocess.run(  # noqa: S603 - our own arguments
                        self.program.command(self._folder, self.socket),
                        stdin=subprocess.DEVNULL,
                        stdout=output,
                        stderr=output,
                        pass_fds=[alive.fileno()],
                        umask=PRIVATE_UMASK,
                        start_new_session=True,
                        timeout=SPAWN_SECONDS,
                        check=True,
                    )
            except (OSError, subprocess.SubprocessError) as error:
                raise self.program.unavailable(
                    f"{name} cannot be started ({error}; see {self.log}); set "
                    f"{self.program.setting}"
                ) from error

    def _start_guard(self) -> None:
        """Start the guard of the server, unless it has one.

        Blocks. Raises OSError and SubprocessError.
        """
        with open_lock(self._folder / "guard.lock") as lock:
            if is_locked(lock):
                return
        # -I and -S: it needs no packages, and looking for them takes most of its start.
        command = (sys.executable, "-I", "-S", guard.__file__, self._folder, self.program.program)
        subprocess.run(  # noqa: S603 - our own arguments
            ("/bin/sh", "-c", START_GUARD, "sh", *command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            umask=PRIVATE_UMASK,
            start_new_session=True,
            timeout=SPAWN_SECONDS,
            check=True,
        )

    def _recorded_socket(self) -> Path:
        """Return the socket that the running server was started with."""
        path = self._folder / self.program.socket
        return path.readlink() if path.is_symlink() else path

    def _choose_socket(self) -> Path:
        """Return the path of the socket for a new server, and record it."""
        path = self._folder / self.program.socket
        path.unlink(missing_ok=True)  # of a server that was killed, or a link for another path
        if len(os.fsencode(path)) <= SOCKET_PATH_BYTES:
            return path
        digest = hashlib.blake2b(os.fsencode(self._folder), digest_size=8).hexdigest()
        chosen = self._private_socket(f"{digest}.sock")
        path.symlink_to(chosen)
        return chosen

    async def _ask_to_end(self) -> bool:
        request = self.program.shutdown
        return request is not None and await self._ask(request) is not None

    async def _ask(self, request: bytes) -> bytes | None:
        """Send ``request``; return the answer, b"" if there is none, None if nobody listens."""
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                reader, writer = await asyncio.open_unix_connection(self.socket)
                try:
                    writer.write(request)
                    return await reader.readline()
                finally:
                    writer.close()
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        except (OSError, TimeoutError, ValueError):
            return b""

    async def _signal(self, number: signal.Signals) -> bool:
        """Send a signal to the server if its pid is known; return whether it is."""
        await asyncio.to_thread(self.is_in_place)
        pid, alive = self._pid, self._alive
        if (
            pid is None
            or alive is None
            or not await asyncio.to_thread(holds, pid, alive, self.program.program)
        ):
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        return True

    def _private_socket(self, name: str) -> Path:
        """Return a path in a directory of ours below a socket place or the temporary directory.

        Another user may have created that directory first, to be given our documents.

        Raises UsageError if each of them is somebody else's, a link, too long, or cannot be
        created.
        """
        refusals = []
        for place in (*self._socket_places, Path(tempfile.gettempdir())):
            socket = place / f"ingestq-{os.geteuid()}" / name
            if len(os.fsencode(socket)) > SOCKET_PATH_BYTES:
                refusals.append(f"{socket.parent} is too long a path")
                continue
            try:
                private_directory(socket.parent, link_allowed=False)
            except UsageError as error:
                refusals.append(str(error))
            else:
                return socket
        raise UsageError(
            f"the socket of {self.program.name} has no safe place: {'; '.join(refusals)}; remove "
            "that, or set INGESTQ_DATA_DIR to a shorter path"
        )


def open_log(path: Path) -> IO[bytes]:
    """Open the log file ``path`` to add to it; create it if it is missing. Raises OSError."""

    def create(name: str, flags: int) -> int:
        return os.open(name, flags, 0o600)

    return open(path, "ab", buffering=0, opener=create)


def free_bytes(folder: Path) -> int:
    """Return the free space on the disk of ``folder``. Blocks."""
    return shutil.disk_usage(folder).free
