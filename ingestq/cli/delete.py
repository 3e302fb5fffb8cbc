"""``ingestq delete``: delete documents from the index."""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Annotated, Final

import typer

from ingestq.app.composition import Broker, open_broker
from ingestq.app.deletion import find_documents
from ingestq.app.settings import Settings
from ingestq.cli.entry import ExitCode, run_command
from ingestq.cli.options import InCollection, Json, require_text
from ingestq.cli.output import line, print_json
from ingestq.client.client import new_submission
from ingestq.core.documents import MAX_VERSION, Deletion, Lane
from ingestq.core.errors import UsageError

OUTCOME_SECONDS: Final = 10.0
"""How long to wait for workers to say whether a document existed. Deletions run before bulk work.
"""

DocIds = Annotated[
    list[str],
    typer.Argument(metavar="DOC_ID", help="Document ids, or paths of files.", show_default=False),
]
Tenant = Annotated[str, typer.Option("--tenant", metavar="TENANT", help="Tenant of the documents.")]
Version = Annotated[
    int | None,
    typer.Option(
        "--version",
        min=1,
        max=MAX_VERSION,
        metavar="N",
        help="Delete version N of your own and older ones; a newer one stays.",
        show_default=False,
    ),
]


def delete(
    doc_ids: DocIds,
    version: Version = None,
    tenant: Tenant = "",
    collection: InCollection = None,
    json: Json = False,
) -> None:
    """Queue the deletion of documents; a worker carries it out.

    Versions that are still queued do not bring a document back. Exits with 1 if there is no such
    document; the others are deleted all the same.
    """
    run_command(
        partial(_delete, doc_ids, version, tenant, collection, json), as_json=json, traced=True
    )


async def _delete(
    typed: list[str],
    version: int | None,
    tenant: str,
    collection: str | None,
    as_json: bool,
    settings: Settings,
) -> ExitCode:
    require_text(tenant, *typed)
    settings = settings.of_collection(collection)
    submission = new_submission()
    async with open_broker(settings) as broker:
        at = await broker.queue.issue_version() if version is None else version
        _deletions(typed, at, tenant)  # before anything is queued
        selection = await find_documents(dict.fromkeys(typed), tenant, settings, broker)
        await broker.client.delete_many(
            _deletions(selection.doc_ids, at, tenant), submission=submission, lane=Lane.INTERACTIVE
        )
        missing = dict(selection.missing)
        for text, ids in selection.unknown.items():
            deletions = _deletions(ids, at, tenant, any_form=True)
            if await _are_of_nothing(deletions, submission, broker):
                missing[text] = []
    queued = [*selection.doc_ids, *(text for text in selection.unknown if text not in missing)]
    if as_json:
        listed = [{"doc_id": text, "nearest": nearest} for text, nearest in missing.items()]
        about = {"doc_ids": queued, "missing": listed}
        print_json(
            {
                "submission": submission if queued else None,
                "documents": {"queued": len(queued)},
                **about,
            }
        )
    else:
        _print_for_people(queued, missing, submission)
    return ExitCode.DOCUMENTS_FAILED if missing else ExitCode.OK


def _deletions(
    doc_ids: Iterable[str], version: int, tenant: str, *, any_form: bool = False
) -> list[Deletion]:
    """Return the deletions of ``doc_ids``. Raises UsageError if one cannot be an id."""
    try:
        return [
            Deletion(doc_id=doc_id, version=version, tenant=tenant, any_form=any_form)
            for doc_id in doc_ids
        ]
    except ValueError as error:
        raise UsageError(str(error)) from error


async def _are_of_nothing(deletions: Sequence[Deletion], submission: str, broker: Broker) -> bool:
    """Queue ``deletions``, and return whether workers find that no such document existed.

    Returns False if they do not say so within `OUTCOME_SECONDS`.
    """
    if not (await broker.queue.overview()).workers:
        await broker.client.delete_many(deletions, submission=submission, lane=Lane.INTERACTIVE)
        return False
    before = await broker.client.status(submission)
    await broker.client.delete_many(deletions, submission=submission, lane=Lane.INTERACTIVE)
    try:
        after = await broker.client.wait(submission, timeout=OUTCOME_SECONDS)
    except TimeoutError:
        return False
    return after.documents.unchanged - before.documents.unchanged == len(deletions)


def _print_for_people(
    queued: Sequence[str], missing: dict[str, list[str]], submission: str
) -> None:
    for text, nearest in missing.items():
        hint = f"; nearest: {', '.join(nearest)}" if nearest else ""
        line(f"no such document: {text}{hint}", style="red")
    if queued:
        line(f"{len(queued)} deletions queued as submission {submission}")
