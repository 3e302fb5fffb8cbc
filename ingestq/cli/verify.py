"""``ingestq verify``: compare index, ledger and sources; repair."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from ingestq.app.composition import open_broker, open_qdrant
from ingestq.app.settings import Settings
from ingestq.cli.entry import ExitCode, run_command
from ingestq.cli.options import AllowMassDelete, InCollection, Json, Source
from ingestq.cli.output import configure_logging, err, line, print_json
from ingestq.core.errors import UsageError

if TYPE_CHECKING:
    from ingestq.app.verify import VerifyReport, VerifyRequest
    from worker.maintenance.rules import VerifyCounts

SHOWN: Final = 20
"""Findings of a kind that are printed for a person; --json has more."""

OptionalPaths = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="[PATH]…",
        help="Files and folders that have to be in the index.",
        show_default=False,
    ),
]
Repair = Annotated[
    bool, typer.Option("--repair", help="Queue what is missing or stale, remove what is orphaned.")
]


def verify(
    paths: OptionalPaths = None,
    source: Source = None,
    repair: Repair = False,
    allow_mass_delete: AllowMassDelete = False,
    collection: InCollection = None,
    json: Json = False,
) -> None:
    """Compare the index with its ledger, and with the files that it was made from.

    New files are found only under PATH: without it, no folder is walked. Workers may be running:
    what they are at, or is queued, is not called wrong. What is repaired is queued in part; a
    worker carries it out. Exit code 1 if something is wrong and not repaired.
    """
    configure_logging(logging.WARNING)

    async def check(settings: Settings) -> ExitCode:
        from ingestq.app.verify import VerifyRequest as VerifyRequest

        if source is not None and not paths:
            raise UsageError("--source names the folder at PATH: say which one")
        wanted = VerifyRequest(paths or (), source, repair, allow_mass_delete)
        return await _verify(wanted, json, settings.of_collection(collection))

    run_command(check)


async def _verify(wanted: "VerifyRequest", as_json: bool, settings: Settings) -> ExitCode:
    from ingestq.app.verify import verify as compare

    with err.status("comparing") as status:

        def show(tally: "VerifyCounts") -> None:
            status.update(f"comparing: {tally.chunks:,} chunks, {tally.documents:,} documents")

        async with open_broker(settings) as broker, open_qdrant(settings) as qdrant:
            report = await compare(broker, qdrant, settings, wanted, show)
    if as_json:
        print_json(report.as_json())
    else:
        _print_for_people(report, repair=wanted.repair)
    return ExitCode.OK if report.good else ExitCode.DOCUMENTS_FAILED


def _print_for_people(report: "VerifyReport", *, repair: bool) -> None:
    for kind, found in report.listed.items():
        for one in found[:SHOWN]:
            what = f"{one['doc_id']} ({one['chunk']})" if "chunk" in one else one["doc_id"]
            done = " (repaired)" if one["repaired"] else ""
            line(f"{kind.value}: {what}: {one['reason']}{done}", style="red")
        if (more := report.found[kind] - SHOWN) > 0:
            line(f"{kind.value}: … and {more:,} more", style="red")
    for refused in report.refused:
        line(refused, style="red")
    tally = report.tally
    notes = {
        "are being worked at, and were not compared": tally.in_work,
        "have files that cannot be seen from here, which were not compared": tally.hidden,
        "were given up: see `ingestq dead list`": tally.rejected,
        "cannot be read: `ingestq run PATH` says why": tally.unreadable,
    }
    for note, count in notes.items():
        if count:
            line(f"{count:,} documents {note}")
    counts = ", ".join(f"{report.found[kind]:,} {kind.value}" for kind in report.listed)
    verdict = "consistent" if report.consistent else "not consistent"
    line(f"{verdict}: {tally.documents:,} documents, {tally.chunks:,} chunks; {counts}")
    if report.submission is not None:
        line(
            f"{report.repaired:,} repaired, in part by submission {report.submission}: "
            "it is done when a worker has worked the queue empty"
        )
    elif report.repaired:
        line(f"{report.repaired:,} repaired")
    elif not report.good and not repair:
        line("`ingestq verify --repair` repairs what can be repaired")
