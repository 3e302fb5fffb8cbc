"""A server whose clock a test can set."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from ingestq.app.composition import Broker
from ingestq.broker.blobs import open_blob_store
from ingestq.broker.connection import BrokerConfig, connected
from tests.skewed_redis import SkewedRedis, skewed_redis


@pytest.fixture(scope="module")
def skewed_server(
    tmp_path_factory: pytest.TempPathFactory, libfaketime: str
) -> Iterator[SkewedRedis]:
    with skewed_redis(tmp_path_factory.mktemp("skewed"), libfaketime) as server:
        yield server


@pytest.fixture
async def skewed(skewed_server: SkewedRedis, tmp_path: Path) -> AsyncIterator[Broker]:
    """A broker on an empty server with the right time, which `skewed_server` may set."""
    skewed_server.set_clock(0)
    config = BrokerConfig(skewed_server.url)
    async with connected(config) as client:
        await client.flushdb()
        yield Broker(client, config, open_blob_store(str(tmp_path / "blobs")))
