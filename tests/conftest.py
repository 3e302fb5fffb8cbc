"""Fixtures shared by all tests: real services, started once.

With ``INGESTQ_TEST_REDIS_URL`` and ``INGESTQ_TEST_QDRANT_URL`` the tests use those servers. They
empty the named Redis database, and the following ones for further processes of ``pytest -n``; in
Qdrant they touch only collections of their own.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from filelock import FileLock
from redis import Redis
from redis.connection import parse_url
from redis.exceptions import RedisError

from ingestq.app.composition import Broker
from ingestq.broker.blobs import open_blob_store
from ingestq.broker.connection import BrokerConfig, connected
from ingestq.broker.queue.job_queue import JobQueue
from ingestq.embedded.redis import embedded_redis
from tests.command import Ingestq
from tests.harness import Harness
from tests.tiny_models import TinyModels
from worker.embedding.config import EmbeddingConfig, cores
from worker.embedding.pool import ModelPool
from worker.store.client import Qdrant, QdrantConfig, connect_qdrant
from worker.store.collection import CollectionNames, open_collection
from worker.store.schema import fingerprint

REDIS_URL = os.environ.get("INGESTQ_TEST_REDIS_URL")
QDRANT_URL = os.environ.get("INGESTQ_TEST_QDRANT_URL")


@pytest.fixture(scope="session")
async def redis_url(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> AsyncIterator[str]:
    """A Redis server for the whole session."""
    if REDIS_URL is not None:
        yield _own_database(REDIS_URL, worker_id)
    else:
        async with embedded_redis(tmp_path_factory.mktemp("redis")) as url:
            yield url


@pytest.fixture
async def broker(redis_url: str, tmp_path: Path) -> AsyncIterator[Broker]:
    """A connected broker on an empty database, with a blob store."""
    config = BrokerConfig(redis_url)
    async with connected(config) as redis:
        await redis.flushdb()
        yield Broker(redis, config, open_blob_store(str(tmp_path / "blobs")))


@pytest.fixture
def queue(broker: Broker) -> JobQueue:
    return broker.queue


def pytest_configure(config: pytest.Config) -> None:
    """Let all tests, and the commands they run, share one cache of prepared models."""
    # A shell ignores SIGINT for what it starts in the background, and commands would inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if "INGESTQ_CACHE_DIR" not in os.environ:
        assert config.cache is not None
        os.environ["INGESTQ_CACHE_DIR"] = str(config.cache.mkdir("models"))


@pytest.fixture(scope="session")
def cache_dir() -> Path:
    """The folder with prepared models."""
    return Path(os.environ["INGESTQ_CACHE_DIR"])


@pytest.fixture(scope="session")
async def model(cache_dir: Path) -> AsyncIterator[ModelPool]:
    """The default model in a real pool, loaded once."""
    processes = min(2, cores())
    config = EmbeddingConfig(cache_dir, pool_size=processes, parse_processes=processes)
    async with ModelPool(config) as pool:
        yield pool


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> TinyModels:
    """Small models of many kinds, made once for all test processes."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "tiny-models"
    with FileLock(folder.with_suffix(".lock")):
        if not folder.exists():
            folder.mkdir()
            making = [sys.executable, "-m", "tests.tiny_models", str(folder)]
            made = subprocess.run(making, capture_output=True, text=True, check=False)
            assert made.returncode == 0, made.stderr
    return TinyModels(folder)


@pytest.fixture(scope="session")
async def qdrant(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Qdrant]:
    """A Qdrant for the whole session: the named server, or the local mode."""
    path = tmp_path_factory.mktemp("qdrant")
    async with connect_qdrant(QdrantConfig(QDRANT_URL, None, path)) as opened:
        yield opened


@pytest.fixture
async def collection(qdrant: Qdrant, model: ModelPool) -> AsyncIterator[CollectionNames]:
    """A new, empty collection, deleted afterwards."""
    names = await open_collection(qdrant, f"test-{uuid.uuid4().hex[:12]}", fingerprint(model.info))
    yield names
    await qdrant.ask(lambda client: client.delete_collection(names.chunks))
    await qdrant.ask(lambda client: client.delete_collection(names.ledger))


@pytest.fixture
async def harness(
    broker: Broker, qdrant: Qdrant, model: ModelPool, collection: CollectionNames, tmp_path: Path
) -> AsyncIterator[Harness]:
    """An empty folder and collection, with a running worker."""
    root = tmp_path / "root"
    root.mkdir()
    harness = Harness.of(broker, qdrant, collection, model, root)
    async with harness.working():
        yield harness


@pytest.fixture
def ingestq(tmp_path: Path) -> Ingestq:
    """The installed command, in an empty folder with its own data directory."""
    return Ingestq(tmp_path)


@pytest.fixture(scope="session")
def debian_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of the system's own redis-server, which CI installs."""
    with _server(_installed("redis-server"), tmp_path_factory.mktemp("debian-redis")) as url:
        yield url


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of the system's browser, which CI installs."""
    return _installed("chromium")


@pytest.fixture(scope="session")
def libfaketime() -> str:
    """The path of a library that fakes the clock when it is preloaded; CI installs it."""
    asked = [_installed("faketime"), "-f", "+0s", "printenv", "LD_PRELOAD"]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()


def _own_database(url: str, worker_id: str) -> str:
    """Return ``url`` with a database that no other test process uses."""
    number = worker_id.removeprefix("gw")
    if not number.isdecimal():  # the only one
        return url
    database = parse_url(url).get("db", 0) + int(number)  # type: ignore[no-untyped-call]
    address, _, query = url.partition("?")
    others = [option for option in query.split("&") if option and not option.startswith("db=")]
    return f"{address}?{'&'.join([*others, f'db={database}'])}"


def _installed(program: str) -> str:
    """Return the path of a program that CI installs; without it fail in CI, else skip the test."""
    path = shutil.which(program)
    if path is None:
        if "CI" in os.environ:
            pytest.fail(f"{program} is missing; .ci/run installs it")
        pytest.skip(f"there is no {program} on this machine")
    return path


@contextmanager
def _server(binary: str, folder: Path) -> Iterator[str]:
    socket = folder / "s"
    options = {
        "port": "0",
        "unixsocket": str(socket),
        "dir": str(folder),
        "appendonly": "yes",
        "maxmemory-policy": "noeviction",
    }
    arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
    process = subprocess.Popen([binary, *arguments], stdout=subprocess.DEVNULL)
    try:
        _await_answer(socket)
        yield f"unix://{socket}"
    finally:
        process.terminate()
        process.wait()


def _await_answer(socket: Path) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            with Redis(unix_socket_path=str(socket)) as client:
                client.ping()
        except (RedisError, OSError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return
