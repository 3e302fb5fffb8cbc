"""The bundled servers: shared on a machine, durable, and stopped with their last user."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ingestq.broker.connection import BrokerConfig, connected
from ingestq.core.errors import BrokerUnavailable
from ingestq.embedded.engine import open_engine
from ingestq.embedded.redis import REDIS, embedded_redis, open_redis
from ingestq.embedded.server import BundledServer, Probe
from ingestq.embedded.supervision import SupervisedServer
from tests.unsupervised import unsupervised_redis
from tests.waiting import crash, eventually

HOLD = """
import asyncio, sys
from pathlib import Path
from ingestq.embedded.engine import open_engine
from ingestq.embedded.redis import open_redis

async def main():
    open_server = {"redis": open_redis, "qdrant": open_engine}[sys.argv[1]]
    async with open_server(Path(sys.argv[2])) as server:
        print(server.socket, flush=True)
        await asyncio.to_thread(sys.stdin.read)

asyncio.run(main())
"""
OPEN = {"redis": open_redis, "qdrant": open_engine}
both = pytest.mark.parametrize("name", ["redis", "qdrant"])


def hold(name: str, folder: Path) -> subprocess.Popen[str]:
    """Start another process that uses the server until its stdin is closed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, name, folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline().endswith(".sock\n")
    return process


async def listens(server: SupervisedServer) -> bool:
    try:
        _, writer = await asyncio.open_unix_connection(server.socket)
    except OSError:
        return False
    writer.close()
    return True


async def answers(url: str) -> bool:
    try:
        async with connected(BrokerConfig(url)):
            return True
    except BrokerUnavailable:
        return False


async def test_data_survives_a_restart(tmp_path: Path) -> None:
    async with embedded_redis(tmp_path) as url, connected(BrokerConfig(url)) as redis:
        await redis.set("key", "value")
        config = await redis.config_get("*")
        assert (config["appendonly"], config["appendfsync"]) == ("yes", "always")
        assert config["maxmemory-policy"] == "noeviction"
    assert not await answers(url)
    async with embedded_redis(tmp_path) as url, connected(BrokerConfig(url)) as redis:
        assert await redis.get("key") == b"value"


@both
async def test_the_server_runs_until_its_last_user_leaves(tmp_path: Path, name: str) -> None:
    other = hold(name, tmp_path)
    async with OPEN[name](tmp_path) as server:
        other.communicate("")
        assert await listens(server)
    assert not await listens(server)


@both
async def test_a_killed_user_does_not_keep_the_server_running(tmp_path: Path, name: str) -> None:
    other = hold(name, tmp_path)
    async with OPEN[name](tmp_path) as server:
        other.kill()
        other.communicate()
        assert await listens(server)
    assert not await listens(server)


@both
async def test_a_killed_server_is_started_again(tmp_path: Path, name: str) -> None:
    pid_file = tmp_path / name / "server.pid"

    async def pid() -> str:
        try:
            return await asyncio.to_thread(pid_file.read_text)
        except FileNotFoundError:  # it is being started
            return ""

    async with OPEN[name](tmp_path) as server:
        killed = await pid()
        os.kill(int(killed), signal.SIGKILL)
        server.outage()  # as a failed request does
        await eventually(pid, lambda started: started not in ("", killed))
        await eventually(lambda: listens(server))


@pytest.mark.slow
@both
async def test_a_frozen_server_is_killed_by_its_last_user(tmp_path: Path, name: str) -> None:
    pid_file = tmp_path / name / "server.pid"
    async with OPEN[name](tmp_path):
        pid = int(await asyncio.to_thread(pid_file.read_text))
        os.kill(pid, signal.SIGSTOP)
    assert not await asyncio.to_thread(Path(f"/proc/{pid}/exe").exists)


async def test_a_killed_server_is_restarted_with_its_data(tmp_path: Path) -> None:
    async with embedded_redis(tmp_path) as url:
        async with connected(BrokerConfig(url)) as redis:
            await redis.set("key", "value")
            await crash(redis)
        other = hold("redis", tmp_path)
        async with connected(BrokerConfig(url)) as redis:
            assert await redis.get("key") == b"value"
        other.communicate("")


async def test_a_server_that_dies_while_it_is_joined_is_started_again(tmp_path: Path) -> None:
    async with unsupervised_redis(tmp_path) as url:
        async with connected(BrokerConfig(url)) as redis:
            await redis.set("key", "value")
            joining = BundledServer(REDIS, tmp_path / "redis", ())
            probe = joining.probe

            async def dying() -> Probe:
                joining.probe = probe  # type: ignore[method-assign]
                await crash(redis)
                return await probe()

            joining.probe = dying  # type: ignore[method-assign]
            await joining.join()
        async with connected(BrokerConfig(url)) as redis:
            assert await redis.get("key") == b"value"
        await joining.leave()


@both
async def test_the_data_directory_can_have_a_long_path(tmp_path: Path, name: str) -> None:
    async with OPEN[name](tmp_path / ("deep" * 30)) as server:
        assert await listens(server)


async def test_a_broken_data_file_is_reported(tmp_path: Path) -> None:
    async with embedded_redis(tmp_path) as url, connected(BrokerConfig(url)) as redis:
        await redis.set("key", "value")
    [file] = (tmp_path / "redis" / "appendonlydir").glob("*.incr.aof")
    file.write_bytes(b"nonsense" + file.read_bytes())
    with pytest.raises(
        BrokerUnavailable, match=r"does not start: .*incr\.aof is damaged.*server\.log"
    ):
        async with embedded_redis(tmp_path):
            pass
