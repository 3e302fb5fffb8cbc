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
from ingestq.core.jobs import Batch, bury
from ingestq.core.results import BatchReport
from worker.consumer.decision import RELEASE, Finish, PutBack, Verdict

log = structlog.get_logger()

REASON: Final = "the worker died while it worked on this document alone"

RunBatch = Callable[[Batch], Awaitable[Verdict]]
Mark = Callable[[int], Awaitable[bool]]


async def run_one_by_one(claim: Claim, batch: Batch, run: RunBatch, mark: Mark) -> Verdict:
    """Run each document of ``batch`` by itself; ``mark`` writes down which one, if the job is ours.

    A document that has to be tried again puts the whole job back: the others are then recognised.
    """
    log.warning(events.JOB_SUSPECT, job=claim.job_id, crashes=claim.crashes)
    report = BatchReport()
    documents: Sequence[Item] = batch.documents
    for index, document in enumerate(documents):
        alone = batch.alone(index)
        if index in claim.culprits:
            log.error(events.DOCUMENT_REJECTED, doc_id=document.doc_id, reason=REASON)
            report += bury(alone, REASON, tries=claim.crashes)
            continue
        if not await mark(index):
            return RELEASE
        match await run(alone):
            case PutBack() as verdict:
                return verdict
            case Finish(part):
                report += part
    return Finish(report, result=report)
