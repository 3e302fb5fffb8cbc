"""``ingestq search``: search the collection."""

import dataclasses
import logging
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Final

import typer

from ingestq.app.composition import open_model, open_qdrant
from ingestq.app.search import query_settings
from ingestq.app.settings import Settings
from ingestq.cli.entry import ExitCode, run_command
from ingestq.cli.options import InCollection, Json, require_text
from ingestq.cli.output import configure_logging, err, line, print_json
from ingestq.core.errors import UsageError
from ingestq.core.search_query import (
    LARGEST_LIMIT,
    MetadataCondition,
    Mode,
    SearchFilter,
    SearchQuery,
    parse_condition,
)

if TYPE_CHECKING:
    from worker.pipeline.points import SearchHit

EXCERPT_CHARACTERS: Final = 500

Query = Annotated[
    str, typer.Argument(metavar="QUERY", help="What to search for.", show_default=False)
]
Limit = Annotated[
    int, typer.Option("--limit", "-n", min=1, max=LARGEST_LIMIT, help="Print up to this many hits.")
]
Dense = Annotated[bool, typer.Option("--dense", help="Search by meaning only.")]
Sparse = Annotated[bool, typer.Option("--sparse", help="Search by words only (BM25).")]
Filters = Annotated[
    list[str] | None,
    typer.Option(
        "--filter",
        metavar="KEY=VALUE",
        help="Find only chunks with this metadata. Can be repeated.",
        show_default=False,
    ),
]
OfSource = Annotated[
    str | None, typer.Option("--source", metavar="SOURCE", help="Find only chunks of this source.")
]
OfTenant = Annotated[
    str | None, typer.Option("--tenant", metavar="TENANT", help="Find only chunks of this tenant.")
]


def search(
    query: Query,
    limit: Limit = 5,
    dense: Dense = False,
    sparse: Sparse = False,
    filters: Filters = None,
    source: OfSource = None,
    tenant: OfTenant = None,
    collection: InCollection = None,
    json: Json = False,
) -> None:
    """Search the collection by meaning and by words."""
    configure_logging(logging.WARNING)

    async def run(settings: Settings) -> ExitCode:
        require_text(query, source or "", tenant or "", *(filters or ()))
        where = SearchFilter(_conditions(filters or ()), source, tenant)
        chosen = settings.of_collection(collection)
        wanted = SearchQuery(query, limit, _mode(dense, sparse), where, chosen.collection)
        return await _search(wanted, json, chosen)

    run_command(run, as_json=json)


def _mode(dense: bool, sparse: bool) -> Mode:
    if dense and sparse:
        raise UsageError("--dense and --sparse cannot be combined; without either, both are used")
    return Mode.DENSE if dense else Mode.SPARSE if sparse else Mode.HYBRID


def _conditions(filters: Sequence[str]) -> tuple[MetadataCondition, ...]:
    try:
        return tuple(map(parse_condition, filters))
    except ValueError as error:
        raise UsageError(f"--filter {error}") from error


async def _search(query: SearchQuery, as_json: bool, settings: Settings) -> ExitCode:
    with err.status("searching"):
        hits = await _hits(query, settings)
    if as_json:
        print_json({"hits": [dataclasses.asdict(hit) for hit in hits or []]})
    elif hits is None:
        line(f"collection {settings.collection!r} does not exist yet; see `ingestq run --help`")
    elif not hits:
        line("no results")
    else:
        for hit in hits:
            line(f"{hit.score:.3f}  {hit.doc_id}  #{hit.chunk_index}", style="bold")
            excerpt = textwrap.shorten(hit.text, EXCERPT_CHARACTERS, placeholder=" …")
            for row in textwrap.wrap(excerpt, 92):
                line(f"       {row}")
    return ExitCode.OK


async def _hits(query: SearchQuery, settings: Settings) -> "list[SearchHit] | None":
    """Return the hits; None if there is no collection."""
    from worker.store.collection import find_collection
    from worker.store.search import search

    async with open_qdrant(settings) as qdrant:
        names = await find_collection(qdrant, settings.collection)
        if names is None:
            return None
        settings = await query_settings(settings, qdrant, names)
        async with open_model(settings, processes=1) as model:
            return await search(qdrant, names, model, query)
