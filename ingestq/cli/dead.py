"""``ingestq dead``: list, requeue and purge dead letters."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Annotated, Any, Final

import typer

from ingestq.app.composition import open_broker
from ingestq.app.settings import Settings
from ingestq.broker.queue.dead_letters import DeadLetterFilter, DeadLetters, StoredDeadLetter
from ingestq.cli.entry import ExitCode, run_command
from ingestq.cli.options import AllowMassDelete, Json
from ingestq.cli.output import line, print_json
from ingestq.client.client import new_submission
from ingestq.core.documents import Deletion, Document, Sweep
from ingestq.core.errors import ContractError, UsageError
from ingestq.core.jobs import decode_job
from ingestq.core.results import DeadLetter
from ingestq.core.unicode_forms import composed

dead = typer.Typer(
    name="dead",
    no_args_is_help=True,
    rich_markup_mode=None,
    help="List, requeue or purge documents that failed.",
)

EXCERPT_CHARACTERS: Final = 500

DocIds = Annotated[
    list[str] | None, typer.Argument(metavar="DOC_ID", help="Document ids.", show_default=False)
]
DocId = Annotated[str, typer.Argument(metavar="DOC_ID", help="Document id.", show_default=False)]
Everything = Annotated[bool, typer.Option("--all", help="Select all dead letters.")]
Reason = Annotated[
    str | None,
    typer.Option("--reason", metavar="TEXT", help="Select those with TEXT in their reason."),
]
Tenant = Annotated[
    str | None, typer.Option("--tenant", metavar="TENANT", help="Select those of one tenant.")
]
Collection = Annotated[
    str | None, typer.Option("--collection", metavar="NAME", help="Select those of one collection.")
]


@dead.command("list")
def list_dead_letters(
    reason: Reason = None,
    tenant: Tenant = None,
    collection: Collection = None,
    json: Json = False,
) -> None:
    """List dead letters, newest first."""
    run_command(
        partial(_list, DeadLetterFilter(frozenset(), tenant, reason, collection), json),
        as_json=json,
    )


@dead.command()
def show(
    doc_id: DocId, tenant: Tenant = None, collection: Collection = None, json: Json = False
) -> None:
    """Show everything known about a document that failed."""
    wanted = DeadLetterFilter(frozenset([doc_id]), tenant, collection=collection)
    run_command(partial(_show, wanted, json), as_json=json)


@dead.command()
def requeue(
    doc_ids: DocIds = None,
    everything: Everything = False,
    reason: Reason = None,
    tenant: Tenant = None,
    collection: Collection = None,
    allow_mass_delete: AllowMassDelete = False,
    json: Json = False,
) -> None:
    """Queue failed documents again, with all their retries.

    Select them by DOC_ID, --reason, --tenant and --collection, or pass --all. What a
    folder or list holds back is decided again.
    """
    wanted = DeadLetterFilter(frozenset(doc_ids or ()), tenant, reason, collection)
    run_command(partial(_requeue, wanted, everything, allow_mass_delete, json), as_json=json)


@dead.command()
def purge(
    doc_ids: DocIds = None,
    everything: Everything = False,
    reason: Reason = None,
    tenant: Tenant = None,
    collection: Collection = None,
    json: Json = False,
) -> None:
    """Delete dead letters.

    Select them by DOC_ID, --reason, --tenant and --collection, or pass --all. The documents are not
    indexed, and cannot be requeued afterwards.
    """
    wanted = DeadLetterFilter(frozenset(doc_ids or ()), tenant, reason, collection)
    run_command(partial(_purge, wanted, everything, json), as_json=json)


async def _list(wanted: DeadLetterFilter, as_json: bool, settings: Settings) -> ExitCode:
    async with _found(settings, wanted) as (known, found):
        dead_letters = sorted((stored.dead_letter for stored in found), key=lambda x: -x.failed_ms)
        expired = await known.expired_count()
    if as_json:
        listed = [_as_json(dead_letter) for dead_letter in dead_letters]
        print_json({"dead_letters": listed, "expired": expired})
    else:
        for dead_letter in dead_letters:
            line(f"{dead_letter.failed_at}  {dead_letter.doc_id}: {dead_letter.reason}")
        line(f"{len(dead_letters)} dead letters")
        if expired:
            line(f"{expired} more were deleted because of their age")
    return ExitCode.OK


async def _show(wanted: DeadLetterFilter, as_json: bool, settings: Settings) -> ExitCode:
    async with _found(settings, wanted) as (_, found):
        dead_letters = [_as_json(s.dead_letter) | _content(s.dead_letter) for s in found]
    if as_json:
        print_json({"dead_letters": dead_letters})
    else:
        for dead_letter in dead_letters:
            for name, value in dead_letter.items():
                for part in str(value).splitlines():
                    line(f"{name:<10}  {part}")
    return ExitCode.OK


async def _requeue(
    wanted: DeadLetterFilter,
    everything: bool,
    allow_mass_delete: bool,
    as_json: bool,
    settings: Settings,
) -> ExitCode:
    _check_selection(wanted, everything)
    submission = new_submission()
    async with _found(settings, wanted) as (dead_letters, found):
        count = await dead_letters.requeue(found, submission, allow_mass_delete=allow_mass_delete)
    if as_json:
        print_json({"requeued": count, "submission": submission})
    else:
        line(f"{count} requeued as submission {submission}")
    return ExitCode.OK


async def _purge(
    wanted: DeadLetterFilter, everything: bool, as_json: bool, settings: Settings
) -> ExitCode:
    _check_selection(wanted, everything)
    async with _found(settings, wanted) as (dead_letters, found):
        count = await dead_letters.purge(found)
    if as_json:
        print_json({"purged": count})
    else:
        line(f"{count} purged")
    return ExitCode.OK


def _check_selection(wanted: DeadLetterFilter, everything: bool) -> None:
    """Raise UsageError unless the user selected some dead letters, or all with ``--all``."""
    if everything == (wanted != DeadLetterFilter()):
        raise UsageError("pass DOC_ID, --reason, --tenant or --collection, or pass --all")


@asynccontextmanager
async def _found(
    settings: Settings, wanted: DeadLetterFilter
) -> AsyncIterator[tuple[DeadLetters, list[StoredDeadLetter]]]:
    """Yield the dead letters and the selected ones. Raises UsageError if a named one is missing."""
    async with open_broker(settings) as broker:
        dead_letters = broker.dead_letters
        found = [stored async for stored in dead_letters.find(wanted)]
        if wanted.doc_ids:
            found = _exact_first(wanted.doc_ids, found)
        forms = {composed(stored.dead_letter.doc_id) for stored in found}
        missing = {doc_id for doc_id in wanted.doc_ids if composed(doc_id) not in forms}
        if missing:
            names = ", ".join(sorted(missing))
            raise UsageError(f"no dead letter for {names}; list them with `ingestq dead list`")
        yield dead_letters, found


def _exact_first(
    doc_ids: frozenset[str], found: Sequence[StoredDeadLetter]
) -> list[StoredDeadLetter]:
    """Leave out what is in another of Unicode's normal forms than an id that was found itself."""
    exact = doc_ids.intersection(stored.dead_letter.doc_id for stored in found)
    others = set(map(composed, doc_ids - exact))
    return [
        stored
        for stored in found
        if stored.dead_letter.doc_id in exact or composed(stored.dead_letter.doc_id) in others
    ]


