"""Fixtures shared by all tests: real services, started once.

With ``INGESTQ_TEST_REDIS_URL`` and ``INGESTQ_TEST_QDRANT_URL`` the tests use those servers. They
empty the named Redis database, and the following ones for further processes of ``pytest -n``; in
Qdrant they touch only collections of their own.
"""

import asyncio
import logging
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import pytest
import stamina
import structlog
from filelock import FileLock
from hypothesis import settings
from qdrant_client import AsyncQdrantClient
from redis.connection import parse_url

from ingestq.app.composition import Broker
from ingestq.broker.blobs import open_blob_store
from ingestq.broker.connection import BrokerConfig, connected
from ingestq.broker.queue.job_queue import JobQueue
from ingestq.core import outages
from ingestq.core.service import cancel
from ingestq.embedded.engine import open_engine
from ingestq.embedded.redis import embedded_redis
from ingestq.outbound import stores
from tests.addresses import config_of
from tests.command import Ingestq
from tests.harness import Harness
from tests.machines import Network
from tests.mounts import Mounts
from tests.qdrant_proxy import QdrantProxy, qdrant_proxy
from tests.s3_server import Bucket, S3Server, s3_server
from tests.skewed_redis import library_of
from tests.tiny_models import KINDS, RARE_KINDS, TinyModels
from tests.waiting import await_answer
from worker.embedding.config import EmbeddingConfig, cores
from worker.embedding.pool import ModelPool
from worker.store.client import Qdrant, connect_qdrant
from worker.store.collection import CollectionNames, open_collection
from worker.store.schema import fingerprint
from worker.text.ocr import find_data

# How long an example takes depends on what else the machine does.
settings.register_profile("ingestq", deadline=None)
settings.load_profile("ingestq")

REDIS_URL = os.environ.get("INGESTQ_TEST_REDIS_URL")
QDRANT_URL = os.environ.get("INGESTQ_TEST_QDRANT_URL")

LIBRARIES = sysconfig.get_path("purelib")
IN_MEMORY = Path("/dev/shm")
SERVER_BYTES = 4 * 1024**3
"""Far more than the servers of all processes of ``pytest -n`` write."""
ABOUT_TO_END_SECONDS = 60.0
"""Much longer than a group commit waits for others, and for the answer of Qdrant."""
SLOW_TEST_SECONDS = 600
"""A slow test may take ten times longer on a machine that does much else."""
MODEL_FIXTURES = {"model", "tiny_models", "rare_models", "models"}
END_SECONDS = 60.0
"""Seconds that tasks may take to end after a test that left them running."""


@pytest.fixture(scope="session")
def server_data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for the data of the session's servers: in memory, if there is room.

    They wait for the disk at each write, which is a third of the time of all tests. Those that stop
    a server, or fill its disk, have one of their own on a disk.
    """
    if IN_MEMORY.is_dir() and shutil.disk_usage(IN_MEMORY).free > SERVER_BYTES:
        with tempfile.TemporaryDirectory(prefix="ingestq-tests-", dir=IN_MEMORY) as folder:
            yield Path(folder)
    else:
        yield tmp_path_factory.mktemp("servers")


@pytest.fixture(scope="session")
async def redis_url(server_data: Path, worker_id: str) -> AsyncIterator[str]:
    """A Redis server for the whole session."""
    if REDIS_URL is not None:
        yield _own_database(REDIS_URL, worker_id)
    else:
        async with embedded_redis(server_data / "redis") as url:
            yield url


@pytest.fixture
async def broker(redis_url: str, tmp_path: Path) -> AsyncIterator[Broker]:
    """A connected broker on an empty database, with a blob store."""
    config = BrokerConfig(redis_url)
    async with connected(config) as redis:
        await redis.flushdb()
        yield Broker(redis, config, open_blob_store(str(tmp_path / "blobs")))


@pytest.fixture(autouse=True)
def no_outages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the outages that earlier tests in this process have logged."""
    monkeypatch.setattr(outages, "_outages", {})


@pytest.fixture(autouse=True)
def log_as_before() -> Iterator[None]:
    """Restore what `configure_logging` sets, or later tests in this process would miss events."""
    root = logging.getLogger()
    level, handlers, config = root.level, list(root.handlers), structlog.get_config()
    excepthook, hooks = sys.excepthook, stamina.instrumentation.get_on_retry_hooks()
    yield
    logging.captureWarnings(False)
    root.level, root.handlers = level, handlers
    structlog.configure(**config)
    sys.excepthook = excepthook
    stamina.instrumentation.set_on_retry_hooks(hooks)


