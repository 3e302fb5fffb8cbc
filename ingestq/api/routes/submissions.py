"""``GET /submissions/{id}``: the progress of accepted documents."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Final

import structlog
from fastapi import APIRouter, HTTPException, Path
from pydantic import BaseModel
from sse_starlette import EventSourceResponse, ServerSentEvent

from ingestq.api.errors import Answers, problems
from ingestq.api.schemas import Problem, Progress, Submission
from ingestq.broker.queue.job_queue import PROGRESS_POLL_SECONDS
from ingestq.client.client import IngestClient
from ingestq.core import events
from ingestq.core.errors import ServiceUnavailable, UsageError
from ingestq.core.limits import NAME_BYTES
from ingestq.core.results import SubmissionStatus
from ingestq.core.service import happens_within
from ingestq.core.urls import without_secrets

log = structlog.get_logger()

SubmissionId = Annotated[str, Path(max_length=NAME_BYTES)]


def submission_routes(
    client: IngestClient, heartbeat_seconds: float, stopping: asyncio.Event
) -> APIRouter:
    """Return the routes that follow submissions; event streams end once ``stopping`` is set."""
    router = APIRouter(tags=["submissions"])

    # 422 replaces the one that FastAPI documents for the parameter.
    @router.get("/submissions/{submission}", responses=problems(404, 422, 503))
    async def follow(submission: SubmissionId) -> Submission:
        """Show the progress of a submission. It is known for a week after its last change."""
        status = await _known(client, submission)
        return await _answer(client, submission, status)

    @router.get(
        "/submissions/{submission}/events",
        response_class=EventSourceResponse,
        responses=STREAM | problems(404, 422, 503),
    )
    async def stream(submission: SubmissionId) -> EventSourceResponse:
        """Follow a submission by server-sent events: `progress` now and after each change, then
        `complete` with what `GET /submissions/{submission}` returns. Close the connection then.
        The event `error` says why the stream ends early.
        """
        status = await _known(client, submission)
        return EventSourceResponse(
            _events(client, submission, status, stopping), ping=heartbeat_seconds
        )

    return router


EVENT: Final = {
    "type": "object",
    "required": ["event", "data"],
    "properties": {
        "event": {"enum": ["progress", "complete", "error"]},
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
}
STREAM: Final[Answers] = {200: {"content": {"text/event-stream": {"itemSchema": EVENT}}}}
"""As OpenAPI 3.2 describes streams; earlier versions cannot."""


async def _known(client: IngestClient, submission: str) -> SubmissionStatus:
    status = await client.status(submission)
    if status.accepted == 0:
        raise HTTPException(404, f"there is no submission {submission!r}")
    return status


async def _answer(client: IngestClient, submission: str, status: SubmissionStatus) -> Submission:
    listed = {
        "dead_letters": await client.failed_documents(submission),
        "warnings": await client.warnings(submission),
    }
    return Submission.model_validate({"submission": submission, **status.as_json(), **listed})


async def _events(
    client: IngestClient, submission: str, status: SubmissionStatus, stopping: asyncio.Event
) -> AsyncIterator[ServerSentEvent]:
    try:
        while not (status.complete or stopping.is_set()):
            progress = {"submission": submission, **status.as_json()}
            yield _event("progress", Progress.model_validate(progress))
            seen = status
            while status == seen and not stopping.is_set():
                await happens_within(stopping, PROGRESS_POLL_SECONDS)
                status = await client.status(submission)
        if status.complete:
            yield _event("complete", await _answer(client, submission, status))
    except (ServiceUnavailable, UsageError) as error:  # clients reconnect
        said = without_secrets(str(error))
        log.warning(events.API_STREAM_ENDED, submission=submission, error=said)
        yield _event("error", Problem(detail=said))


def _event(name: str, answer: BaseModel) -> ServerSentEvent:
    return ServerSentEvent(event=name, data=answer.model_dump_json())
