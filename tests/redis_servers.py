"""Servers of Redis, and Sentinels, on TCP ports, configured as by a user; tests kill them."""

import socket
import subprocess
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, RedisError

from tests.waiting import eventually

HOST: Final = "127.0.0.1"
SERVICE: Final = "documents"
DOWN_MS: Final = 4000
"""Sentinels take a server for dead after this time, and not if it only stands still for 3 s."""


_reserved: Final[list[socket.socket]] = []


def free_port() -> int:
    """Return a port of `HOST` for a server, which may also be started again.

    A socket that does not listen keeps it as long as this process lives: the system gives the port
    to nobody who asks for any, and lets a server have it that may reuse addresses, as all do here.
    """
    reserved = socket.socket()
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.bind((HOST, 0))
    _reserved.append(reserved)
    return int(reserved.getsockname()[1])


@dataclass
class RedisServer:
    """A server on ``port``, with ``config`` besides; a Sentinel if ``is_sentinel``."""

    binary: str
    folder: Path
    port: int
    config: tuple[str, ...] = ()
    is_sentinel: bool = False
    process: subprocess.Popen[bytes] | None = None

    @property
    def place(self) -> str:
        return f"{HOST}:{self.port}"

    def start(self) -> None:
        """Start it, on the data that it has."""
        self.folder.mkdir(exist_ok=True)
        path = self.folder / "redis.conf"
        own = [f"dir {self.folder}", f"bind {HOST}", *self.config]
        if not any(line.startswith("port ") for line in self.config):
            own.append(f"port {self.port}")
        path.write_text("\n".join(own), encoding="utf-8")
        self.process = subprocess.Popen(
            [self.binary, path, *(["--sentinel"] if self.is_sentinel else [])],
            stdout=subprocess.DEVNULL,
        )

    def kill(self) -> None:
        """End it as a power cut does."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    async def answers(self) -> None:
        """Wait until it answers, if only that it wants a password."""
        await eventually(self._answers)

    async def _answers(self) -> bool:
        try:
            async with Redis(host=HOST, port=self.port) as client:
                return bool(await client.ping())
        except AuthenticationError:
            return True
        except (RedisError, OSError):
            return False


@contextmanager
def running(servers: Iterable[RedisServer]) -> Iterator[None]:
    """Start ``servers``; kill them on leaving."""
    started = []
    try:
        for server in servers:
            started.append(server)
            server.start()
        yield
    finally:
        for server in started:
            server.kill()


DURABLE: Final = (
    "appendonly yes",
    "appendfsync always",
    'save ""',
    "maxmemory-policy noeviction",
    "repl-diskless-sync-delay 0",  # else a replica waits for others, to save time
)


@dataclass
class SentinelGroup:
    """A master, its replica, and the Sentinels that watch them."""

    master: RedisServer
    replica: RedisServer
    sentinels: list[RedisServer]

    def url(self, *first: RedisServer) -> str:
        """Return the URL of the service, with the Sentinels ``first`` before the others."""
        places = ",".join(sentinel.place for sentinel in (*first, *self.sentinels))
        return f"redis+sentinel://{places}/{SERVICE}/0"

    async def named_master(self) -> int:
        """Return the port of the master that the first Sentinel names."""
        async with Redis(host=HOST, port=self.sentinels[0].port) as sentinel:
            masters = await sentinel.sentinel_masters()  # type: ignore[no-untyped-call]
        return int(masters[SERVICE]["port"])

    async def is_complete(self) -> bool:
        """Return whether every Sentinel knows the replica and all others."""
        for server in self.sentinels:
            with suppress(RedisError, OSError):
                async with Redis(host=HOST, port=server.port) as sentinel:
                    masters = await sentinel.sentinel_masters()  # type: ignore[no-untyped-call]
                state = masters[SERVICE]
                if (state["num-slaves"], state["num-other-sentinels"]) == (1, 2):
                    continue
            return False
        return True


def sentinel_of(
    binary: str, folder: Path, master: RedisServer, *more: str, quorum: int = 2
) -> RedisServer:
    """Return a Sentinel that watches ``master``."""
    config = (
        f"sentinel monitor {SERVICE} {HOST} {master.port} {quorum}",
        f"sentinel down-after-milliseconds {SERVICE} {DOWN_MS}",
        f"sentinel failover-timeout {SERVICE} 5000",
        *more,
    )
    return RedisServer(binary, folder, free_port(), config, is_sentinel=True)


def master_and_replica(binary: str, folder: Path) -> tuple[RedisServer, RedisServer]:
    """Return a durable server and a replica of it."""
    master = RedisServer(binary, folder / "a", free_port(), DURABLE)
    follows = f"replicaof {HOST} {master.port}"
    return master, RedisServer(binary, folder / "b", free_port(), (*DURABLE, follows))


@asynccontextmanager
async def sentinel_group(binary: str, folder: Path) -> AsyncIterator[SentinelGroup]:
    """Run a master, a replica and three Sentinels, which know each other."""
    master, replica = master_and_replica(binary, folder)
    sentinels = [sentinel_of(binary, folder / f"sentinel{n}", master) for n in range(3)]
    group = SentinelGroup(master, replica, sentinels)
    with running([master]):
        await master.answers()
        with running([replica, *sentinels]):
            await eventually(group.is_complete)
            yield group
