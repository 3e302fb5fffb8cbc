"""The bundled Qdrant's process, started directly: tests kill it and change its files."""

import asyncio
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

import httpx
from qdrant_client import AsyncQdrantClient

from tests.waiting import eventually

START_SECONDS: Final = 120.0
STOP_SECONDS: Final = 120.0
NEVER_FLUSHING: Final = """
from ingestq.embedded.qdrant import shard

shard.IDLE_FLUSH_SECONDS = shard.BUSY_FLUSH_SECONDS = 3600.0
"""
NEVER_WRITING: Final = """
from ingestq.embedded.qdrant import shard

shard.Shard._acknowledge = lambda *_: 1 / 0
"""
UNSURE_OF_NAMES: Final = """
import errno
from ingestq.embedded.qdrant import catalog

def rename(source, target):
    source.replace(target)
    raise OSError(errno.EIO, "the disk fails")

catalog.rename_durably = rename
"""
ALWAYS_COMPACTING: Final = """
from ingestq.embedded.qdrant import collections, compaction, shard

shard.IDLE_FLUSH_SECONDS = shard.BUSY_FLUSH_SECONDS = collections.COMPACTION_SECONDS = 0.05
compaction.LEAST_WASTED = 20
"""
SERVE: Final = """
from ingestq.embedded.qdrant.__main__ import main

main()
"""


@contextmanager
def short_folder() -> Iterator[Path]:
    """A folder whose path leaves room for that of a socket."""
    folder = Path(tempfile.mkdtemp(prefix="engine-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def start_engine(folder: Path, socket: Path, change: str = "") -> subprocess.Popen[bytes]:
    """Start an engine on ``folder``, after the program ``change``."""
    command = [sys.executable, "-c", change + SERVE, str(folder), "--socket", str(socket)]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL)


@asynccontextmanager
async def running_engine(folder: Path, socket: Path) -> AsyncIterator[AsyncQdrantClient]:
    """Run an engine on ``folder``; stop it on leaving, and check that it ends well."""
    process = start_engine(folder, socket)
    try:
        async with client_of(socket, process) as client:
            yield client
        process.terminate()
        assert process.wait(STOP_SECONDS) == 0
    finally:
        process.kill()
        process.wait()


@asynccontextmanager
async def failing_engine(
    folder: Path, socket: Path, change: str
) -> AsyncIterator[AsyncQdrantClient]:
    """Run an engine after the program ``change``; check on leaving that it has ended by itself."""
    process = start_engine(folder, socket, change)
    try:
        async with client_of(socket, process) as client:
            yield client
        assert await asyncio.to_thread(process.wait, STOP_SECONDS) == 1
    finally:
        process.kill()
        process.wait()


@asynccontextmanager
async def client_of(
    socket: Path, process: subprocess.Popen[bytes]
) -> AsyncIterator[AsyncQdrantClient]:
    """Yield a client of the engine ``process``, when that serves."""
    client = AsyncQdrantClient(
        url="http://qdrant",
        transport=httpx.AsyncHTTPTransport(uds=str(socket)),
        check_compatibility=False,
        timeout=60,
    )

    async def is_ready() -> bool:
        assert process.poll() is None, "the engine has ended"
        try:
            await client.info()
        except Exception:
            return False
        return True

    try:
        await eventually(is_ready, seconds=START_SECONDS)
        yield client
    finally:
        await client.close()
