"""``ingestq status``: how things stand."""

import logging
from functools import partial
from typing import Annotated, Any

import msgspec
import typer

from broker.errors import StoreUnavailable, UsageError
from ingestq.cli.console import configure_logging, line, print_json
from ingestq.cli.entry import ExitCode, run_command
from ingestq.cli.options import Json
from ingestq.runtime import open_broker, open_qdrant
from ingestq.settings import Settings

Submission = Annotated[
    str | None,
    typer.Argument(metavar="[SUBMISSION]", help="Show how far this submission is instead."),
]


def status(submission: Submission = None, json: Json = False) -> None:
    """Show the queue, the workers and the collection."""
    configure_logging(logging.WARNING)
    if submission is None:
        run_command(partial(_status, json))
    else:
        run_command(partial(_submission, submission, json))


async def _status(as_json: bool, settings: Settings) -> ExitCode:
    async with open_broker(settings) as broker:
        depth = await broker.queue.depth()
        workers = await broker.queue.workers()
    answer = {
        "queue": depth.as_json(),
        "dead_letters": depth.dead_letters,
        "workers": [msgspec.structs.asdict(worker) for worker in workers],
        "collection": await _collection(settings, busy=bool(workers)),
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
        raise UsageError(f"there is no submission {submission!r}; it may be older than a week")
    if as_json:
        letters = [msgspec.structs.asdict(document) for document in failed]
        print_json({"submission": submission, **state.as_json(), "dead_letters": letters})
    else:
        for document in failed:
            line(f"rejected: {document.doc_id}: {document.reason}", style="red")
        line(
            f"{state.stage}: {state.documents.total} of {state.accepted} documents, "
            f"{state.chunks.embedded + state.chunks_running} chunks"
        )
    return ExitCode.DOCUMENTS_FAILED if failed else ExitCode.OK


async def _collection(settings: Settings, *, busy: bool) -> dict[str, Any]:
    """Counts of the collection. None while a worker on this machine has the local Qdrant open."""
    from worker.collection import find_collection
    from worker.ledger import QdrantLedger
    from worker.store import QdrantStore

    documents: int | None = 0
    chunks: int | None = 0
    try:
        async with open_qdrant(settings) as qdrant:
            names = await find_collection(qdrant, settings.collection)
            if names is not None:
                documents = await QdrantLedger(qdrant, names.ledger).count()
                chunks = await QdrantStore(qdrant, names.chunks).count()
    except StoreUnavailable:
        if settings.qdrant_url is not None or not busy:
            raise
        documents = chunks = None
    return {"name": settings.collection, "documents": documents, "chunks": chunks}


def _print_for_people(answer: dict[str, Any]) -> None:
    queue, collection = answer["queue"], answer["collection"]
    line(
        f"queue       {queue['ready']} ready, {queue['deferred']} deferred, "
        f"{queue['in_flight']} in flight; oldest waits {queue['oldest_ready_seconds']:.0f} s"
    )
    line(f"lanes       {queue['interactive']} interactive, {queue['bulk']} bulk")
    if queue["suspects"]:
        line(f"suspects    {queue['suspects']} jobs over which workers died, to be run alone")
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
    if collection["chunks"] is None:
        line(f"collection  {collection['name']}: open in a worker on this machine")
    else:
        line(
            f"collection  {collection['name']}: {collection['documents']} documents, "
            f"{collection['chunks']} chunks"
        )
