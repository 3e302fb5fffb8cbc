"""The bundled Redis-compatible server: valkey-server on a Unix socket under the data directory."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from ingestq.core import events
from ingestq.core.errors import BrokerUnavailable
from ingestq.embedded.redis_log import is_disk_full, server_binary, why_stopped
from ingestq.embedded.server import BundledServer, ServerEvents, ServerProgram
from ingestq.embedded.supervision import SupervisedServer, open_server

LOG: Final = "server.log"


def _command(folder: Path, socket: Path) -> Sequence[str | Path]:
    options = {
        "daemonize": "yes",
        "pidfile": str(folder / "server.pid"),
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": str(folder),
        "logfile": str(folder / LOG),
        "appendonly": "yes",
        # A receipt means that the document is on disk.
        "appendfsync": "always",
        "maxmemory-policy": "noeviction",
        # The append-only file is enough; snapshots would only double the writes.
        "save": "",
    }
    arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
    return [server_binary(), *arguments]


def _is_ready(answer: bytes) -> bool:
    return answer != b"" and not answer.startswith(b"-LOADING")


REDIS: Final = ServerProgram(
    name="the bundled Redis",
    setting="INGESTQ_REDIS_URL",
    socket="redis.sock",
    log=LOG,
    unavailable=BrokerUnavailable,
    events=ServerEvents(events.REDIS_STOPPED, events.REDIS_RESTARTED, events.REDIS_NOT_STOPPED),
    command=_command,
    program=b"valkey-server",
    probe=b"PING\r\n",
    is_ready=_is_ready,
    shutdown=b"SHUTDOWN\r\n",
    is_hopeless=is_disk_full,
    why_stopped=why_stopped,
)


@asynccontextmanager
async def open_redis(
    data_dir: Path, socket_places: Sequence[Path] = ()
) -> AsyncIterator[SupervisedServer]:
    """Use the server under ``data_dir``: start it if it does not run, and again if it stops.

    Its socket is below one of ``socket_places``, or of the temporary directory, if the path of
    ``data_dir`` is too long. If the data directory is deleted, the block is cancelled and
    BrokerUnavailable raised. Also raises BrokerUnavailable if the server does not start, UsageError
    if ``data_dir`` cannot be used.
    """
    server = BundledServer(REDIS, data_dir / "redis", socket_places)
    async with open_server(server, data_dir) as redis:
        yield redis


def url_of(redis: SupervisedServer) -> str:
    """Return the URL of the server."""
    return f"unix://{redis.socket}"


@asynccontextmanager
async def embedded_redis(data_dir: Path) -> AsyncIterator[str]:
    """Yield the URL of the server under ``data_dir``; see `open_redis`."""
    async with open_redis(data_dir) as redis:
        yield url_of(redis)
