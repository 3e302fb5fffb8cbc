"""``ingestq status``: show the queue, the workers and the collections."""

import logging
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from ingestq.app.composition import open_broker, open_qdrant
from ingestq.app.settings import Settings
from ingestq.cli.entry import ExitCode, run_command
from ingestq.cli.options import Json
from ingestq.cli.output import configure_logging, line, print_json
from ingestq.core.errors import StoreUnavailable, UsageError

if TYPE_CHECKING:
    from worker.store.client import Qdrant

Submission = Annotated[
    str | None,
    typer.Argument(metavar="SUBMISSION", help="Show this submission instead."),
]


def status(submission: Submission = None, json: Json = False) -> None:
    """Show the queue, the workers and the collections.

    Exits with 1 if documents of the SUBMISSION failed.
    """
    configure_logging(logging.WARNING)
    if submission is None:
        run_command(partial(_status, json), as_json=json)
    else:
        run_command(partial(_submission, submission, json), as_json=json)


async def _status(as_json: bool, settings: Settings) -> ExitCode:
    async with open_broker(settings) as broker:
        overview = await broker.queue.overview()
    collections = await _collections(settings, busy=bool(overview.workers))
    answer = {
        "queue": overview.depth.as_json(),
        "dead_letters": overview.depth.dead_letters,
        "workers": [msgspec.structs.asdict(worker) for worker in overview.workers],
        "unserved": overview.unserved,
        "collection": collections[0],
        "collections": collections,
    }
    if as_json:
        print_json(answer)
    else:
        _print_for_people(answer)
    return ExitCode.OK


async def _submission(submission: str, as_json: bool, settings: Settings) -> ExitCode:
    async with open_broker(settings) as broker:
        state = await broker.queue.submission(submission)
        failed = await broker.queue.failed_documents(submission)
    if not state.accepted:
        raise UsageError(f"there is no submission {submission!r}; submissions are kept for a week")
    if as_json:
        dead_letters = [msgspec.structs.asdict(document) for document in failed]
        print_json({"submission": submission, **state.as_json(), "dead_letters": dead_letters})
    else:
        for document in failed:
            line(f"rejected: {document.doc_id}: {document.reason}", style="red")
        line(
            f"{state.stage}: {state.documents.total} of {state.accepted} documents, "
            f"{state.chunks.embedded + state.chunks_running} chunks"
        )
    return ExitCode.DOCUMENTS_FAILED if failed else ExitCode.OK


async def _collections(settings: Settings, *, busy: bool) -> list[dict[str, Any]]:
    """Return counts of each collection; None while a local worker has the bundled Qdrant open."""
    try:
        async with open_qdrant(settings) as qdrant:
            return [await _counted(qdrant, name) for name in settings.collections]
    except StoreUnavailable:
        if settings.qdrant_url is not None or not busy:
            raise
    return [{"name": name, "documents": None, "chunks": None} for name in settings.collections]


async def _counted(qdrant: "Qdrant", collection: str) -> dict[str, Any]:
    from worker.store.chunks import QdrantStore
    from worker.store.collection import find_collection
    from worker.store.ledger import QdrantLedger

    names = await find_collection(qdrant, collection)
    if names is None:
        return {"name": collection, "documents": 0, "chunks": 0}
    documents = await QdrantLedger(qdrant, names.ledger).count()
    chunks = await QdrantStore(qdrant, names.chunks).count()
    return {"name": collection, "documents": documents, "chunks": chunks}


def _print_for_people(answer: dict[str, Any]) -> None:
    queue = answer["queue"]
    line(
        f"queue       {queue['ready']} ready, {queue['deferred']} deferred, "
        f"{queue['in_flight']} in flight; oldest waits {queue['oldest_ready_seconds']:.0f} s"
    )
    line(f"lanes       {queue['interactive']} interactive, {queue['bulk']} bulk")
    if queue["poison"]:
        line(f"poison      {queue['poison']} jobs that killed workers; each runs alone")
    line(f"dead        {answer['dead_letters']} documents")
    for worker in answer["workers"]:
        line(
            f"worker      {worker['id']}, seen {worker['seen_seconds_ago']:.0f} s ago: "
            f"{worker['running']} jobs, {worker['documents_per_second']:.1f} documents/s, "
            f"{worker['chunks_per_second']:.1f} chunks/s"
        )
        if worker["paused"]:
            line(f"paused      {worker['id']}: {worker['paused']}", style="red")
    if not answer["workers"]:
        line("worker      none")
    for name, jobs in answer["unserved"].items():
        line(f"unserved    {name}: {jobs} jobs, and no worker serves this collection", style="red")
    for collection in answer["collections"]:
        if collection["chunks"] is None:
            line(f"collection  {collection['name']}: in use by a worker on this machine")
        else:
            line(
                f"collection  {collection['name']}: {collection['documents']} documents, "
                f"{collection['chunks']} chunks"
            )
