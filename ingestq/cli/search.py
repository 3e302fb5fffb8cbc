"""``ingestq search``: ask the collection."""

import dataclasses
import logging
import textwrap
from functools import partial
from typing import TYPE_CHECKING, Annotated, Final

import typer

from ingestq.cli.console import configure_logging, err, line, print_json
from ingestq.cli.entry import ExitCode, run_command
from ingestq.cli.options import Json
from ingestq.runtime import open_model, open_qdrant
from ingestq.settings import Settings

if TYPE_CHECKING:
    from worker.points import Hit

EXCERPT_CHARACTERS: Final = 500

Query = Annotated[str, typer.Argument(metavar="QUERY", show_default=False)]
Limit = Annotated[int, typer.Option("--limit", "-n", min=1, max=1000, help="Hits at most.")]


def search(query: Query, limit: Limit = 5, json: Json = False) -> None:
    """Find the chunks that are nearest to QUERY in meaning."""
    configure_logging(logging.WARNING)
    run_command(partial(_search, query, limit, json))


async def _search(query: str, limit: int, as_json: bool, settings: Settings) -> ExitCode:
    with err.status("searching"):
        hits = await _hits(query, limit, settings)
    if as_json:
        print_json({"hits": [dataclasses.asdict(hit) for hit in hits]})
    elif not hits:
        line(f"nothing is indexed under {settings.collection!r} yet; see `ingestq run --help`")
    else:
        for hit in hits:
            line(f"{hit.score:.3f}  {hit.doc_id}  #{hit.chunk_index}", style="bold")
            excerpt = textwrap.shorten(hit.text, EXCERPT_CHARACTERS, placeholder=" …")
            for row in textwrap.wrap(excerpt, 92):
                line(f"       {row}")
    return ExitCode.OK


async def _hits(query: str, limit: int, settings: Settings) -> "list[Hit]":
    from worker.collection import check_fingerprint, find_collection
    from worker.fingerprint import fingerprint
    from worker.store import QdrantStore

    async with open_qdrant(settings) as qdrant:
        names = await find_collection(qdrant, settings.collection)
        if names is None:
            return []
        async with open_model(settings, processes=1) as model:
            await check_fingerprint(qdrant, names, fingerprint(model.info, settings.collection_schema))
            vector = (await model.embed_query(query)).dense
        return await QdrantStore(qdrant, names.chunks, settings.vector_name).search(vector, limit)
