"""The actions of scheduled entries: rescan a source, reindex, verify."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from ingestq.app.composition import Broker
from ingestq.app.ingestion import Ingestion, Summary
from ingestq.app.reindex import build, live_collection
from ingestq.app.search import QdrantOnDemand
from ingestq.app.services import ProcessPart
from ingestq.app.settings import Settings
from ingestq.broker.queue.versions import VersionSupply
from ingestq.broker.schedule.runs import RunOutcome, Runs
from ingestq.client.client import IngestClient
from ingestq.core.display import Display, NoDisplay
from ingestq.core.documents import Sweep
from ingestq.core.errors import UsageError
from ingestq.core.named_code import import_from
from ingestq.core.service import run_together
from producers.files.walk import Clock, ScanRecord
from producers.remote.source import RemoteSource
from producers.schedule.entry import Action, ScheduledEntry
from producers.schedule.generators import Generator
from producers.schedule.runner import ActionHandler, ActionResult, Runner
from producers.schedule.scheduler import Scheduler
from producers.schedule.sources import FileSource, LineSource

if TYPE_CHECKING:
    from worker.store.client import Qdrant


@dataclass(frozen=True)
class Rescan:
    """Queues the documents of an entry's source, and waits until all are processed.

    Documents that name no collection go to the entry's. ``allow_mass_delete`` lets a sweep delete
    most of a folder. Raises SourceFailed if the source cannot be read to its end; then nothing is
    deleted.
    """

    client: IngestClient
    display: Display
    allow_mass_delete: bool = False

    async def __call__(self, entry: ScheduledEntry, queued: Callable[[str], None]) -> ActionResult:
        assert entry.source is not None, "every rescan has a source"
        client = self.client.for_collection(entry.collection)
        ingestion = Ingestion(client, self.display)
        queued(ingestion.submission)
        scan = ScanRecord()
        swept: set[str] = set()

        def sweeps() -> Sequence[Sweep]:
            all_sweeps = scan.sweeps(allow_mass_delete=self.allow_mass_delete, tenant=source.tenant)
            swept.update(sweep.doc_id for sweep in all_sweeps)
            return all_sweeps

        source = entry.source
        versions: Clock = client.issue_version
        if isinstance(source, LineSource):  # each line may need one
            versions = VersionSupply(client.queue.issue_versions)
        async with aclosing(source.documents(versions, scan)) as documents:
            await run_together(
                ingestion.produce(documents, sweeps, entry.lane),
                ingestion.follow(until_queue_is_empty=False),
            )
        return _result(ingestion.submission, await ingestion.summary(entry.collection), swept)


def _result(submission: str, summary: Summary, swept: set[str]) -> ActionResult:
    refused = [failed.reason for failed in summary.failed if failed.doc_id in swept]
    if refused:
        outcome, detail = RunOutcome.REFUSED, "; ".join(refused)
    elif summary.failed:
        first = summary.failed[0]
        outcome = RunOutcome.DONE
        detail = f"{summary.documents.rejected:,} rejected: {first.doc_id}: {first.reason}"
    elif summary.warnings:
        first_warned = summary.warnings[0]
        outcome = RunOutcome.DONE
        detail = (
            f"{summary.warned.documents:,} with warnings: "
            f"{first_warned.doc_id}: {first_warned.warning}"
        )
    else:
        outcome, detail = RunOutcome.DONE, ""
    return ActionResult(outcome, detail, summary.documents, summary.chunks, submission)


def check_sources(entries: Sequence[ScheduledEntry]) -> None:
    """Import generators and check where files are, so that a mistake shows at the start. Blocks.

    Raises UsageError that names the table of the entry.
    """
    for entry in entries:
        if isinstance(entry.source, FileSource):
            refusal = entry.source.refusal()
            if refusal is not None:
                raise UsageError(f"[[schedule]] {entry.name!r}: {refusal}")
        if isinstance(entry.source, RemoteSource):
            try:
                entry.source.open()
            except UsageError as error:
                raise UsageError(f"[[schedule]] {entry.name!r}: {error}") from error
        if isinstance(entry.source, LineSource) and isinstance(entry.source.items, Generator):
            import_from(Path.cwd())
            try:
                entry.source.items.load()
            except UsageError as error:
                raise UsageError(f"[[schedule]] {entry.name!r}: {error}") from error


@asynccontextmanager
async def open_schedule(
    entries: Sequence[ScheduledEntry],
    settings: Settings,
    broker: Broker,
    qdrant: "Qdrant | None" = None,
) -> AsyncIterator[ProcessPart]:
    """Open the scheduler of ``entries``.

    Its actions use ``qdrant`` if one is passed, else open their own when needed. Raises UsageError
    if a generator cannot be imported, or if a source is off limits.
    """
    await asyncio.to_thread(check_sources, entries)
    async with AsyncExitStack() as opened:
        on_demand = QdrantOnDemand(settings, opened, qdrant)
        runs = Runs(broker.redis, broker.config)
        runner = Runner(runs, actions(settings, broker, on_demand, NoDisplay()))
        scheduler = Scheduler(entries, runs, runner, settings.lease_seconds)
        yield ProcessPart(scheduler.run, scheduler.stop)


def actions(
    settings: Settings,
    broker: Broker,
    qdrant: QdrantOnDemand,
    display: Display,
    *,
    allow_mass_delete: bool = False,
) -> Mapping[Action, ActionHandler]:
    """Return what to run for each action of an entry."""
    return {
        Action.RESCAN: Rescan(broker.client, display, allow_mass_delete),
        Action.REINDEX: partial(_reindex, settings, broker, qdrant, display),
        Action.VERIFY: partial(_verify, settings, broker, qdrant, display, allow_mass_delete),
    }


async def _reindex(
    settings: Settings,
    broker: Broker,
    qdrant: QdrantOnDemand,
    display: Display,
    entry: ScheduledEntry,
    queued: Callable[[str], None],
) -> ActionResult:
    """Do what ``ingestq reindex`` does without options."""
    await asyncio.to_thread(import_module, "worker.maintenance.reindex")
    from worker.maintenance.reindex import CutoverRefusal

    settings = settings.of_collection(entry.collection)
    opened = await qdrant.opened()
    live = await live_collection(opened, settings)
    built = await build(broker, opened, live, settings, display)
    outcome = built.outcome
    if outcome is None:
        return ActionResult(detail=f"{live.alias} was already built with these settings")
    if isinstance(outcome, CutoverRefusal):
        return ActionResult(RunOutcome.FAILED, "; ".join(outcome.reasons), chunks=built.chunks)
    return ActionResult(
        detail=f"{live.alias} is now {built.new.chunks}: {outcome.documents:,} documents",
        chunks=built.chunks,
    )


async def _verify(
    settings: Settings,
    broker: Broker,
    qdrant: QdrantOnDemand,
    display: Display,
    allow_mass_delete: bool,
    entry: ScheduledEntry,
    queued: Callable[[str], None],
) -> ActionResult:
    """Do what ``ingestq verify --repair`` does."""
    await asyncio.to_thread(import_module, "ingestq.app.verify")
    from ingestq.app.verify import VerifyRequest, verify

    settings = settings.of_collection(entry.collection)
    source = entry.source
    assert source is None or isinstance(source, FileSource), "verify compares with files only"
    paths, name = ([], None) if source is None else ([source.path], source.name)
    wanted = VerifyRequest(paths, name, repair=True, allow_mass_delete=allow_mass_delete)
    report = await verify(broker, await qdrant.opened(), settings, wanted, display)
    found = ", ".join(f"{report.found[kind]:,} {kind.value}" for kind in report.listed)
    detail = f"{report.tally.documents:,} documents, {found}; {report.repaired:,} repaired"
    outcome = RunOutcome.DONE if report.good else RunOutcome.FAILED
    if report.refused:
        outcome, detail = RunOutcome.REFUSED, "; ".join(report.refused)
    return ActionResult(outcome, detail, submission=report.submission)
