"""The bundled servers of a data directory, used beside the commands of a test."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from ingestq.embedded.engine import open_engine
from ingestq.embedded.lock_file import is_locked, open_lock
from tests.command import Ingestq
from worker.store.client import Qdrant, QdrantConfig, connect_qdrant


@asynccontextmanager
async def bundled_qdrant(data_dir: Path) -> AsyncIterator[Qdrant]:
    """The bundled Qdrant of a data directory."""
    async with (
        open_engine(data_dir) as engine,
        connect_qdrant(QdrantConfig(None, None, engine.socket, engine.outage)) as qdrant,
    ):
        yield qdrant


def redis_folder(ingestq: Ingestq) -> Path:
    return ingestq.folder / ".ingestq" / "redis"


def redis_pid(ingestq: Ingestq) -> int:
    """Return the pid of the bundled Redis."""
    return int((redis_folder(ingestq) / "server.pid").read_text())


def redis_is_alive(ingestq: Ingestq) -> bool:
    return is_held(redis_folder(ingestq) / "alive.lock")


def is_held(path: Path) -> bool:
    """Return whether a process holds the lock at ``path``."""
    with open_lock(path) as lock:
        return is_locked(lock)
