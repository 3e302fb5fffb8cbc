"""``ingestq import``: read a collection and its ledger from a file."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from ingestq.app.composition import open_broker, opening_qdrant
from ingestq.app.settings import Settings
from ingestq.cli.entry import ExitCode, run_command
from ingestq.cli.options import STANDARD_STREAM, InCollection, Json, named_path
from ingestq.cli.output import line, print_json
from ingestq.cli.progress import progress_display
from ingestq.cli.stdio import StandardStream
from ingestq.cli.streams import STDIN
from ingestq.core.errors import UsageError

if TYPE_CHECKING:
    from ingestq.app.backup import ImportResult


File = Annotated[
    Path,
    typer.Argument(
        metavar="FILE",
        help="An export; - is stdin.",
        show_default=False,
        parser=named_path,
    ),
]
Merge = Annotated[
    bool,
    typer.Option("--merge", help="Add to a collection that exists; newest versions win."),
]


def import_(
    file: File, merge: Merge = False, collection: InCollection = None, json: Json = False
) -> None:
    """Read a collection and its ledger from an export.

    Nothing is embedded. The collection becomes visible when all of it is there. Afterwards, what
    has changed since the export is indexed when its source is scanned or sent again.

    You can interrupt it: the next call with the same file continues.
    """

    async def command(settings: Settings) -> ExitCode:
        return await _import(file, merge, json, collection, settings)

    run_command(command, as_json=json)


async def _import(
    file: Path, merge: bool, as_json: bool, collection: str | None, settings: Settings
) -> ExitCode:
    from ingestq.app.backup import check_file, import_collection, open_export

    is_stream = file == STANDARD_STREAM
    if is_stream and merge:
        raise UsageError("--merge reads the export twice, to check it first; name a file")
    with _opened(file) as source, progress_display("checking") as display:
        totals = None if is_stream else await check_file(source, str(file))
        reader = await open_export(source, "stdin" if is_stream else str(file))
        of = reader.header.collection
        if collection is None and of != settings.collection:
            raise UsageError(
                f"the export is of the collection {of!r}; pass --collection {of}, or the name of "
                "the collection to import it into"
            )
        target = settings.of_collection(collection)
        async with opening_qdrant(target) as qdrant, open_broker(target) as broker:
            result = await import_collection(
                broker, await qdrant, target, reader, totals, display, merge=merge
            )
    if as_json:
        print_json(result.as_json())
    else:
        _print_for_people(result)
    return ExitCode.OK


@contextmanager
def _opened(file: Path) -> Iterator[BinaryIO]:
    if file == STANDARD_STREAM:
        with StandardStream(STDIN) as stdin:
            yield io.BufferedReader(stdin)
        return
    try:
        source = file.open("rb")
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror or error}") from error
    with source:
        yield source


def _print_for_people(result: "ImportResult") -> None:
    counts = result.counts
    kept = f"; {counts.kept:,} documents were there already" if counts.kept else ""
    line(
        f"imported into {result.collection}: {counts.documents:,} documents, {counts.chunks:,} "
        f"chunks, {counts.deleted:,} deletions{kept}"
    )
    if result.reindex is not None:
        line(f"{result.reindex}: run `ingestq reindex` before you start workers")
