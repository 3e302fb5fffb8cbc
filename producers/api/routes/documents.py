"""``POST /documents``: put a document on the queue."""

from fastapi import APIRouter, HTTPException, Request

from producers.api.answers import Accepted
from producers.api.errors import problems
from producers.api.intake import Intake
from producers.api.new_document import SCHEMA, decode
from producers.client import IngestClient


def document_routes(client: IngestClient, intake: Intake) -> APIRouter:
    """The routes that put documents on the queue of ``client``."""
    router = APIRouter(tags=["documents"])

    @router.post(
        "/documents",
        status_code=202,
        responses=problems(408, 413, 415, 422, 429, 503),
        openapi_extra={
            "requestBody": {"required": True, "content": {"application/json": {"schema": SCHEMA}}}
        },
    )
    async def add(request: Request) -> Accepted:
        """Put a document on the queue.

        The answer is sent once the document is on disk in Redis. A second request with the same
        document is a new submission; if nothing changed, the worker notices that.
        """
        _require_json(request)
        async with intake.body(request) as body:
            try:
                document, metadata = decode(body)
            except ValueError as error:
                raise HTTPException(422, str(error)) from error
            receipt = await client.submit(
                document.doc_id,
                text=document.text,
                source=document.doc_id if document.source is None else document.source,
                tenant=document.tenant,
                version=document.version,
                media_type=document.media_type,
                metadata=metadata,
            )
        return Accepted.model_validate(receipt)

    return router


def _require_json(request: Request) -> None:
    """A browser lets any page send anything but JSON to this server without asking it first."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise HTTPException(415, "send JSON, with the header Content-Type: application/json")
