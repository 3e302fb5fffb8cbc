"""``ingestq status``: show the queue, the workers and the collections."""

from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
import typer

from ingestq.app.collections import count_collection, stale_documents, warned_documents
from ingestq.app.composition import open_broker, open_index
from ingestq.app.settings import Settings
from ingestq.broker.queue.versions import AHEAD_SECONDS
from ingestq.cli.entry import ExitCode, run_command
from ingestq.cli.options import Json, require_text
from ingestq.cli.output import line, print_json
from ingestq.cli.summary import print_warnings
from ingestq.core.errors import UsageError
from ingestq.core.results import utc_time
from ingestq.core.service import opening

if TYPE_CHECKING:
    from worker.store.client import Qdrant

LISTED: Final = 10_000
"""Most warnings, and most stale documents, that are listed. All of them are counted."""
CLOCK_HINT: Final = "check that clock; edits are indexed all the same"

Submission = Annotated[
    str | None,
    typer.Argument(metavar="SUBMISSION", help="Show this submission instead."),
]


Warnings = Annotated[
    bool,
    typer.Option(
        "--warnings",
        help="Also list what could not be read of indexed documents, and which are stale.",
    ),
]


def status(submission: Submission = None, warnings: Warnings = False, json: Json = False) -> None:
    """Show the queue, the workers and the collections.

    Exits with 1 if documents of the SUBMISSION failed. Its warnings are always listed.
    """
    if submission is None:
        run_command(partial(_status, warnings, json), as_json=json)
    else:
        run_command(partial(_submission, submission, json), as_json=json)


async def _status(with_warnings: bool, as_json: bool, settings: Settings) -> ExitCode:
    async with (
        opening(open_index(settings), name="Qdrant") as index,
        open_broker(settings) as broker,
    ):
        overview = await broker.queue.overview()
        qdrant = await index
        counts = [await count_collection(qdrant, name) for name in settings.collections]
        warned: list[dict[str, Any]] = []
        stale: list[dict[str, Any]] = []
        if with_warnings and qdrant is not None:
            warned = await _listed(_warnings_of(qdrant, name) for name in settings.collections)
            stale = await _listed(_stale_in(qdrant, name) for name in settings.collections)
    collections = [msgspec.structs.asdict(collection) for collection in counts]
    answer = {
        "queue": overview.depth.as_json(),
        "dead_letters": overview.depth.dead_letters,
        "expired_dead_letters": overview.expired_dead_letters,
        "versions": {"ahead_seconds": round(overview.versions_ahead_seconds, 3)},
        "workers": [msgspec.structs.asdict(worker) for worker in overview.workers],
        "unserved": overview.unserved,
        "watched_folders": [folder.as_json() for folder in overview.watched_folders],
        "held_back": [source.as_json() for source in overview.held_back],
        "webhooks": [webhook.as_json() for webhook in overview.webhooks],
        "collection": collections[0],
        "collections": collections,
    }
    if as_json:
        print_json(answer | ({"warnings": warned, "stale": stale} if with_warnings else {}))
    else:
        _print_for_people(answer)
        for document in warned:
            line(f"warning     {document['doc_id']}: {document['warning']}", style="yellow")
        if len(warned) == LISTED:
            line(f"warning     … only the first {LISTED:,} are listed", style="yellow")
        for document in stale:
            since = utc_time(document["since_ms"])
            line(
                f"stale       {document['doc_id']}: since {since}: {document['reason']}",
                style="red",
            )
        if len(stale) == LISTED:
            line(f"stale       … only the first {LISTED:,} are listed", style="red")
    return ExitCode.OK


async def _submission(submission: str, as_json: bool, settings: Settings) -> ExitCode:
    require_text(submission)
    async with open_broker(settings) as broker:
        state = await broker.queue.submission(submission)
        failed = await broker.queue.failed_documents(submission)
        warnings = await broker.queue.warnings(submission)
    if not state.accepted:
        raise UsageError(f"there is no submission {submission!r}; submissions are kept for a week")
    if as_json:
        listed = {
            "dead_letters": [msgspec.structs.asdict(document) for document in failed],
            "warnings": [msgspec.structs.asdict(warning) for warning in warnings],
        }
        print_json({"submission": submission, **state.as_json(), **listed})
    else:
        for document in failed:
            line(f"rejected: {document.doc_id}: {document.reason}", style="red")
        print_warnings(warnings, state.warned.warnings)
        line(
            f"{state.stage}: {state.documents.total} of {state.accepted} documents, "
            f"{state.chunks.embedded + state.chunks_running} chunks"
            + (f", {state.warned.documents} with warnings" if state.warned.documents else "")
        )
    return ExitCode.DOCUMENTS_FAILED if failed else ExitCode.OK


