"""Processes that have content in the spool are killed: none of it is lost, nor left for ever."""

import asyncio
import json
import signal
from functools import partial
from operator import lt

import pytest

from broker.connection import BrokerConfig, connected
from broker.contract import INLINE_TEXT_BYTES, objects_in
from broker.dead_letters import LetterFilter
from broker.spool.store import open_spool
from broker.waiting import payloads
from ingestq.embedded import embedded_redis
from ingestq.runtime import Broker
from tests.command import Ingestq
from tests.waiting import eventually

DOCUMENTS = 60
KILLS = 4


def lines() -> str:
    """Documents that are too long for the queue, and soon embedded."""
    padding = "\n" * INLINE_TEXT_BYTES
    return "".join(
        json.dumps({"doc_id": f"{n}", "text": f"Note {n}.{padding}The end of note {n}."}) + "\n"
        for n in range(DOCUMENTS)
    )


async def check(broker: Broker) -> tuple[set[str], set[str]]:
    """What jobs and letters name, and what is there."""
    assert broker.spool is not None
    named: set[str] = set()
    async for some in payloads(broker.redis):
        named.update(*map(objects_in, some))
    letters = [letter async for letter in broker.letters.find(LetterFilter())]
    named.update(*[objects_in(stored.letter.payload) for stored in letters])
    space, _ = await broker.queue.space()
    return named, set(await broker.spool.names(space))


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_workers_are_killed_and_every_text_is_indexed(ingestq: Ingestq) -> None:
    ingestq.settings |= {"lease_seconds": "1", "pool_size": "1"}
    data = ingestq.folder / ".ingestq"
    async with embedded_redis(data) as url, connected(config := BrokerConfig(url)) as redis:
        broker = Broker(redis, config, open_spool(str(data / "spool")))
        added = await asyncio.to_thread(ingestq, "add", "--json", "-", stdin=lines())
        assert added.code == 0, added.err
        submission = added.json["submission"]
        named, there = await check(broker)
        assert named == there
        assert len(named) == DOCUMENTS

        async def done() -> int:
            return (await broker.queue.submission(submission)).documents.total

        for kill in range(KILLS):
            worker = ingestq.start("worker")
            try:
                await eventually(done, partial(lt, kill * 10), seconds=120)
            finally:
                worker.send_signal(signal.SIGKILL)
                worker.communicate()
            named, there = await check(broker)
            assert named <= there
        assert named, "too fast"
        worker = ingestq.start("worker")
        try:
            await eventually(done, lambda n: n == DOCUMENTS, seconds=120)
        finally:
            worker.send_signal(signal.SIGTERM)
            worker.communicate()
        status = await broker.queue.submission(submission)
        assert status.documents.rejected == 0
        assert (await check(broker))[1] <= there - named  # what killed workers left, at most
