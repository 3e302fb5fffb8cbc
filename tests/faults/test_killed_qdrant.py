"""The bundled Qdrant is killed while documents are indexed: nothing is lost, and work goes on."""

import asyncio
import json
import os
import random
import signal
import socket
import struct
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis

from ingestq.broker.connection import BrokerConfig, connected
from ingestq.broker.keys import RESULT
from ingestq.broker.queue.job_queue import JobQueue
from ingestq.broker.queue.leases import LeaseQueue
from ingestq.core.documents import Document
from ingestq.core.jobs import IngestBatch
from ingestq.core.results import BatchReport, DocumentCounts
from ingestq.embedded.lock_file import is_locked, open_lock
from ingestq.embedded.redis import embedded_redis
from tests.claims import DOCUMENTS, finish, take
from tests.command import Ingestq
from tests.waiting import eventually

NOTES = 400
MANY_NOTES = 1200
KILLS = 50
LONGEST_LIFE_SECONDS = 0.4
"""How long the server lives at most, from its first answer on."""
START_SECONDS = 150.0
"""Longer than anything here takes to start on a busy machine."""
OUR_LEASE_SECONDS = 3600.0
CREDENTIALS = struct.Struct("3i")
"""Of the process that listens on a socket: its pid, user and group."""


def notes(ingestq: Ingestq, number: int) -> Path:
    folder = ingestq.folder / "notes"
    folder.mkdir()
    for day in range(number):
        (folder / f"{day}.txt").write_text(f"Note {day} is about the tide of day {day}.")
    return folder


def is_alive(ingestq: Ingestq) -> bool:
    with open_lock(ingestq.folder / ".ingestq" / "qdrant" / "alive.lock") as alive:
        return is_locked(alive)


class Run:
    """A run of a folder, with its log in a file: it must not wait for somebody to read it."""

    def __init__(self, ingestq: Ingestq, log: Path, process: subprocess.Popen[str]) -> None:
        self._log = log
        self._process = process
        self._socket = ingestq.folder / ".ingestq" / "qdrant" / "qdrant.sock"
        self._killed: int | None = None

    async def engine(self) -> int:
        """Return the pid of the engine when it answers.

        It is not the one that was killed last, which may go on listening for a moment.
        """

        async def pid() -> int | None:
            assert self._process.poll() is None, self._log.read_text()
            try:
                _, writer = await asyncio.open_unix_connection(self._socket)
            except OSError:
                return None
            connection = writer.get_extra_info("socket")
            found: int = CREDENTIALS.unpack(
                connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
            )[0]
            writer.close()
            return found if found != self._killed else None

        found = await eventually(pid, seconds=START_SECONDS)
        assert found is not None
        return found

    async def kill_engine(self, after_seconds: float = 0) -> None:
        self._killed = await self.engine()
        await asyncio.sleep(after_seconds)
        os.kill(self._killed, signal.SIGKILL)

    async def has_indexed(self, documents: int) -> str:
        """Wait for the end and assert that every document was indexed; return the log.

        One that was indexed when the server died, before the run could say so, is then unchanged.
        """
        out, _ = await asyncio.to_thread(self._process.communicate)
        log = self._log.read_text()
        assert self._process.returncode == 0, log
        counts = json.loads(out)["documents"]
        assert counts["indexed"] + counts["unchanged"] == documents, out
        return log


@contextmanager
def run_of(ingestq: Ingestq, folder: Path) -> Iterator[Run]:
    """Run the command; kill it on leaving if it still runs."""
    log = ingestq.folder / "log"
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            ingestq.command("run", folder, "--json"),
            cwd=ingestq.folder,
            env=ingestq.environment(),
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    with process:
        try:
            yield Run(ingestq, log, process)
        finally:
            process.kill()


@asynccontextmanager
async def open_queue(ingestq: Ingestq) -> AsyncIterator[Redis]:
    """Yield a client of the command's queue, in which a job runs while inside.

    So no run ends: it waits until all jobs have.
    """
    async with embedded_redis(ingestq.folder / ".ingestq") as url:
        config = BrokerConfig(url)
        async with connected(config) as redis:
            document = Document(
                collection="documents", doc_id="ours", version=1, source="", text=""
            )
            await JobQueue(redis, config).offer([IngestBatch("ours", (document,))])
            leases = LeaseQueue(redis, config, OUR_LEASE_SECONDS, DOCUMENTS)
            [ours] = await take(leases)
            yield redis
            assert await finish(leases, ours, BatchReport(DocumentCounts(indexed=1)))


async def is_in_the_middle(redis: Redis) -> None:
    """Wait until a job of the run has ended."""
    await eventually(lambda: redis.keys(RESULT + "*"), seconds=START_SECONDS)


@pytest.mark.slow
async def test_a_run_outlives_its_engine(ingestq: Ingestq) -> None:
    folder = notes(ingestq, NOTES)
    async with AsyncExitStack() as unfinished:
        redis = await unfinished.enter_async_context(open_queue(ingestq))
        with run_of(ingestq, folder) as running:
            await is_in_the_middle(redis)
            await running.kill_engine()
            await running.engine()
            await unfinished.aclose()
            log = await running.has_indexed(NOTES)
    assert "qdrant.stopped" in log
    assert "it was killed" in log
    assert not is_alive(ingestq)
    verified = ingestq("verify", folder, "--json").json
    assert (verified["consistent"], verified["documents"]) == (True, NOTES)


@pytest.mark.slow
@pytest.mark.timeout(1200)
async def test_fifty_kills_lose_nothing(ingestq: Ingestq) -> None:
    folder = notes(ingestq, MANY_NOTES)
    dice = random.Random(18)
    async with AsyncExitStack() as unfinished:
        redis = await unfinished.enter_async_context(open_queue(ingestq))
        with run_of(ingestq, folder) as running:
            await is_in_the_middle(redis)
            for _ in range(KILLS):
                await running.kill_engine(dice.uniform(0, LONGEST_LIFE_SECONDS))
            await unfinished.aclose()
            await running.has_indexed(MANY_NOTES)
    verified = (await ingestq.ended("verify", folder, "--json")).json
    assert (verified["consistent"], verified["documents"]) == (True, MANY_NOTES)
    assert ingestq("status", "--json").json["dead_letters"] == 0