async def _listed(of_collections: Iterable[AsyncGenerator[dict[str, Any]]]) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = []
    for found in of_collections:
        async with aclosing(found):
            async for one in found:
                if len(listed) == LISTED:
                    return listed
                listed.append(one)
    return listed


async def _warnings_of(qdrant: "Qdrant", name: str) -> AsyncGenerator[dict[str, Any]]:
    async with aclosing(warned_documents(qdrant, name)) as documents:
        async for document in documents:
            about = {"collection": name, "tenant": document.tenant, "doc_id": document.doc_id}
            for warning in document.warnings:
                yield about | {"warning": warning}


async def _stale_in(qdrant: "Qdrant", name: str) -> AsyncGenerator[dict[str, Any]]:
    async with aclosing(stale_documents(qdrant, name)) as documents:
        async for document in documents:
            yield {"collection": name, **msgspec.structs.asdict(document)}


def _print_for_people(answer: dict[str, Any]) -> None:
    queue = answer["queue"]
    line(
        f"queue       {queue['ready']} ready, {queue['deferred']} deferred, "
        f"{queue['in_flight']} in flight"
        + (f"; oldest waits {queue['oldest_ready_seconds']:.0f} s" if queue["ready"] else "")
    )
    line(f"lanes       {queue['interactive']} interactive, {queue['bulk']} bulk")
    if queue["poison"]:
        line(f"poison      {queue['poison']} jobs that killed workers; each runs alone")
    expired = answer["expired_dead_letters"]
    more = f"; {expired} more were deleted because of their age" if expired else ""
    line(f"dead        {answer['dead_letters']} documents{more}")
    if (ahead := answer["versions"]["ahead_seconds"]) > AHEAD_SECONDS:
        line(
            f"versions    {ahead:,.0f} s ahead of the clock of Redis: {CLOCK_HINT}", style="yellow"
        )
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
    for part, show in PARTS.items():
        for each in answer[part]:
            show(each)


def _print_collection(collection: dict[str, Any]) -> None:
    line(
        f"collection  {collection['name']}: {collection['documents']} documents"
        + (f" ({warned} with warnings)" if (warned := collection["warned"]) else "")
        + f", {collection['chunks']} chunks"
    )
    if stale := collection["stale"]:
        line(
            f"stale       {collection['name']}: {stale} documents, because a newer version was "
            "rejected; `ingestq status --warnings` says why",
            style="red",
        )


def _print_folder(folder: dict[str, Any]) -> None:
    skipped = f": {folder['skipped']} skipped" if folder["skipped"] else ""
    line(f"watched     {folder['folder']} on {folder['host']}{skipped}")
    if folder["unavailable"]:
        line(f"unavailable {folder['folder']}: {folder['unavailable']}", style="red")
    for file in folder["skipped_files"]:
        line(f"skipped     {file['doc_id']}: {file['reason']}", style="yellow")
    if (more := folder["skipped"] - len(folder["skipped_files"])) > 0:
        line(f"skipped     … and {more:,} more; the log of the watcher has them", style="yellow")


def _print_webhook(webhook: dict[str, Any]) -> None:
    line(
        f"webhook     {webhook['target']}: {webhook['waiting']} waiting, "
        f"{webhook['failed']} failed, {webhook['delivered']} delivered"
        + (f"; last attempt: {webhook['error']}" if webhook["error"] else ""),
        style="red" if webhook["failed"] or webhook["gone"] else None,
    )


def _print_held_back(source: dict[str, Any]) -> None:
    line(f"held back   {source['source']} since {source['since']}: {source['reason']}", style="red")
    more = source["documents"] - len(source["first"])
    line(f"            {', '.join(source['first'])}{f', and {more:,} more' if more else ''}")
    line(f"            to delete them, while a worker runs: {source['confirm']}")


PARTS: Final = {
    "held_back": _print_held_back,
    "webhooks": _print_webhook,
    "watched_folders": _print_folder,
    "collections": _print_collection,
}
"""What shows the parts of the status that are lists, in their order."""
