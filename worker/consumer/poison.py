"""Poison jobs: jobs over which workers died.

Their documents run one by one, to find the one that kills. The queue hands out such a job only to
a worker that runs nothing else. Before each document the worker records which one it is; if it
dies now, that document is the poison, and the next worker dead-letters it alone.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import structlog

from ingestq.broker.queue.leases import Claim
from ingestq.core import events
from ingestq.core.documents import Item
from ingestq.core.jobs import Batch
from worker.consumer.decision import Failed
from worker.pipeline.ingest import Misconfigured, Outcome, Rejected, Retry

log = structlog.get_logger()

REASON: Final = "the worker died while it worked on this document alone"

RunBatch = Callable[[Batch], Awaitable[Sequence[Outcome] | Failed]]
Mark = Callable[[int], Awaitable[bool]]


async def run_one_by_one(
    claim: Claim, batch: Batch, run: RunBatch, mark: Mark
) -> Sequence[Outcome] | None:
    """Run each document of ``batch`` by itself; return the outcomes.

    ``mark`` writes down which document is run, and says whether the job is still ours; None if it
    is not. Documents after one that waits for a service, or must stop the worker, are left out.
    """
    log.warning(events.JOB_POISON, job=claim.job_id, crashes=claim.crashes)
    documents: Sequence[Item] = batch.documents
    outcomes: list[Outcome] = []
    for index, document in enumerate(documents):
        if index in claim.poison_documents:
            log.error(events.DOCUMENT_REJECTED, doc_id=document.doc_id, reason=REASON)
            outcomes.append(Rejected(REASON))
            continue
        if not await mark(index):
            return None
        ended = await run(batch.alone(index))
        outcome = ended if isinstance(ended, Failed) else ended[0]
        outcomes.append(outcome)
        match outcome:
            case Misconfigured() | Retry(counts_as_try=False):
                break
    return outcomes
