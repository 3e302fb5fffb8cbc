"""``ingestq verify``: compare index, ledger and sources, and repair differences."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from ingestq.app.composition import open_broker, open_index
from ingestq.app.settings import Settings
from ingestq.cli.entry import ExitCode, run_command
from ingestq.cli.options import AllowMassDelete, InCollection, Json, Source, named_path
from ingestq.cli.output import line, print_json
from ingestq.cli.progress import progress_display
from ingestq.core.errors import UsageError
from ingestq.core.service import opening

if TYPE_CHECKING:
    from ingestq.app.verify import VerifyReport, VerifyRequest

SHOWN: Final = 20
"""How many findings of each kind are printed; --json has more."""

OptionalPaths = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="PATH",
        help="Files and folders that must be in the index.",
        show_default=False,
        parser=named_path,
    ),
]
Repair = Annotated[
    bool,
    typer.Option("--repair", help="Queue missing and stale documents, remove orphaned chunks."),
]


def verify(
    paths: OptionalPaths = None,
    source: Source = None,
    repair: Repair = False,
    allow_mass_delete: AllowMassDelete = False,
    collection: InCollection = None,
    json: Json = False,
) -> None:
    """Check the index against its ledger and its source files.

    Finds new files only under PATH: without PATH, no folder is read. Workers may run meanwhile:
    documents that are queued or in work are not reported. --repair queues documents, so run a
    worker to finish the repair. Exits with 1 if problems remain.
    """

    async def check(settings: Settings) -> ExitCode:
        from ingestq.app.verify import VerifyRequest as VerifyRequest

        if source is not None and not paths:
            raise UsageError("--source names the folder at PATH; pass a PATH")
        wanted = VerifyRequest(paths or (), source, repair, allow_mass_delete)
        return await _verify(wanted, json, settings.of_collection(collection))

    run_command(check, as_json=json)


async def _verify(wanted: "VerifyRequest", as_json: bool, settings: Settings) -> ExitCode:
    from ingestq.app.verify import verify as compare

    with progress_display("comparing") as display:
        async with (
            opening(open_index(settings), name="Qdrant") as qdrant,
            open_broker(settings) as broker,
        ):
            report = await compare(broker, await qdrant, settings, wanted, display)
    if as_json:
        print_json(report.as_json())
    else:
        _print_for_people(report, repair=wanted.repair)
    return ExitCode.OK if report.good else ExitCode.DOCUMENTS_FAILED


def _print_for_people(report: "VerifyReport", *, repair: bool) -> None:
    for kind, found in report.listed.items():
        for finding in found[:SHOWN]:
            chunk = f" ({finding['chunk']})" if "chunk" in finding else ""
            done = " (repaired)" if finding["repaired"] else ""
            line(
                f"{kind.value}: {finding['doc_id']}{chunk}: {finding['reason']}{done}", style="red"
            )
        if (more := report.found[kind] - SHOWN) > 0:
            line(f"{kind.value}: … and {more:,} more", style="red")
    for refused in report.refused:
        line(refused, style="red")
    tally = report.tally
    remarks = {
        "are queued or in work and were not checked": tally.in_work,
        "have source files that are not visible from here and were not checked": tally.not_visible,
        "were rejected; see `ingestq dead list`": tally.rejected,
        "cannot be read; `ingestq run PATH` says why": tally.unreadable,
    }
    for remark, count in remarks.items():
        if count:
            line(f"{count:,} documents {remark}")
    counts = ", ".join(f"{report.found[kind]:,} {kind.value}" for kind in report.listed)
    result = "consistent" if report.consistent else "not consistent"
    line(f"{result}: {tally.documents:,} documents, {tally.chunks:,} chunks; {counts}")
    if report.submission is not None:
        line(
            f"{report.repaired:,} repaired, some of them by submission {report.submission}, which "
            "a worker has to process"
        )
    elif report.repaired:
        line(f"{report.repaired:,} repaired")
    elif not report.good and not repair:
        line("run `ingestq verify --repair` to repair them")
