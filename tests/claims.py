"""Do as a worker does, a step at a time."""

from collections.abc import Mapping, Sequence

from broker import keys
from broker.contract import BatchReport, IngestBatch, JobResult
from broker.leases import NAMELESS, Claim, LeaseQueue
from ingestq.runtime import Broker

DOCUMENTS = {"documents": "documents__test"}
"""Serves what the commands queue by default."""


def lease_queue(
    broker: Broker, lease_seconds: float = 15, serving: Mapping[str, str] = NAMELESS
) -> LeaseQueue:
    return LeaseQueue(broker.redis, broker.config, lease_seconds, serving, broker.spool)


async def take(leases: LeaseQueue, n: int = 1, worker: str = "w") -> Sequence[Claim]:
    """Claim up to ``n`` jobs of any lane, as a worker that runs nothing."""
    return (await leases.claim(worker, n, bulk=n, running=0)).claims


async def finish(leases: LeaseQueue, claimed: Claim, report: BatchReport) -> bool:
    """Finish a job with ``report``."""
    result = JobResult("ingest", 1, 0, True, report, 0, 0, keys.QUEUE, claimed.job_id)
    return await leases.finish(claimed, report, result)


def batch_of(claimed: Claim) -> IngestBatch:
    """The batch in a job's payload."""
    batch = claimed.job().batch
    assert isinstance(batch, IngestBatch)
    return batch
