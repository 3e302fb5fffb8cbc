"""``ingestq up`` is killed while it fills two collections: each ends up equal to its folder."""

import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from ingestq.broker.connection import BrokerConfig, connected
from ingestq.broker.queue.job_queue import JobQueue
from ingestq.embedded.redis import embedded_redis
from tests.books import balanced
from tests.command import Ingestq
from tests.waiting import eventually

FILES = 120
KILLS = 3
PATIENCE = 150.0
"""Seconds that the worker may take for all files on a busy machine."""
COLLECTIONS = ("documents", "handbook")
TABLES = """
[[drop]]
path = "of-documents"
source = "notes"

[[drop]]
path = "of-handbook"
source = "notes"
collection = "handbook"
"""


@pytest.fixture
def folders(ingestq: Ingestq) -> Path:
    """Return a folder for each collection, with the same file names in each."""
    ingestq.settings |= {"api_port": "0", "lease_seconds": "1", "drop_settle_seconds": "0.1"}
    (ingestq.folder / "ingestq.toml").write_text(TABLES)
    for name in COLLECTIONS:
        folder = ingestq.folder / f"of-{name}"
        folder.mkdir()
        for i in range(FILES):
            text = f"Note {i} for {name}. " + f"The tide of hour {i} turns late. " * 30
            (folder / f"{i}.txt").write_text(text)
    return ingestq.folder


@asynccontextmanager
async def queue_of(ingestq: Ingestq) -> AsyncIterator[JobQueue]:
    """Yield the queue of the commands, whose server outlives them while inside."""
    async with embedded_redis(ingestq.folder / ".ingestq") as url:
        config = BrokerConfig(url)
        async with connected(config) as redis:
            yield JobQueue(redis, config)
            await balanced(redis)


def start(ingestq: Ingestq) -> subprocess.Popen[bytes]:
    with (ingestq.folder / "log").open("ab") as log:
        return subprocess.Popen(
            ingestq.command("up"),
            cwd=ingestq.folder,
            env=ingestq.environment(),
            stderr=log,
        )


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_no_document_reaches_the_other_collection(ingestq: Ingestq, folders: Path) -> None:
    async with queue_of(ingestq) as queue:
        for _ in range(KILLS):
            running = start(ingestq)
            # In the middle: of both collections something runs.
            for name in COLLECTIONS:
                await eventually(partial(queue.count_jobs, [name]), lambda left: left.in_flight > 0)
            running.send_signal(signal.SIGKILL)
            running.wait(60)
        running = start(ingestq)
        log = folders / "log"
        scans = log.read_text().count("watch.scanned")
        await eventually(queue.workers, seconds=60)

        async def scanned() -> int:
            assert running.poll() is None, log.read_text()
            return log.read_text().count("watch.scanned") - scans

        await eventually(scanned, lambda count: count == len(COLLECTIONS), PATIENCE)
        await eventually(queue.is_empty, seconds=PATIENCE)
        running.send_signal(signal.SIGTERM)
        assert running.wait(60) == 0, log.read_text()

    counts = ingestq("status", "--json").json["collections"]
    assert [(one["name"], one["documents"]) for one in counts] == [(n, FILES) for n in COLLECTIONS]
    for name in COLLECTIONS:
        found = ingestq("search", "Note 7", "-n", "500", "--collection", name, "--json").json
        texts = {hit["doc_id"]: hit["text"] for hit in found["hits"] if hit["chunk_index"] == 0}
        assert texts.keys() == {f"notes/{i}.txt" for i in range(FILES)}
        assert all(f"for {name}." in text for text in texts.values())
        verified = ingestq("verify", "--collection", name, "--json").json
        assert (verified["consistent"], verified["documents"]) == (True, FILES)


def test_an_invalid_collection_name_is_refused(ingestq: Ingestq) -> None:
    ingestq("search", "x", "--collection", "a/b").failed_with(2, "--collection is 'a/b'", "letters")
