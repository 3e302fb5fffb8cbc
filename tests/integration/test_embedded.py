"""The bundled Redis: shared on a machine, durable, and stopped with its last user."""

import subprocess
import sys
from pathlib import Path

import pytest

from ingestq.broker.connection import BrokerConfig, connected
from ingestq.core.errors import BrokerUnavailable
from ingestq.embedded.redis import embedded_redis
from tests.waiting import crash

HOLD = """
import asyncio, sys
from pathlib import Path
from ingestq.embedded.redis import embedded_redis

async def main():
    async with embedded_redis(Path(sys.argv[1])) as url:
        print(url, flush=True)
        await asyncio.to_thread(sys.stdin.read)

asyncio.run(main())
"""


def hold(folder: Path) -> subprocess.Popen[str]:
    """Start another process that uses the server until its stdin is closed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("unix://")
    return process


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


async def test_the_server_runs_until_its_last_user_leaves(tmp_path: Path) -> None:
    other = hold(tmp_path)
    async with embedded_redis(tmp_path) as url:
        other.communicate("")
        assert await answers(url)
    assert not await answers(url)


async def test_a_killed_user_does_not_keep_the_server_running(tmp_path: Path) -> None:
    other = hold(tmp_path)
    async with embedded_redis(tmp_path) as url:
        other.kill()
        other.communicate()
        assert await answers(url)
    assert not await answers(url)


async def test_a_killed_server_is_restarted_with_its_data(tmp_path: Path) -> None:
    async with embedded_redis(tmp_path) as url:
        async with connected(BrokerConfig(url)) as redis:
            await redis.set("key", "value")
            await crash(redis)
        other = hold(tmp_path)
        async with connected(BrokerConfig(url)) as redis:
            assert await redis.get("key") == b"value"
        other.communicate("")


async def test_the_data_directory_can_have_a_long_path(tmp_path: Path) -> None:
    async with embedded_redis(tmp_path / ("deep" * 30)) as url:
        assert await answers(url)


async def test_a_broken_data_file_is_reported(tmp_path: Path) -> None:
    async with embedded_redis(tmp_path) as url, connected(BrokerConfig(url)) as redis:
        await redis.set("key", "value")
    [file] = (tmp_path / "redis" / "appendonlydir").glob("*.incr.aof")
    file.write_bytes(b"nonsense" + file.read_bytes())
    with pytest.raises(BrokerUnavailable, match=r"does not start: .*AOF.*server\.log"):
        async with embedded_redis(tmp_path):
            pass
