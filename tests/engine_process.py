"""The bundled Qdrant's process, started directly: tests kill it and change its files."""

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

START_SECONDS: Final = 30.0
STOP_SECONDS: Final = 30.0


@contextmanager
def short_folder() -> Iterator[Path]:
    """A folder whose path leaves room for that of a socket."""
    folder = Path(tempfile.mkdtemp(prefix="engine-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def start_engine(folder: Path, socket: Path) -> subprocess.Popen[bytes]:
    """Start an engine on ``folder``."""
    options = [str(folder), "--socket", str(socket)]
    command = [sys.executable, "-m", "ingestq.embedded.qdrant", *options]
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
