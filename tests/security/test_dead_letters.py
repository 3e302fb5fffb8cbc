"""Dead letters and their blobs are not kept for ever, and do not go without a word."""

from collections.abc import AsyncIterator

import pytest
from structlog.testing import capture_logs

from ingestq.app.composition import Broker
from ingestq.broker.blobs.garbage import GarbageCollector
from ingestq.broker.blobs.store import BlobStore
from ingestq.broker.queue.dead_letters import EXPIRED_BATCH, DeadLetterFilter
from ingestq.core import events
from ingestq.core.documents import Document
from ingestq.core.errors import StoreUnavailable
from ingestq.core.jobs import IngestBatch, dead_letter_batch
from tests.claims import finish, lease_queue, take
from tests.command import Ingestq
from tests.skewed_redis import DAY, YEAR, SkewedRedis
from worker.maintenance.upkeep import Upkeep

KEEP_DAYS = 90


async def content() -> AsyncIterator[bytes]:
    yield b"a report"


async def bury(broker: Broker, *doc_ids: str) -> None:
    """Upload documents and dead-letter them."""
    async with broker.client.blob_writer() as writer:
        for doc_id in doc_ids:
            blob = await writer.put(content())
            document = Document(
                doc_id=doc_id, version=1, source="s", collection="documents", blob=blob.name
            )
            batch = IngestBatch(doc_id, (document,))
            writer.mark_offered([batch])
            await broker.queue.offer([batch])
            leases = lease_queue(broker)
            [claimed] = await take(leases)
            assert await finish(leases, claimed, dead_letter_batch(batch, "broken", tries=5))


async def left(broker: Broker) -> tuple[set[str], int]:
    """Return the ids of the dead letters, and the number of blobs."""
    dead = {s.dead_letter.doc_id async for s in broker.dead_letters.find(DeadLetterFilter())}
    space, _ = await broker.queue.space()
    return dead, len(await store_of(broker).names(space))


def store_of(broker: Broker) -> BlobStore:
    assert broker.blobs is not None
    return broker.blobs


def upkeep(broker: Broker, keep_days: float = KEEP_DAYS) -> Upkeep:
    garbage = GarbageCollector(broker.redis, broker.config, store_of(broker))
    return Upkeep((), broker.dead_letters, garbage, keep_days)


async def test_dead_letters_and_their_blobs_expire(
    skewed: Broker, skewed_server: SkewedRedis
) -> None:
    await bury(skewed, "old")
    for week in range(12):  # 84 days, in which a worker runs now and then
        skewed_server.set_clock(week * 7 * DAY)
        await upkeep(skewed).once()
    await bury(skewed, "new")
    assert await left(skewed) == ({"old", "new"}, 2)
    with capture_logs() as logs:
        for week in range(12, 15):
            skewed_server.set_clock(week * 7 * DAY)
            await upkeep(skewed).once()
    assert await left(skewed) == ({"new"}, 1)
    [logged] = [entry for entry in logs if entry["event"] == events.DEAD_LETTERS_EXPIRED]
    assert logged["dead_letters"] == 1
    assert (await skewed.queue.overview()).expired_dead_letters == 1


async def test_what_cannot_be_removed_keeps_nothing_else_from_it(broker: Broker) -> None:
    async def refuse() -> None:
        raise StoreUnavailable("the collection is damaged")

    await bury(broker, "old")
    garbage = GarbageCollector(broker.redis, broker.config, store_of(broker))
    with capture_logs() as logs:
        await Upkeep([refuse], broker.dead_letters, garbage, keep_days=1e-9).once()
    assert await left(broker) == (set(), 0)
    assert (events.UPKEEP_FAILED, "the collection is damaged") in [
        (entry["event"], entry.get("error")) for entry in logs
    ]


@pytest.mark.slow
async def test_many_dead_letters_expire_in_batches(skewed: Broker) -> None:
    names = [f"d{i}" for i in range(2 * EXPIRED_BATCH + 1)]
    await bury(skewed, *names)
    assert await skewed.dead_letters.delete_expired(0) == EXPIRED_BATCH
    await upkeep(skewed, keep_days=1e-9).once()
    assert await left(skewed) == (set(), 0)
    assert await skewed.dead_letters.expired_count() == len(names)


@pytest.mark.parametrize(("skew", "keep_days"), [(YEAR, KEEP_DAYS), (30 * DAY, 0)])
async def test_dead_letters_are_kept_when_the_clock_leaps_and_without_a_limit(
    skewed: Broker, skewed_server: SkewedRedis, skew: int, keep_days: float
) -> None:
    await bury(skewed, "a")
    for wrong in (skew, 0, skew):
        skewed_server.set_clock(wrong)
        await upkeep(skewed, keep_days).once()
    assert await left(skewed) == ({"a"}, 1)


@pytest.mark.slow
async def test_a_worker_deletes_expired_dead_letters_and_says_so(ingestq: Ingestq) -> None:
    (ingestq.folder / "broken.pdf").write_bytes(b"%PDF-1.7 not really")
    ran = await ingestq.ended("run", "broken.pdf", "--json")
    assert ran.json["documents"]["rejected"] == 1
    listed = (await ingestq.ended("dead", "list", "--json")).json
    assert (len(listed["dead_letters"]), listed["expired"]) == (1, 0)

    ingestq.settings["keep_dead_letters_days"] = "0.000001"
    (ingestq.folder / "note.txt").write_text("A note.")
    ran = await ingestq.ended("run", "note.txt")
    assert ran.code == 0
    assert events.DEAD_LETTERS_EXPIRED in ran.err
    listed = (await ingestq.ended("dead", "list", "--json")).json
    assert (listed["dead_letters"], listed["expired"]) == ([], 1)
    said = (await ingestq.ended("status")).out
    assert "dead        0 documents; 1 more were deleted because of their age" in said