def _as_json(dead_letter: DeadLetter) -> dict[str, Any]:
    return {
        "doc_id": dead_letter.doc_id,
        "tenant": dead_letter.tenant,
        "collection": dead_letter.collection,
        "reason": dead_letter.reason,
        "tries": dead_letter.tries,
        "failed_at": dead_letter.failed_at,
        "submission": dead_letter.submission,
    }


def _content(dead_letter: DeadLetter) -> dict[str, Any]:
    """Return the fields of the document; of a payload in an unknown format, only its size."""
    try:
        job = decode_job(dead_letter.payload)
    except ContractError:
        return {"payload": f"{len(dead_letter.payload)} bytes in an unknown format"}
    if job.known_batch is None or len(job.known_batch.documents) != 1:
        whole = f"a {job.function!r} job with {dead_letter.documents} documents"
        return {"payload": whole, "traceback": dead_letter.traceback}
    [document] = job.known_batch.documents
    if isinstance(document, Deletion):
        return {"version": document.version, "deletion": True, "traceback": dead_letter.traceback}
    if isinstance(document, Sweep):
        return {"version": document.version, "sweep": True, "traceback": dead_letter.traceback}
    return {
        "version": document.version,
        "source": document.source,
        "media_type": document.media_type,
        "metadata": document.metadata,
        "content": _excerpt(document),
        "traceback": dead_letter.traceback,
    }


def _excerpt(document: Document) -> str:
    if document.blob is not None:
        return f"{document.blob} in the blob store"
    if document.url is not None:
        return f"the object {document.url}"
    if document.text is None:
        return f"the file {document.path}"
    return document.text[:EXCERPT_CHARACTERS]
