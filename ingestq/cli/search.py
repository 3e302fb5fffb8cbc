"""``ingestq search``: search the collection."""

import dataclasses
import textwrap
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Annotated, Final

import typer

from ingestq.app.composition import open_index, open_model, open_reranker
from ingestq.app.search import SearchRanking, is_reranked, query_settings
from ingestq.app.settings import Settings
from ingestq.cli.entry import ExitCode, run_command
from ingestq.cli.options import InCollection, Json, require_text
from ingestq.cli.output import err, line, print_json
from ingestq.core.errors import UsageError
from ingestq.core.search_query import (
    LARGEST_LIMIT,
    MOST_AROUND,
    Mode,
    SearchFilter,
    SearchQuery,
    SearchResult,
    parse_condition,
)

if TYPE_CHECKING:
    from worker.pipeline.points import SearchHit

LINE_CHARACTERS: Final = 92

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
        metavar="CONDITION",
        help="Find only chunks with this metadata: year=2024, tag=a,b (any of them), tag!=draft, "
        "year>=2024, date<2024-06-01. Can be repeated.",
        show_default=False,
    ),
]
Group = Annotated[bool, typer.Option("--group", help="Find only the best chunk of each document.")]
Around = Annotated[
    int,
    typer.Option(
        "--around",
        min=0,
        max=MOST_AROUND,
        metavar="N",
        help="Show this many chunks before and after each hit, too.",
    ),
]
Rerank = Annotated[
    bool | None,
    typer.Option(
        "--rerank/--no-rerank",
        help="Let the reranker order the hits; by default as configured.",
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
    group: Group = False,
    around: Around = 0,
    rerank: Rerank = None,
    collection: InCollection = None,
    json: Json = False,
) -> None:
    """Search the collection by meaning and by words."""

    async def run(settings: Settings) -> ExitCode:
        require_text(query, source or "", tenant or "", *(filters or ()))
        where = to_search_filter(filters or (), source, tenant)
        chosen = settings.of_collection(collection)
        mode = _mode(dense, sparse)
        wanted = SearchQuery(query, limit, mode, where, chosen.collection, group, around, rerank)
        return await _search(wanted, json, chosen)

    run_command(run, as_json=json)


def _mode(dense: bool, sparse: bool) -> Mode:
    if dense and sparse:
        raise UsageError("--dense and --sparse cannot be combined; without either, both are used")
    return Mode.DENSE if dense else Mode.SPARSE if sparse else Mode.HYBRID


def to_search_filter(
    filters: Sequence[str], source: str | None, tenant: str | None
) -> SearchFilter:
    """Return the conditions that options stand for. Raises UsageError if a filter is wrong."""
    try:
        return SearchFilter(tuple(map(parse_condition, filters)), source, tenant)
    except ValueError as error:
        raise UsageError(f"--filter {error}") from error


async def _search(query: SearchQuery, as_json: bool, settings: Settings) -> ExitCode:
    with err.status("searching"):
        result = await _result(query, settings)
    found = result or SearchResult()
    if as_json:
        print_json(
            {
                "hits": [dataclasses.asdict(hit) for hit in found.hits],
                "reranked": found.reranked,
                "warnings": found.warnings,
            }
        )
        return ExitCode.OK
    for warning in found.warnings:
        line(f"warning: {warning}", style="yellow")
    if result is None:
        line(f"collection {settings.collection!r} does not exist yet; see `ingestq run --help`")
    elif not found.hits:
        line("no results")
    for hit in found.hits:
        _print_hit(hit)
    return ExitCode.OK


def _print_hit(hit: "SearchHit") -> None:
    line(f"{hit.score:.3f}  {hit.place}  #{hit.chunk_index}", style="bold")
    if hit.stale:
        line("       stale: a newer version was rejected", style="red")
    if hit.background:
        line(f"       {textwrap.shorten(hit.background, LINE_CHARACTERS)}", style="dim")
    for chunk in hit.before:
        _print_text(f"#{chunk.chunk_index} {chunk.text}", style="dim")
    _print_text(hit.snippet)
    for chunk in hit.after:
        _print_text(f"#{chunk.chunk_index} {chunk.text}", style="dim")


def _print_text(text: str, *, style: str | None = None) -> None:
    for row in textwrap.wrap(" ".join(text.split()), LINE_CHARACTERS):
        line(f"       {row}", style=style)


async def _result(query: SearchQuery, settings: Settings) -> "SearchResult[SearchHit] | None":
    """Return the result of the search; None if there is no collection."""
    from worker.store.collection import find_collection
    from worker.store.search import search

    async with AsyncExitStack() as opened:
        ranking = None
        if is_reranked(query, settings):
            reranker = await opened.enter_async_context(open_reranker(settings))
            reranker.begin()  # while the model is loaded
            ranking = SearchRanking(reranker, query.text)
        qdrant = await opened.enter_async_context(open_index(settings))
        if qdrant is None or not (names := await find_collection(qdrant, settings.collection)):
            return None
        settings = await query_settings(settings, qdrant, names)
        model = await opened.enter_async_context(open_model(settings, processes=1))
        hits = await search(qdrant, names, model, query, ranking=ranking)
        return SearchResult(hits) if ranking is None else ranking.result(hits)
