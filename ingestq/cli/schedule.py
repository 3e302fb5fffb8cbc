"""``ingestq schedule``: list scheduled entries, or run one now."""

import asyncio
from contextlib import AsyncExitStack
from datetime import datetime
from functools import partial
from typing import Annotated, Final

import typer

from ingestq.app.composition import open_broker
from ingestq.app.schedule_actions import actions, check_sources
from ingestq.app.schedule_entries import entry_named, scheduled_entries
from ingestq.app.search import QdrantOnDemand
from ingestq.app.services import stop_signals
from ingestq.app.settings import Settings
from ingestq.broker.schedule.runs import BeginRefusal, EntryStatus, Run, RunOutcome, Runs
from ingestq.cli.entry import ExitCode, run_command
from ingestq.cli.options import AllowMassDelete, Json
from ingestq.cli.output import line, print_json
from ingestq.cli.progress import progress_display
from ingestq.core.errors import UsageError
from producers.schedule.entry import Action, zone_named
from producers.schedule.runner import Runner

schedule = typer.Typer(
    name="schedule",
    no_args_is_help=True,
    rich_markup_mode=None,
    help="List scheduled entries, or run one now.",
)

STARTING: Final = {
    Action.RESCAN: "queueing",
    Action.REINDEX: "building",
    Action.VERIFY: "comparing",
}
STYLES: Final = {RunOutcome.FAILED: "red", RunOutcome.REFUSED: "red"}

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of a [[schedule]] table.")]


@schedule.command("list")
def list_entries(json: Json = False) -> None:
    """List scheduled entries with their next and last runs."""
    run_command(partial(_list, json), as_json=json)


@schedule.command()
def run(name: Name, allow_mass_delete: AllowMassDelete = False, json: Json = False) -> None:
    """Run a scheduled entry now and wait until it ends."""
    run_command(partial(_run, name, allow_mass_delete, json), as_json=json)


async def _list(as_json: bool, settings: Settings) -> ExitCode:
    entries = scheduled_entries(settings)
    async with open_broker(settings) as broker:
        runs = Runs(broker.redis, broker.config)
        now_ms = await runs.now_ms()
        listed = await runs.overview(
            [entry.status(entry.timetable.next_after(now_ms)) for entry in entries]
        )
    if as_json:
        print_json({"schedule": [entry.as_json() for entry in listed]})
        return ExitCode.OK
    for status in listed:
        _print_entry(status)
    if listed and not any(status.live for status in listed):
        line("no scheduler is running: start `ingestq up` or `ingestq scheduler`", style="red")
    if not listed:
        line("nothing is scheduled: add a [[schedule]] table to ingestq.toml")
    return ExitCode.OK


def _print_entry(entry: EntryStatus) -> None:
    what = " ".join(filter(None, (entry.action, entry.source)))
    following = "never" if entry.next_ms is None else _local(entry.next_ms, entry)
    line(f"{entry.name}: {what}", style="bold")
    line(f"  next       {following}  ({entry.cron}, {entry.timezone})")
    for each in entry.runs:
        line(
            f"  {_local(each.started_ms, entry)}  {_describe(each)}", style=STYLES.get(each.outcome)
        )


def _local(ms: int, entry: EntryStatus) -> str:
    return f"{datetime.fromtimestamp(ms / 1000, zone_named(entry.timezone)):%Y-%m-%d %H:%M:%S}"


def _describe(run: Run) -> str:
    """Return the result of a run in one line."""
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
    await asyncio.to_thread(check_sources, [entry])
    stopping = asyncio.Event()
    async with open_broker(settings) as broker, AsyncExitStack() as opened:
        qdrant = QdrantOnDemand(settings, opened)
        runs = Runs(broker.redis, broker.config)
        lease_ms = int(settings.lease_seconds * 1000)
        claim = await runs.begin(name, due_ms=None, lease_ms=lease_ms)
        if isinstance(claim, BeginRefusal):
            raise UsageError(f"{name!r} is already running; see `ingestq schedule list`")
        with progress_display(STARTING[entry.action]) as display, stop_signals(stopping.set):
            acts = actions(settings, broker, qdrant, display, allow_mass_delete=allow_mass_delete)
            ended = await Runner(runs, acts).run(entry, claim, stopping)
    if ended is None:
        raise UsageError(
            f"{name!r} was lost: Redis was unreachable for longer than INGESTQ_LEASE_SECONDS"
        )
    if as_json:
        print_json({"entry": name, **ended.as_json()})
    else:
        line(f"{name}: {_describe(ended)}", style=STYLES.get(ended.outcome))
    return _code(ended)


def _code(ended: Run) -> ExitCode:
    if ended.outcome is RunOutcome.INTERRUPTED:
        return ExitCode.INTERRUPTED
    succeeded = ended.outcome is RunOutcome.DONE and not ended.documents.rejected
    return ExitCode.OK if succeeded else ExitCode.DOCUMENTS_FAILED
