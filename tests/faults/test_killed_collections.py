"""``ingestq up`` is killed while it fills two collections: each ends up equal to its folder."""

import signal
from collections.abc import AsyncIterator, Set
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
from redis.asyncio import Redis

from ingestq.broker import keys
from ingestq.broker.connection import BrokerConfig, awaited, connected
from ingestq.broker.queue.job_queue import JobQueue
from ingestq.embedded.redis import embedded_redis
from tests.books import balanced
from tests.command import Ingestq
from tests.running_command import running
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
    ingestq.settings["drop_settle_seconds"] = "0.1"
    (ingestq.folder / "ingestq.toml").write_text(TABLES)
    for name in COLLECTIONS:
        folder = ingestq.folder / f"of-{name}"
        folder.mkdir()
        for i in range(FILES):
            text = f"Note {i} for {name}. " + f"The tide of hour {i} turns late. " * 30
            (folder / f"{i}.txt").write_text(text)
    return ingestq.folder


@asynccontextmanager
async def redis_of(ingestq: Ingestq) -> AsyncIterator[Redis]:
    """Yield a client of the commands' server, which outlives them while inside."""
    async with (
        embedded_redis(ingestq.folder / ".ingestq") as url,
        connected(BrokerConfig(url)) as redis,
    ):
        yield redis
        await balanced(redis)


async def leases(redis: Redis) -> dict[bytes, str]:
    """Return the collection of the job that each token owns. Those of a killed worker go on."""
    found = {}
    for key in await redis.keys(keys.LEASE + "*"):
        job = key.decode().removeprefix(keys.LEASE)
        token = await redis.get(key)
        info = await awaited(redis.hgetall(keys.JOB_INFO + job))
        if token is not None and info:  # else it has just ended
            found[token] = info[b"collection"].decode()
    return found


async def in_work(redis: Redis, others: Set[bytes]) -> set[str]:
    """Return the collections of which jobs run, but for those of the tokens ``others``."""
    return {name for token, name in (await leases(redis)).items() if token not in others}


@pytest.mark.slow
async def test_no_document_reaches_the_other_collection(ingestq: Ingestq, folders: Path) -> None:
    async with redis_of(ingestq) as redis:
        for _ in range(KILLS):
            others = frozenset(await leases(redis))
            with running(ingestq, "up"):
                # It is killed in the middle: of both collections something runs.
                await eventually(
                    partial(in_work, redis, others), lambda names: names == {*COLLECTIONS}, PATIENCE
                )
        with running(ingestq, "up") as last:

            async def scanned() -> int:
                assert last.process.poll() is None, last.said()
                return last.said().count("watch.scanned")

            await eventually(scanned, lambda count: count >= len(COLLECTIONS), PATIENCE)
            queue = JobQueue(redis, BrokerConfig(""))
            await eventually(queue.is_empty, seconds=PATIENCE)
            last.tell(signal.SIGTERM)
            last.ends(0, PATIENCE)

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
