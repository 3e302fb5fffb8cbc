"""What a scheduled rescan does: queue a source, wait for workers, and say what became of it."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from broker.contract import Sweep
from broker.runs import RunOutcome
from ingestq.ingestion import Display, Ingestion, Summary
from producers.client import IngestClient
from producers.outages import end
from producers.schedule.entry import Entry
from producers.schedule.pausing import outside_quiet_hours
from producers.schedule.runner import Result
from producers.sightings import Sightings

NO_COLLECTION: Final = ""
"""A summary is asked for its counts only."""


@dataclass(frozen=True)
class Rescan:
    """Queues the source of an entry, and follows it to its end.

    Documents are for the entry's collection, or for the client's if it names none.
    ``allow_mass_delete`` lets a sweep remove most of a folder. Raises SourceFailed if the source
    cannot be read to its end; then nothing is removed.
    """

    client: IngestClient
    now_ms: Callable[[], Awaitable[int]]
    display: Display
    allow_mass_delete: bool = False

    async def __call__(self, entry: Entry, queued: Callable[[str], None]) -> Result:
        assert entry.source is not None, "every rescan has one"
        client = self.client
        if entry.collection:
            client = client.for_collection(entry.collection)
        ingestion = Ingestion(client, self.display)
        queued(ingestion.submission)
        sightings = Sightings()
        swept: set[str] = set()

        def sweeps() -> Sequence[Sweep]:
            all_sweeps = sightings.sweeps(
                allow_mass_delete=self.allow_mass_delete, tenant=source.tenant
            )
            swept.update(sweep.doc_id for sweep in all_sweeps)
            return all_sweeps

        source = entry.source
        paced = outside_quiet_hours(entry, source.documents(client.now, sightings), self.now_ms)
        following = asyncio.create_task(ingestion.follow(until_queue_is_empty=False))
        try:
            await ingestion.produce(paced, sweeps, entry.lane)
            await following
        finally:
            await end(following)
            await paced.aclose()
        return _result(ingestion.submission, await ingestion.summary(NO_COLLECTION), swept)


def _result(submission: str, summary: Summary, swept: set[str]) -> Result:
    refused = [failed.reason for failed in summary.failed if failed.doc_id in swept]
    if refused:
        outcome, detail = RunOutcome.REFUSED, "; ".join(refused)
    elif summary.failed:
        first = summary.failed[0]
        outcome = RunOutcome.DONE
        detail = f"{summary.documents.rejected:,} rejected: {first.doc_id}: {first.reason}"
    else:
        outcome, detail = RunOutcome.DONE, ""
    return Result(outcome, detail, summary.documents, summary.chunks, submission)
