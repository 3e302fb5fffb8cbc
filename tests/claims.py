"""The steps of a worker, one at a time."""

from collections.abc import Mapping, Sequence
from typing import Final

from ingestq.app.composition import Broker
from ingestq.broker import keys
from ingestq.broker.queue.leases import Claim, LeaseQueue
from ingestq.core.documents import DEFAULT_COLLECTION
from ingestq.core.jobs import IngestBatch
from ingestq.core.results import BatchReport, JobResult

DOCUMENTS: Final[Mapping[str, str]] = {DEFAULT_COLLECTION: "documents__test"}
"""What a worker of the default collection serves."""


def lease_queue(
    broker: Broker, lease_seconds: float = 15, serving: Mapping[str, str] = DOCUMENTS
) -> LeaseQueue:
    return LeaseQueue(broker.redis, broker.config, lease_seconds, serving, broker.blobs)


async def take(leases: LeaseQueue, n: int = 1, worker: str = "w") -> Sequence[Claim]:
    """Claim up to ``n`` jobs of any lane, as a worker that runs nothing."""
    return (await leases.claim(worker, n, bulk=n, running=0)).claims


async def finish(leases: LeaseQueue, claimed: Claim, report: BatchReport) -> bool:
    """Ack a job with ``report``; return False if its lease was lost."""
    result = JobResult("ingest", 1, 0, True, report, 0, 0, keys.QUEUE, claimed.job_id)
    return await leases.ack(claimed, report, result)


def batch_of(claimed: Claim) -> IngestBatch:
    """Return the batch of a claimed job."""
    batch = claimed.job().batch
    assert isinstance(batch, IngestBatch)
    return batch
