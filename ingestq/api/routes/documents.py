"""``/documents``: queue documents and deletions, and show what is indexed."""

import asyncio
from contextlib import aclosing
from typing import Annotated, Any, Final, Protocol

from fastapi import APIRouter, Depends, Header, HTTPException, Path, Query, Request

from ingestq.api.authenticator import Authenticator
from ingestq.api.bodies.documents import Rejections, check_version, decode, parse, schema
from ingestq.api.bodies.forms import read_form, uploads_of
from ingestq.api.bodies.forms import schema as form_schema
from ingestq.api.bodies.intake import Intake
from ingestq.api.errors import problems
from ingestq.api.parameters import DOC_ID, Caller, Collections
from ingestq.api.routes.dead_letters import Tenant, may_see
from ingestq.api.schemas import Accepted, AcceptedLines, DocumentState
from ingestq.broker.queue.dead_letters import DeadLetters
from ingestq.client.client import IngestClient
from ingestq.core.documents import MAX_VERSION
from ingestq.core.errors import KeyReused
from ingestq.core.results import Receipt
from ingestq.core.tokens import Principal
from ingestq.core.versions import is_issued

JSON: Final = "application/json"
FORM: Final = "multipart/form-data"
JSON_LINES: Final = ("application/x-ndjson", "application/jsonl")

IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=255,
        description="Repeating a request with the same key within a day returns the same receipt "
        "and queues nothing.",
    ),
]


