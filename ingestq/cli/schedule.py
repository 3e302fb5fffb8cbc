"""``ingestq schedule``: what is scheduled, and what became of it; run it now."""

import asyncio
import dataclasses
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Annotated, Final

import typer

from ingestq.app.composition import open_broker
from ingestq.app.schedule_actions import Shown, actions, load_generators
from ingestq.app.schedule_entries import entry_named, scheduled_entries
from ingestq.app.search import QdrantOnDemand
from ingestq.app.services import stop_signals
from ingestq.app.settings import Settings
from ingestq.broker.schedule.runs import EntryStatus, NotBegun, Run, RunOutcome, Runs
from ingestq.cli.entry import ExitCode, run_command
from ingestq.cli.options import AllowMassDelete, Json
from ingestq.cli.output import configure_logging, err, line, print_json
from ingestq.cli.progress import progress_display
from ingestq.cli.reindex import building_display
from ingestq.core.errors import UsageError
from producers.schedule.entry import Action, ScheduledEntry, zone_named
from producers.schedule.runner import Runner

if TYPE_CHECKING:
    from worker.maintenance.rules import VerifyCounts

schedule = typer.Typer(
    name="schedule", no_args_is_help=True, help="Look at what is scheduled, and run it now."
)

STYLES: Final = {RunOutcome.FAILED: "red", RunOutcome.REFUSED: "red"}

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of a table [[schedule]].")]


@schedule.command("list")
def list_entries(json: Json = False) -> None:
    """List what is scheduled: when it runs next, and what became of the last runs."""
    configure_logging(logging.WARNING)
    run_command(partial(_list, json))


@schedule.command()
def run(name: Name, allow_mass_delete: AllowMassDelete = False, json: Json = False) -> None:
    """Run an entry now, whatever the time, and follow it to its end."""
    configure_logging(logging.WARNING)
    run_command(partial(_run, name, allow_mass_delete, json))


async def _list(as_json: bool, settings: Settings) -> ExitCode:
    entries = scheduled_entries(settings)
    async with open_broker(settings) as broker:
        runs = Runs(broker.redis, broker.config)
        now_ms = await runs.now_ms()
        listed = await runs.overview([entry.status(_next_ms(entry, now_ms)) for entry in entries])
    if as_json:
        print_json({"schedule": [entry.as_json() for entry in listed]})
        return ExitCode.OK
    for status in listed:
        _print_entry(status)
    if listed and not any(status.live for status in listed):
        line("no scheduler is up: start `ingestq up` or `ingestq scheduler`", style="red")
    if not listed:
        line("nothing is scheduled; write a table [[schedule]] into ingestq.toml")
    return ExitCode.OK


def _next_ms(entry: ScheduledEntry, now_ms: int) -> int | None:
    """When a scheduler would begin the next run."""
    due_ms = entry.timetable.next_after(now_ms)
    return None if due_ms is None else entry.begins_at(due_ms, now_ms)


def _print_entry(entry: EntryStatus) -> None:
    what = " ".join(filter(None, (entry.action, entry.source)))
    following = "never" if entry.next_ms is None else _local(entry.next_ms, entry)
    line(f"{entry.name}: {what}", style="bold")
    line(f"  next       {following}  ({entry.cron}, {entry.timezone})")
    for each in entry.runs:
        line(f"  {_local(each.started_ms, entry)}  {_told(each)}", style=STYLES.get(each.outcome))


def _local(ms: int, entry: EntryStatus) -> str:
    return f"{datetime.fromtimestamp(ms / 1000, zone_named(entry.timezone)):%Y-%m-%d %H:%M:%S}"


def _told(run: Run) -> str:
    """What became of a run, in one line."""
    documents, chunks = run.documents, run.chunks
    counts = {
        "indexed": documents.indexed,
        "unchanged": documents.unchanged,
        "deleted": documents.deleted,
        "rejected": documents.rejected,
        "chunks embedded": chunks.embedded,
    }
    parts = [
        run.outcome.value if run.seconds is None else f"{run.outcome.value} in {run.seconds:.1f} s",
        ", ".join(f"{count:,} {name}" for name, count in counts.items() if count),
        run.detail,
    ]
    return "; ".join(filter(None, parts))


async def _run(name: str, allow_mass_delete: bool, as_json: bool, settings: Settings) -> ExitCode:
    entry = entry_named(scheduled_entries(settings), name)
    await asyncio.to_thread(load_generators, [entry])
    entry = dataclasses.replace(entry, quiet=None)  # somebody asked for it
    stopping = asyncio.Event()
    async with open_broker(settings) as broker, QdrantOnDemand(settings) as qdrant:
        runs = Runs(broker.redis, broker.config)
        lease_ms = int(settings.lease_seconds * 1000)
        claim = await runs.begin(name, due_ms=None, lease_ms=lease_ms)
        if isinstance(claim, NotBegun):
            raise UsageError(f"{name!r} runs already; see `ingestq schedule list`")
        with _shown(entry.action) as shown, stop_signals(stopping.set):
            done = actions(settings, broker, qdrant, shown, allow_mass_delete=allow_mass_delete)
            ended = await Runner(runs, done).run(entry, claim, stopping)
    if ended is None:
        raise UsageError(f"{name!r} was taken over: Redis could not be reached for too long")
    if as_json:
        print_json({"entry": name, **ended.as_json()})
    else:
        line(f"{name}: {_told(ended)}", style=STYLES.get(ended.outcome))
    return _code(ended)


def _code(ended: Run) -> ExitCode:
    if ended.outcome is RunOutcome.INTERRUPTED:
        return ExitCode.INTERRUPTED
    good = ended.outcome is RunOutcome.DONE and not ended.documents.rejected
    return ExitCode.OK if good else ExitCode.DOCUMENTS_FAILED


@contextmanager
def _shown(action: Action) -> Iterator[Shown]:
    """Show on stderr how far an action is."""
    match action:
        case Action.RESCAN:
            with progress_display(err, "queueing") as ingestion:
                yield Shown(ingestion=ingestion)
        case Action.REINDEX:
            with building_display() as building:
                yield Shown(building=building)
        case Action.VERIFY:
            with err.status("comparing") as status:

                def compared(tally: "VerifyCounts") -> None:
                    status.update(f"comparing: {tally.documents:,} documents")

                yield Shown(comparing=compared)
