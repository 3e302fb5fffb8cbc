"""Any number of older jobs that cannot run now do not hide newer ones that can."""

from collections.abc import Sequence
from typing import Any

import pytest

from ingestq.app.composition import Broker
from ingestq.broker import keys
from ingestq.core.documents import Document
from ingestq.core.jobs import IngestBatch
from ingestq.core.results import DocumentCounts
from tests.books import Totals, balanced
from tests.claims import lease_queue, take
from tests.waiting import eventually
from tests.workers import all_indexed, working
from worker.pipeline.ingest import Outcome

NEWER = 30
AT_ONCE_SECONDS = 60
"""More than any step here takes on a busy machine, and far less than `LONG_SECONDS`."""
LONG_SECONDS = 3600.0
SHORT_SECONDS = 0.5


async def index(ctx: dict[str, Any], batch: IngestBatch) -> Sequence[Outcome]:
    return all_indexed(batch)


async def queue_jobs(broker: Broker, submission: str, count: int) -> None:
    documents = [
        Document(
            collection="documents", doc_id=f"{submission}-{i}", version=1, source="s", text="t"
        )
        for i in range(count)
    ]
    await broker.queue.offer([IngestBatch(submission, (document,)) for document in documents])


async def run_elsewhere(broker: Broker, count: int, lease_seconds: float) -> None:
    """Queue jobs and claim them all, in one step, for a worker that does not finish them."""
    await queue_jobs(broker, "older", count)
    claims = await take(lease_queue(broker, lease_seconds), count, worker="another")
    assert len(claims) == count


async def defer(broker: Broker, count: int) -> None:
    """Queue jobs that failed once and wait for a long delay."""
    await queue_jobs(broker, "older", count)
    leases = lease_queue(broker)
    for claim in await take(leases, count):
        assert await leases.nack(claim, delay_seconds=LONG_SECONDS, counts_as_try=True)


async def completed(broker: Broker, submission: str) -> None:
    """Wait for the submission. Raises TimeoutError if it does not complete at once."""
    status = await eventually(
        lambda: broker.queue.submission(submission),
        lambda status: status.complete,
        seconds=AT_ONCE_SECONDS,
    )
    assert status.documents == DocumentCounts(indexed=status.accepted)


async def test_running_jobs_do_not_hide_newer_ones(broker: Broker) -> None:
    await run_elsewhere(broker, older := 150, LONG_SECONDS)
    async with working(broker, index):
        await queue_jobs(broker, "newer", NEWER)
        await completed(broker, "newer")
    assert (await broker.queue.depth()).in_flight == older
    assert await balanced(broker.redis) == Totals(older + NEWER, NEWER, older, dead=0)


async def test_deferred_jobs_do_not_hide_newer_ones(broker: Broker) -> None:
    await defer(broker, older := 300)
    async with working(broker, index):
        await queue_jobs(broker, "newer", NEWER)
        await completed(broker, "newer")
    assert (await broker.queue.depth()).deferred == older
    assert await balanced(broker.redis) == Totals(older + NEWER, NEWER, older, dead=0)


@pytest.mark.parametrize("newer", [0, NEWER])
async def test_many_jobs_of_a_dead_worker_are_all_finished(broker: Broker, newer: int) -> None:
    """They become ready at the same moment, more than one step of a claim revives."""
    await run_elsewhere(broker, older := 300, SHORT_SECONDS)
    await queue_jobs(broker, "newer", newer)
    await eventually(lambda: broker.redis.keys(keys.LEASE + "*"), lambda leases: leases == [])
    async with working(broker, index):
        await completed(broker, "newer")
        await completed(broker, "older")
    assert await broker.queue.is_empty()
    total = older + newer
    assert await balanced(broker.redis) == Totals(total, total, waiting=0, dead=0)
