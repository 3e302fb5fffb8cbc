"""``ingestq dead``: the documents that were given up."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Annotated, Any, Final

import typer

from broker.contract import DeadLetter, Deletion, Document, Sweep, decode_job
from broker.dead_letters import DeadLetters, LetterFilter, StoredLetter
from broker.errors import ContractError, UsageError
from ingestq.cli.console import configure_logging, line, print_json
from ingestq.cli.entry import ExitCode, run_command
from ingestq.cli.options import Json
from ingestq.runtime import open_broker
from ingestq.settings import Settings
from producers.client import new_submission

dead = typer.Typer(
    name="dead", no_args_is_help=True, help="Look at documents that failed, and try them again."
)

EXCERPT_CHARACTERS: Final = 500

DocIds = Annotated[list[str] | None, typer.Argument(metavar="[DOC_ID]…", help="Ids of documents.")]
DocId = Annotated[str, typer.Argument(metavar="DOC_ID", show_default=False)]
Everything = Annotated[bool, typer.Option("--all", help="All dead letters.")]
Reason = Annotated[
    str | None, typer.Option("--reason", metavar="TEXT", help="Those with TEXT in their reason.")
]
Tenant = Annotated[str | None, typer.Option("--tenant", help="Those of one tenant.")]
Collection = Annotated[
    str | None, typer.Option("--collection", metavar="NAME", help="Those of one collection.")
]


@dead.command("list")
def list_letters(
    reason: Reason = None,
    tenant: Tenant = None,
    collection: Collection = None,
    json: Json = False,
) -> None:
    """List the dead letters, the newest first."""
    configure_logging(logging.WARNING)
    run_command(partial(_list, LetterFilter(frozenset(), tenant, reason, collection), json))


@dead.command()
def show(
    doc_id: DocId, tenant: Tenant = None, collection: Collection = None, json: Json = False
) -> None:
    """Show everything that is known of a document that failed."""
    configure_logging(logging.WARNING)
    wanted = LetterFilter(frozenset([doc_id]), tenant, collection=collection)
    run_command(partial(_show, wanted, json))


@dead.command()
def requeue(
    doc_ids: DocIds = None,
    everything: Everything = False,
    reason: Reason = None,
    tenant: Tenant = None,
    collection: Collection = None,
    json: Json = False,
) -> None:
    """Queue documents that failed again, with all their tries."""
    configure_logging(logging.WARNING)
    wanted = LetterFilter(frozenset(doc_ids or ()), tenant, reason, collection)
    run_command(partial(_requeue, wanted, everything, json))


@dead.command()
def purge(
    doc_ids: DocIds = None,
    everything: Everything = False,
    reason: Reason = None,
    tenant: Tenant = None,
    collection: Collection = None,
    json: Json = False,
) -> None:
    """Delete dead letters for good."""
    configure_logging(logging.WARNING)
    wanted = LetterFilter(frozenset(doc_ids or ()), tenant, reason, collection)
    run_command(partial(_purge, wanted, everything, json))


async def _list(wanted: LetterFilter, as_json: bool, settings: Settings) -> ExitCode:
    async with _found(settings, wanted) as (_, found):
        letters = sorted((stored.letter for stored in found), key=lambda x: -x.buried_ms)
    if as_json:
        print_json({"dead_letters": [_as_json(letter) for letter in letters]})
    else:
        for letter in letters:
            line(f"{letter.buried}  {letter.doc_id}: {letter.reason}")
        line(f"{len(letters)} dead letters")
    return ExitCode.OK


async def _show(wanted: LetterFilter, as_json: bool, settings: Settings) -> ExitCode:
    async with _found(settings, wanted) as (_, found):
        letters = [_as_json(s.letter) | _content(s.letter) for s in found]
    if as_json:
        print_json({"dead_letters": letters})
    else:
        for letter in letters:
            for name, value in letter.items():
                for part in str(value).splitlines():
                    line(f"{name:<10}  {part}")
    return ExitCode.OK


async def _requeue(
    wanted: LetterFilter, everything: bool, as_json: bool, settings: Settings
) -> ExitCode:
    _check_choice(wanted, everything)
    submission = new_submission()
    async with _found(settings, wanted) as (letters, found):
        count = await letters.requeue(found, submission)
    if as_json:
        print_json({"requeued": count, "submission": submission})
    else:
        line(f"{count} requeued as submission {submission}")
    return ExitCode.OK


async def _purge(
    wanted: LetterFilter, everything: bool, as_json: bool, settings: Settings
) -> ExitCode:
    _check_choice(wanted, everything)
    async with _found(settings, wanted) as (letters, found):
        count = await letters.purge(found)
    if as_json:
        print_json({"purged": count})
    else:
        line(f"{count} purged")
    return ExitCode.OK


def _check_choice(wanted: LetterFilter, everything: bool) -> None:
    """Raise UsageError unless the user said which letters are meant: some, or else all."""
    if everything == (wanted != LetterFilter()):
        raise UsageError(
            "name documents, or give --reason, --tenant or --collection, or else --all"
        )


@asynccontextmanager
async def _found(
    settings: Settings, wanted: LetterFilter
) -> AsyncIterator[tuple[DeadLetters, list[StoredLetter]]]:
    """The dead letters, and those that are wanted. Raises UsageError if a named one is missing."""
    async with open_broker(settings) as broker:
        letters = broker.letters
        found = [stored async for stored in letters.find(wanted)]
        missing = wanted.doc_ids - {stored.letter.doc_id for stored in found}
        if missing:
            names = ", ".join(sorted(missing))
            raise UsageError(f"no dead letter is about {names}; see `ingestq dead list`")
        yield letters, found


def _as_json(letter: DeadLetter) -> dict[str, Any]:
    return {
        "doc_id": letter.doc_id,
        "tenant": letter.tenant,
        "collection": letter.collection,
        "reason": letter.reason,
        "tries": letter.tries,
        "buried": letter.buried,
        "submission": letter.submission,
    }


def _content(letter: DeadLetter) -> dict[str, Any]:
    """What the letter holds: the document, or how many bytes that nobody can read."""
    try:
        job = decode_job(letter.payload)
    except ContractError:
        return {"payload": f"{len(letter.payload)} bytes that are no job of a known version"}
    if job.known_batch is None or len(job.known_batch.documents) != 1:
        whole = f"a job of the function {job.function!r} with {letter.documents} documents"
        return {"payload": whole, "traceback": letter.traceback}
    [document] = job.known_batch.documents
    if isinstance(document, Deletion):
        return {"version": document.version, "deletion": True, "traceback": letter.traceback}
    if isinstance(document, Sweep):
        return {"version": document.version, "sweep": True, "traceback": letter.traceback}
    return {
        "version": document.version,
        "source": document.source,
        "media_type": document.media_type,
        "metadata": document.metadata,
        "content": _excerpt(document),
        "traceback": letter.traceback,
    }


def _excerpt(document: Document) -> str:
    if document.spooled is not None:
        return f"{document.spooled} in the spool"
    if document.text is None:
        return f"the file {document.path}"
    return document.text[:EXCERPT_CHARACTERS]
