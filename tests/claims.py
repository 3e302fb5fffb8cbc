"""Act as a worker, one step at a time: claim jobs and finish them."""

from collections.abc import Mapping, Sequence
from typing import Final

from ingestq.app.composition import Broker
from ingestq.broker import keys
from ingestq.broker.queue.leases import NO_WEBHOOKS, Claim, LeaseQueue
from ingestq.core.documents import DEFAULT_COLLECTION
from ingestq.core.jobs import IngestBatch
from ingestq.core.results import BatchReport, JobResult
from ingestq.core.webhooks import Subscriptions

DOCUMENTS: Final[Mapping[str, str]] = {DEFAULT_COLLECTION: "documents__test"}
"""Serves the default collection."""
ENDING_SECONDS: Final = 0.001


def lease_queue(
    broker: Broker,
    lease_seconds: float = 15,
    serving: Mapping[str, str] = DOCUMENTS,
    webhooks: Subscriptions = NO_WEBHOOKS,
) -> LeaseQueue:
    """Return the queue of a worker that serves ``serving``, and that ``webhooks`` listen to."""
    return LeaseQueue(
        broker.redis, broker.config, lease_seconds, serving, broker.blobs, webhooks=webhooks
    )


async def take(leases: LeaseQueue, n: int = 1, worker: str = "w") -> Sequence[Claim]:
    """Claim up to ``n`` jobs of any lane, as a worker without running jobs."""
    return (await leases.claim(worker, n, bulk=n, running=0)).claims


async def let_expire(broker: Broker, claimed: Claim) -> None:
    """Let the lease of a job end, as if its worker had died."""
    assert await lease_queue(broker, ENDING_SECONDS).renew([claimed]) == frozenset()


async def finish(leases: LeaseQueue, claimed: Claim, report: BatchReport) -> bool:
    """Finish a job with ``report``; return whether its lease was still held."""
    result = JobResult("ingest", 1, 0, True, report, 0, 0, keys.QUEUE, claimed.job_id)
    return await leases.ack(claimed, report, result)


def batch_of(claimed: Claim) -> IngestBatch:
    """Return the batch in a job's payload."""
    batch = claimed.job().batch
    assert isinstance(batch, IngestBatch)
    return batch