def _body(content: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the request body for openapi.json: a schema for each media type."""
    return {"requestBody": {"required": True, "content": content}}


def document_routes(
    client: IngestClient,
    intake: Intake,
    full_seconds: float,
    collections: Collections,
    authenticator: Authenticator,
) -> APIRouter:
    """Return the routes that queue documents with ``client``, for one of ``collections``.

    A batch waits up to ``full_seconds`` while the queue is full. A body may take long to arrive, so
    ``authenticator`` is asked again before anything is queued.
    """
    router = APIRouter(tags=["documents"])

    @router.post(
        "/documents",
        status_code=202,
        responses=problems(408, 413, 415, 422, 429, 503),
        openapi_extra=_body(
            {JSON: {"schema": schema(collections)}, FORM: {"schema": form_schema(collections)}}
        ),
    )
    async def add(
        request: Request, caller: Caller, idempotency_key: IdempotencyKey = None
    ) -> Accepted:
        """Queue a document, or the files of a form: all of them, or none.

        The response is sent once the document is on disk in Redis, and large content in the blob
        store. Sending the same document again is a new submission, unless it has the same
        Idempotency-Key; the worker skips what did not change.
        """
        try:
            if _require(request, JSON, FORM) == FORM:
                receipt = await take_files(request, caller, idempotency_key)
            else:
                receipt = await take_text(request, caller, idempotency_key)
        except (KeyReused, ValueError) as error:
            raise HTTPException(422, str(error)) from error
        return Accepted.model_validate(receipt)

    async def take_text(
        request: Request, caller: Principal, idempotency_key: str | None
    ) -> Receipt:
        async with intake.body(request) as body:
            document, metadata = decode(body)
            await authenticator.check(caller)
            await _check_version(client, document.version)
            collection = collections.seen_by(caller).named(document.collection)
            return await client.submit(
                document.doc_id,
                text=document.text,
                source=document.doc_id if document.source is None else document.source,
                tenant=caller.tenant_of(document.tenant) or "",
                collection=collection,
                version=document.version,
                media_type=document.media_type,
                metadata=metadata,
                idempotency_key=_key_of(caller, collection, idempotency_key),
            )

    async def take_files(
        request: Request, caller: Principal, idempotency_key: str | None
    ) -> Receipt:
        async with client.blob_writer() as writing, aclosing(intake.form(request)) as events:
            form = await read_form(events, writing, intake.max_body_bytes)
            uploads = uploads_of(form, collections.seen_by(caller), caller)
            await authenticator.check(caller)
            await _check_version(client, uploads[0].version)
            key = _key_of(caller, uploads[0].collection, idempotency_key)
            return await client.submit_uploads(uploads, writing, idempotency_key=key)

    @router.post(
        "/documents:batch",
        status_code=202,
        responses=problems(408, 415, 422, 429, 503),
        openapi_extra=_body(
            {kind: {} for kind in JSON_LINES}
        ),  # JSON Schema cannot describe JSON Lines
    )
    async def add_many(request: Request, caller: Caller) -> AcceptedLines:
        """Queue many documents: JSON Lines, each line a body of `POST /documents`.

        They are queued in the bulk lane as they arrive, and the connection is read no faster.
        Invalid lines are skipped and counted, and the first of them listed. After any other error,
        some of the documents may be queued; it is safe to send them all again.
        """
        _require(request, *JSON_LINES)
        rejections = Rejections()

        async def issue_version() -> int:
            await authenticator.check(caller)
            return await client.issue_version()

        seen = collections.seen_by(caller)
        async with aclosing(intake.lines(request)) as lines:
            receipt = await client.submit_many(
                parse(lines, issue_version, rejections, seen, caller), patience=full_seconds
            )
        return AcceptedLines(
            submission=receipt.submission,
            accepted=receipt.accepted,
            duplicates=receipt.duplicates,
            rejected=rejections.total,
            rejected_lines=rejections.listed,
        )

    @router.delete(f"/documents/{DOC_ID}", status_code=202, responses=problems(422, 429, 503))
    async def remove(
        doc_id: Annotated[str, Path(min_length=1)],
        tenant: Tenant = None,
        version: Annotated[
            int | None,
            Query(
                ge=1, le=MAX_VERSION, description="Delete this version of your own and older ones."
            ),
        ] = None,
        *,
        collection: Annotated[str, Depends(collections.parameter)],
        caller: Caller,
    ) -> Accepted:
        """Queue the deletion of a document, of what is there unless a version is named.

        Neither that version nor an older one brings it back.
        """
        owner = caller.tenant_of(tenant) or ""
        try:
            await _check_version(client, version)
            receipt = await client.delete(
                doc_id, tenant=owner, version=version, any_form=True, collection=collection
            )
        except ValueError as error:
            raise HTTPException(422, str(error)) from error
        return Accepted.model_validate(receipt)

    return router


async def _check_version(client: IngestClient, sent: int | None) -> None:
    if sent is not None and is_issued(sent):
        check_version(sent, await client.issue_version())


def _key_of(caller: Principal, collection: str, sent: str | None) -> str | None:
    """Return the idempotency key to remember: callers of some collections have keys of their own.

    No header has a line break, so such a key is never that of another caller.
    """
    if sent is None or caller.collections is None:
        return sent
    return f"{sent}\n\n{collection}"


def _require(request: Request, *media_types: str) -> str:
    """Return the Content-Type if it is one of ``media_types``; raise HTTPException 415 otherwise.

    A browser lets any page send forms and plain text to this server without a preflight request.
    """
    sent = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if sent not in media_types:
        raise HTTPException(
            415, f"send the header Content-Type: {media_types[0]} and a body of that type"
        )
    return sent


class Index(Protocol):
    """Returns what is indexed of a document: an object with the fields of `IndexedState`.

    The id may be typed in any of Unicode's normal forms. None if it was never indexed. Raises
    StoreUnavailable.
    """

    async def __call__(self, tenant: str, doc_id: str, collection: str) -> object | None: ...


def index_routes(index: Index, dead_letters: DeadLetters, collections: Collections) -> APIRouter:
    """Return the route that shows a document's state in ``index`` and its last error."""
    router = APIRouter(tags=["documents"])

    @router.get(f"/documents/{DOC_ID}", responses=problems(404, 422, 503))
    async def state(
        doc_id: Annotated[str, Path(min_length=1)],
        tenant: Tenant = None,
        *,
        collection: Annotated[str, Depends(collections.parameter)],
        caller: Caller,
    ) -> DocumentState:
        """Show what is indexed of a document, and why its last version failed, if it did.

        A document that is queued for the first time is not known yet.
        """
        owner = caller.tenant_of(tenant) or ""
        indexed, stored = await asyncio.gather(
            index(owner, doc_id, collection),
            dead_letters.find_any_form(collection, owner, doc_id),
        )
        if stored is not None and not may_see(caller, stored.dead_letter.key):
            stored = None
        if indexed is None and stored is None:
            raise HTTPException(
                404, f"document {doc_id!r} is not indexed, and it has no dead letter"
            )
        return DocumentState.model_validate(
            {
                "doc_id": doc_id,
                "tenant": owner,
                "collection": collection,
                "indexed": indexed,
                "last_error": None if stored is None else stored.dead_letter.reason,
            }
        )

    return router
