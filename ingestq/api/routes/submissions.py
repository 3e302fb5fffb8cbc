"""``GET /submissions/{id}``: the progress of accepted documents."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated, Final

import structlog
from fastapi import APIRouter, HTTPException, Path
from pydantic import BaseModel
from sse_starlette import EventSourceResponse, ServerSentEvent

from ingestq.api.authenticator import Authenticator
from ingestq.api.errors import Answers, problems
from ingestq.api.parameters import Caller
from ingestq.api.schemas import Problem, Progress, Submission
from ingestq.api.streams import EventStreams
from ingestq.broker.queue.job_queue import PROGRESS_POLL_SECONDS
from ingestq.client.client import IngestClient
from ingestq.core import events
from ingestq.core.errors import ServiceUnavailable, UsageError
from ingestq.core.limits import NAME_BYTES
from ingestq.core.results import SubmissionStatus
from ingestq.core.service import happens_within
from ingestq.core.tokens import Principal
from ingestq.core.urls import without_secrets

log = structlog.get_logger()

SubmissionId = Annotated[str, Path(max_length=NAME_BYTES)]


def submission_routes(
    client: IngestClient,
    heartbeat_seconds: float,
    stopping: asyncio.Event,
    authenticator: Authenticator,
    streams: EventStreams,
) -> APIRouter:
    """Return the routes that follow submissions.

    Event streams end once ``stopping`` is set, and soon after the token of their caller is not
    valid any more.
    """
    router = APIRouter(tags=["submissions"])

    # 422 replaces the one that FastAPI documents for the parameter.
    @router.get("/submissions/{submission}", responses=problems(404, 422, 503))
    async def follow(submission: SubmissionId, caller: Caller) -> Submission:
        """Show the progress of a submission. It is known for a week after its last change."""
        status = await _known(client, submission, caller)
        return await _answer(client, submission, status)

    @router.get(
        "/submissions/{submission}/events",
        response_class=EventSourceResponse,
        responses=STREAM | problems(404, 422, 429, 503),
    )
    async def stream(submission: SubmissionId, caller: Caller) -> EventSourceResponse:
        """Follow a submission by server-sent events: `progress` now and after each change, then
        `complete` with what `GET /submissions/{submission}` returns. Close the connection then.
        The event `error` says why the stream ends early.
        """
        status = await _known(client, submission, caller)

        async def follow_on() -> SubmissionStatus:
            await authenticator.check(caller)
            return await _known(client, submission, caller)

        progress = _events(client, submission, status, stopping, follow_on)
        return streams.response(progress, heartbeat_seconds)

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


async def _known(client: IngestClient, submission: str, caller: Principal) -> SubmissionStatus:
    status = await client.status(submission)
    if status.accepted == 0 or not may_follow(caller, status):
        raise HTTPException(404, f"there is no submission {submission!r}")
    return status


def may_follow(principal: Principal, status: SubmissionStatus) -> bool:
    """Return whether all documents of a submission exist for ``principal``."""
    return principal.tenant in (None, status.tenant) and (
        principal.collections is None or status.collections <= principal.collections
    )


async def _answer(client: IngestClient, submission: str, status: SubmissionStatus) -> Submission:
    listed = {
        "dead_letters": await client.failed_documents(submission),
        "warnings": await client.warnings(submission),
    }
    return Submission.model_validate({"submission": submission, **status.as_json(), **listed})


async def _events(
    client: IngestClient,
    submission: str,
    status: SubmissionStatus,
    stopping: asyncio.Event,
    follow_on: Callable[[], Awaitable[SubmissionStatus]],
) -> AsyncIterator[ServerSentEvent]:
    try:
        while not (status.complete or stopping.is_set()):
            progress = {"submission": submission, **status.as_json()}
            yield _event("progress", Progress.model_validate(progress))
            seen = status
            while status == seen and not stopping.is_set():
                await happens_within(stopping, PROGRESS_POLL_SECONDS)
                status = await follow_on()
        if status.complete:
            yield _event("complete", await _answer(client, submission, status))
    except (ServiceUnavailable, UsageError) as error:  # clients reconnect
        said = without_secrets(str(error))
        log.warning(events.API_STREAM_ENDED, submission=submission, error=said)
        yield _event("error", Problem(detail=said))
    except HTTPException as error:  # the token was revoked, or documents of others were added
        yield _event("error", Problem(detail=error.detail))


def _event(name: str, answer: BaseModel) -> ServerSentEvent:
    return ServerSentEvent(event=name, data=answer.model_dump_json())