@pytest.fixture(autouse=True)
async def no_tasks_left(request: pytest.FixtureRequest) -> AsyncIterator[None]:
    """End the tasks that a test leaves running, which would disturb later ones, and fail it.

    All other fixtures of the test are closed before; those of the session keep their tasks, and
    libraries and Python itself those that they have started.
    """
    before = asyncio.all_tasks()
    yield
    before.add(asyncio.current_task())  # type: ignore[arg-type]
    left = {task for task in asyncio.all_tasks() - before if _is_ours(task)}
    may_leave_tasks = request.node.get_closest_marker("leaves_tasks") is not None
    if left and not may_leave_tasks:  # some are about to end, when Qdrant has answered
        _, left = await asyncio.wait(left, timeout=ABOUT_TO_END_SECONDS)
    ending = asyncio.create_task(cancel(*left))
    await asyncio.wait([ending], timeout=END_SECONDS)
    assert ending.done(), f"tasks that do not end: {left}"
    assert not left or may_leave_tasks, f"tasks are left: {left}"


@pytest.fixture
def queue(broker: Broker) -> JobQueue:
    return broker.queue


def pytest_configure(config: pytest.Config) -> None:
    """Let all tests, and the commands they run, share one cache of prepared models."""
    # A shell ignores SIGINT for what it starts in the background, and commands would inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # As nohup does with SIGHUP.
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    if "INGESTQ_CACHE_DIR" not in os.environ:
        assert config.cache is not None
        os.environ["INGESTQ_CACHE_DIR"] = str(config.cache.mkdir("models"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give slow tests more time than others, and those for which models are made.

    It only bounds a hang. The time of fixtures counts, and with ``pytest -n`` that of waiting until
    another process has made the models: the first tests prepare the default model.
    """
    for item in items:
        needs_models = MODEL_FIXTURES.intersection(getattr(item, "fixturenames", ()))
        is_slow = item.get_closest_marker("slow") is not None
        if (is_slow or needs_models) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(SLOW_TEST_SECONDS))


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
    """Small models, made once for all test processes."""
    return _made_once(tmp_path_factory.getbasetemp(), worker_id, "tiny-models", KINDS)


@pytest.fixture(scope="session")
def rare_models(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> TinyModels:
    """Small models of further kinds, for slow tests: they take half a minute to make."""
    return _made_once(tmp_path_factory.getbasetemp(), worker_id, "rare-models", RARE_KINDS)


@pytest.fixture(scope="session")
async def bundled_qdrant(server_data: Path) -> AsyncIterator[str]:
    """The address of the bundled engine, which runs for the whole session."""
    async with open_engine(server_data / "engine") as engine:
        yield f"unix://{engine.socket}"


@pytest.fixture(scope="session")
def qdrant_place(request: pytest.FixtureRequest) -> str:
    """The address of the session's Qdrant: of the named server, or of the bundled engine."""
    return QDRANT_URL or str(request.getfixturevalue("bundled_qdrant"))


@pytest.fixture(scope="session")
async def qdrant(qdrant_place: str) -> AsyncIterator[Qdrant]:
    """A client of the session's Qdrant."""
    async with connect_qdrant(config_of(qdrant_place)) as opened:
        yield opened


@pytest.fixture
async def proxied_qdrant(qdrant_place: str) -> AsyncIterator[QdrantProxy]:
    """A proxy in front of the session's Qdrant. In the end all planned faults have happened."""
    async with qdrant_proxy(qdrant_place) as proxy:
        yield proxy
        assert proxy.faults.left == 0


@pytest.fixture
async def alias(qdrant: Qdrant) -> AsyncIterator[str]:
    """An unused alias; collections whose names begin with it are deleted afterwards."""
    async with _unused_alias(qdrant) as alias:
        yield alias


@pytest.fixture
async def collection(qdrant: Qdrant, model: ModelPool) -> AsyncIterator[CollectionNames]:
    """A new, empty collection, deleted afterwards."""
    async with _unused_alias(qdrant) as alias:
        yield await open_collection(qdrant, alias, fingerprint(model.info))


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


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A server of S3 for the whole session."""
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def bucket(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """A new bucket, which this process and the commands that it starts can reach."""
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(stores, "_stores", stores._Stores())
    bucket = Bucket(s3, f"bucket-{uuid.uuid4().hex[:12]}")
    s3.client.create_bucket(Bucket=bucket.name)
    return bucket


@pytest.fixture(scope="session")
def dovecot() -> str:
    """The path of the system's Dovecot, a server of IMAP; CI installs it."""
    return _installed("dovecot", f"{os.environ.get('PATH', '')}:/usr/sbin")


@pytest.fixture
def mounts() -> Iterator[Mounts]:
    """Mounts file systems; they are unmounted afterwards."""
    mounts = Mounts()
    yield mounts
    mounts.close()


@pytest.fixture
def ingestq(tmp_path: Path) -> Ingestq:
    """The installed command, in an empty folder with its own data directory.

    It starts one process for embedding and one for parsing, because each costs a second, and serves
    its API on any free port.
    """
    return Ingestq(tmp_path, {"pool_size": "1", "api_port": "0"})


@pytest.fixture(scope="session")
def debian_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of the system's own redis-server, which CI installs."""
    with _server(_installed("redis-server"), tmp_path_factory.mktemp("debian-redis")) as url:
        yield url


@pytest.fixture(scope="session")
def redis_server() -> str:
    """The path of the system's redis-server, which speaks TLS; CI installs it."""
    return _installed("redis-server")


@pytest.fixture(scope="session")
def systemd_analyze() -> str:
    """The path of systemd's program that checks units, which CI installs."""
    return _installed("systemd-analyze")


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of the system's browser, which CI installs."""
    return _installed("chromium")


@pytest.fixture(scope="session")
def libfaketime() -> str:
    """The path of a library that fakes the clock when it is preloaded; CI installs it."""
    return library_of(_installed("faketime"))


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    """A network without hosts. Needs root, and a kernel that allows network namespaces."""
    _installed("ip")
    try:
        made = Network.make()
    except OSError as error:
        pytest.skip(f"this machine allows no network namespaces: {error}")
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="session")
def ocr_data() -> None:
    """Make sure that Tesseract's data for English and Korean is there, which CI installs."""
    if missing := find_data(("eng", "kor"), None).missing:
        _not_installed(f"language data for OCR ({', '.join(missing)})")


def _is_ours(task: asyncio.Task[Any]) -> bool:
    code = getattr(task.get_coro(), "cr_code", None)  # the end of a generator has none
    return code is not None and not code.co_filename.startswith(LIBRARIES)


def _made_once(base: Path, worker_id: str, name: str, kinds: Sequence[str]) -> TinyModels:
    folder = (base if worker_id == "master" else base.parent) / name
    with FileLock(folder.with_suffix(".lock")):
        if not folder.exists():
            folder.mkdir()
            making = [sys.executable, "-m", "tests.tiny_models", str(folder), *kinds]
            made = subprocess.run(making, capture_output=True, text=True, check=False)
            assert made.returncode == 0, made.stderr
    return TinyModels(folder)


@asynccontextmanager
async def _unused_alias(qdrant: Qdrant) -> AsyncIterator[str]:
    alias = f"test-{uuid.uuid4().hex[:12]}"
    yield alias
    await qdrant.ask(partial(_remove_collections, alias))


async def _remove_collections(prefix: str, client: AsyncQdrantClient) -> None:
    for collection in (await client.get_collections()).collections:
        if collection.name.startswith(prefix):
            await client.delete_collection(collection.name)


def _own_database(url: str, worker_id: str) -> str:
    """Return ``url`` with a database that no other test process uses."""
    number = worker_id.removeprefix("gw")
    if not number.isdecimal():  # the only one
        return url
    database = parse_url(url).get("db", 0) + int(number)  # type: ignore[no-untyped-call]
    address, _, query = url.partition("?")
    others = [option for option in query.split("&") if option and not option.startswith("db=")]
    return f"{address}?{'&'.join([*others, f'db={database}'])}"


def _installed(program: str, folders: str | None = None) -> str:
    """Return the path of a program that CI installs; without it fail in CI, else skip the test."""
    path = shutil.which(program, path=folders)
    if path is None:
        _not_installed(program)
    return path


def _not_installed(what: str) -> NoReturn:
    """Fail in CI, which installs ``what``; else skip the test."""
    if "CI" in os.environ:
        pytest.fail(f"there is no {what}; .ci/run installs it")
    pytest.skip(f"there is no {what} on this machine")


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
        await_answer(socket)
        yield f"unix://{socket}"
    finally:
        process.terminate()
        process.wait()
