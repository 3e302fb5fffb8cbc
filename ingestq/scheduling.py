"""The schedule as a part of a process: what its actions do, and who begins them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from broker.contract import ChunkCounts
from broker.errors import UsageError
from broker.runs import RunOutcome, Runs
from ingestq.ingestion import Display, State
from ingestq.on_demand import QdrantOnDemand
from ingestq.parts import Part
from ingestq.rebuilding import build, live_collection
from ingestq.rescanning import Rescan
from ingestq.runtime import Broker
from ingestq.settings import Settings
from producers.schedule.action import Action
from producers.schedule.entry import Entry
from producers.schedule.generators import Generator, import_from
from producers.schedule.runner import Act, Result, Runner
from producers.schedule.scheduler import Scheduler
from producers.schedule.sources import FileSource, LineSource

if TYPE_CHECKING:  # nothing of the worker is loaded before a run needs it
    from worker.findings import Tally
    from worker.qdrant import Qdrant


class Building(Protocol):
    """Shows a person how far a rebuild is, see `worker.reindex.Display`."""

    def begin(self, documents: int) -> None: ...

    def done(self, chunks: ChunkCounts) -> None: ...


class Silent:
    """Shows nothing."""

    def show(self, state: State) -> None: ...

    def begin(self, documents: int) -> None: ...

    def done(self, chunks: ChunkCounts) -> None: ...

    def compared(self, tally: "Tally") -> None: ...


@dataclass(frozen=True)
class Shown:
    """Who is shown how far a run is."""

    ingestion: Display = field(default_factory=Silent)
    building: Building = field(default_factory=Silent)
    comparing: "Callable[[Tally], None]" = field(default_factory=lambda: Silent().compared)


def load_generators(entries: Sequence[Entry]) -> None:
    """Import what yields documents, so that a mistake is known at the start. Blocks.

    Raises UsageError that names the table.
    """
    for entry in entries:
        if isinstance(entry.source, LineSource) and isinstance(entry.source.items, Generator):
            import_from(Path.cwd())
            try:
                entry.source.items.load()
            except UsageError as error:
                raise UsageError(f"[[schedule]] {entry.name!r}: {error}") from error


@asynccontextmanager
async def open_schedule(
    entries: Sequence[Entry], settings: Settings, broker: Broker, qdrant: "Qdrant | None" = None
) -> AsyncIterator[Part]:
    """What begins the runs of ``entries``; they write to ``qdrant``, if that is open already.

    Raises UsageError if a generator cannot be imported.
    """
    await asyncio.to_thread(load_generators, entries)
    async with QdrantOnDemand(settings, qdrant) as on_demand:
        runs = Runs(broker.redis, broker.config)
        runner = Runner(runs, actions(settings, broker, on_demand, Shown()))
        scheduler = Scheduler(entries, runs, runner, settings.lease_seconds)
        yield Part(scheduler.run, scheduler.stop)


def actions(
    settings: Settings,
    broker: Broker,
    qdrant: QdrantOnDemand,
    shown: Shown,
    *,
    allow_mass_delete: bool = False,
) -> Mapping[Action, Act]:
    """What is done, by whom it is called."""
    runs = Runs(broker.redis, broker.config)
    return {
        Action.RESCAN: Rescan(broker.client, runs.now_ms, shown.ingestion, allow_mass_delete),
        Action.REINDEX: partial(_reindex, settings, broker, qdrant, shown.building),
        Action.VERIFY: partial(
            _verify, settings, broker, qdrant, shown.comparing, allow_mass_delete
        ),
    }


class _Counting:
    """Counts what is done, and passes it on."""

    def __init__(self, display: Building) -> None:
        self._display = display
        self.chunks = ChunkCounts()

    def begin(self, documents: int) -> None:
        self._display.begin(documents)

    def done(self, chunks: ChunkCounts) -> None:
        self.chunks += chunks
        self._display.done(chunks)


async def _reindex(
    settings: Settings,
    broker: Broker,
    qdrant: QdrantOnDemand,
    display: Building,
    entry: Entry,
    queued: Callable[[str], None],
) -> Result:
    """What ``ingestq reindex`` does with the settings as they are."""
    await asyncio.to_thread(import_module, "worker.reindex")
    from worker.reindex import NotExchanged

    settings = settings.of_collection(entry.collection or None)
    done = _Counting(display)
    async with qdrant.opened() as opened:
        live = await live_collection(opened, settings)
        new, outcome = await build(broker, opened, live, settings, done)
    if outcome is None:
        return Result(detail=f"{live.alias} was made with these settings already")
    if isinstance(outcome, NotExchanged):
        return Result(RunOutcome.FAILED, "; ".join(outcome.reasons), chunks=done.chunks)
    return Result(
        detail=f"{live.alias} is now {new.chunks}: {outcome.documents:,} documents",
        chunks=done.chunks,
    )


async def _verify(
    settings: Settings,
    broker: Broker,
    qdrant: QdrantOnDemand,
    show: "Callable[[Tally], None]",
    allow_mass_delete: bool,
    entry: Entry,
    queued: Callable[[str], None],
) -> Result:
    """What ``ingestq verify --repair`` does."""
    await asyncio.to_thread(import_module, "ingestq.verification")
    from ingestq.verification import Wanted, verify

    settings = settings.of_collection(entry.collection or None)
    source = entry.source
    assert source is None or isinstance(source, FileSource), "it has nothing else to compare with"
    paths, name = ([], None) if source is None else ([source.path], source.name)
    wanted = Wanted(paths, name, repair=True, allow_mass_delete=allow_mass_delete)
    async with qdrant.opened() as opened:
        report = await verify(broker, opened, settings, wanted, show)
    found = ", ".join(f"{report.found[kind]:,} {kind.value}" for kind in report.listed)
    detail = f"{report.tally.documents:,} documents, {found}; {report.repaired:,} repaired"
    outcome = RunOutcome.DONE if report.good else RunOutcome.FAILED
    if report.refused:
        outcome, detail = RunOutcome.REFUSED, "; ".join(report.refused)
    return Result(outcome, detail, submission=report.submission)
