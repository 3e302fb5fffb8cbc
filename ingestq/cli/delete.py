"""``ingestq delete``: delete documents from the index."""

import logging
from functools import partial
from typing import Annotated

import typer

from ingestq.app.composition import open_broker
from ingestq.app.settings import Settings
from ingestq.cli.entry import ExitCode, run_command
from ingestq.cli.options import InCollection, Json, require_text
from ingestq.cli.output import configure_logging, line, print_json
from ingestq.client.client import new_submission
from ingestq.core.documents import Deletion, Lane

DocIds = Annotated[
    list[str], typer.Argument(metavar="DOC_ID", help="Document ids.", show_default=False)
]
Tenant = Annotated[str, typer.Option("--tenant", metavar="TENANT", help="Tenant of the documents.")]


def delete(
    doc_ids: DocIds, tenant: Tenant = "", collection: InCollection = None, json: Json = False
) -> None:
    """Queue the deletion of documents; a worker carries it out.

    Older versions that are still queued do not bring a document back.
    """
    configure_logging(logging.WARNING)
    run_command(partial(_delete, doc_ids, tenant, collection, json), as_json=json)


async def _delete(
    doc_ids: list[str], tenant: str, collection: str | None, as_json: bool, settings: Settings
) -> ExitCode:
    require_text(tenant, *doc_ids)
    settings = settings.of_collection(collection)
    submission = new_submission()
    async with open_broker(settings) as broker:
        version = await broker.queue.now()
        deletions = [
            Deletion(doc_id=doc_id, version=version, tenant=tenant)
            for doc_id in dict.fromkeys(doc_ids)
        ]
        await broker.client.delete_many(deletions, submission=submission, lane=Lane.INTERACTIVE)
    if as_json:
        print_json({"submission": submission, "documents": {"queued": len(deletions)}})
    else:
        line(f"{len(deletions)} deletions queued as submission {submission}")
    return ExitCode.OK
