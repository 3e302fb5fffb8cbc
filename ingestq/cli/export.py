"""``ingestq export``: write a collection and its ledger to a file."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO, Final, cast

import typer

from ingestq.app.composition import open_index
from ingestq.app.settings import Settings
from ingestq.cli.entry import ExitCode, run_command
from ingestq.cli.options import STANDARD_STREAM, InCollection, Json, named_path
from ingestq.cli.output import error_line, line, print_json
from ingestq.cli.progress import progress_display
from ingestq.cli.stdio import StandardStream
from ingestq.cli.streams import STDOUT
from ingestq.core.errors import UsageError

if TYPE_CHECKING:
    from ingestq.app.backup import ExportResult

SHOWN: Final = 20
"""How many documents that are left out are printed; --json has more."""

File = Annotated[
    Path,
    typer.Argument(
        metavar="FILE",
        help="Write to this file; - is stdout.",
        show_default=False,
        parser=named_path,
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace FILE if it exists.")]


def export(
    file: File, force: Force = False, collection: InCollection = None, json: Json = False
) -> None:
    """Write a collection and its ledger to a file.

    `ingestq import` reads the file. It is JSON Lines, compressed with gzip, and has everything that
    Qdrant holds of the documents: texts, vectors, versions, warnings. Workers may run meanwhile:
    each document is exported whole, as it is at some moment of the export. FILE is complete as soon
    as it exists.
    """

    async def command(settings: Settings) -> ExitCode:
        return await _export(file, force, json, settings.of_collection(collection))

    run_command(command, as_json=json)


async def _export(file: Path, force: bool, as_json: bool, settings: Settings) -> ExitCode:
    from ingestq.app.backup import export_collection

    if file == STANDARD_STREAM and as_json:
        raise UsageError("--json prints to stdout, where the export goes; name a file")
    with _opened(file, force=force) as target, progress_display("exporting") as display:
        async with open_index(settings) as qdrant:
            result = await export_collection(qdrant, settings, target, display)
    if as_json:
        print_json(result.as_json())
    else:
        _print_for_people(result, error_line if file == STANDARD_STREAM else line)
    return ExitCode.DOCUMENTS_FAILED if result.left_out.count else ExitCode.OK


@contextmanager
def _opened(file: Path, *, force: bool) -> Iterator[BinaryIO]:
    from ingestq.app.backup import new_file

    if file != STANDARD_STREAM:
        with new_file(file, force=force) as opened:
            yield opened
        return
    if sys.stdout.isatty():
        raise UsageError("the export is compressed; name a file, or send stdout to a program")
    try:
        with StandardStream(STDOUT) as stdout:
            yield cast(BinaryIO, stdout)
    except OSError as error:
        raise UsageError(f"stdout cannot be written: {error.strerror or error}") from error


def _print_for_people(result: "ExportResult", say: Callable[[str], None]) -> None:
    left_out, totals = result.left_out, result.totals
    for key in left_out.listed[:SHOWN]:
        say(f"left out: {key.doc_id}")
    if (more := left_out.count - SHOWN) > 0:
        say(f"left out: … and {more:,} more")
    if left_out.count:
        say(
            f"{left_out.count:,} documents are not in the export, because they were being written "
            "all the time, or their chunks are missing: run `ingestq verify`, and export again"
        )
    say(
        f"exported {result.collection}: {totals.documents:,} documents, {totals.chunks:,} chunks, "
        f"{totals.deleted:,} deletions"
    )
