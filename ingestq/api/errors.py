"""Turns errors into responses. Every error has the same body: `Problem`."""

import math
from collections.abc import Mapping
from typing import Any, Final

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match

from ingestq.api.schemas import Problem
from ingestq.core import events
from ingestq.core.errors import (
    NotPermitted,
    QueueFull,
    ServiceUnavailable,
    UploadExpired,
    UsageError,
)
from ingestq.core.log_limit import LogLimit
from ingestq.core.outages import note_failure
from ingestq.core.urls import without_secrets

DESCRIPTIONS: Final = {
    401: "The bearer token is missing, wrong, revoked or has expired.",
    403: "The token does not allow it, a page of another site sent the request, or Host does not "
    "name this machine.",
    404: "It does not exist.",
    408: "The client stopped or was too slow in the middle of the body, or took hours.",
    409: "It was changed at the same moment.",
    413: "The body, or a file of a form, is larger than the server accepts.",
    415: "The Content-Type is not one that this route accepts.",
    422: "The request is invalid; the detail names the field.",
    429: "The queue is full, too many uploads run or event streams are open, the token has sent as "
    "many requests as it may, or too many wrong tokens were sent: try again after Retry-After "
    "seconds.",
    503: "Redis or the blob store is unavailable, or Qdrant for a search. The request may or may "
    "not have been queued; it is safe to send it again.",
}

LOGGED_PATH_CHARACTERS: Final = 200

log = structlog.get_logger()
_refusals = LogLimit()


Answers = dict[int | str, dict[str, Any]]
"""The responses of a route, for openapi.json."""


def problems(*statuses: int) -> Answers:
    """Return the error responses of a route, for openapi.json."""
    return {status: {"model": Problem, "description": DESCRIPTIONS[status]} for status in statuses}


def problem_response(
    status: int, detail: str, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """Return an error response with this ``detail``, in which URLs are shown without secrets."""
    return JSONResponse(Problem(detail=without_secrets(detail)).model_dump(), status, headers)


def handle_errors(app: FastAPI) -> None:
    """Make ``app`` answer every error with a `Problem`; unexpected errors are logged as well."""
    for kind in (
        HTTPException,
        RequestValidationError,
        NotPermitted,
        QueueFull,
        UploadExpired,
        ServiceUnavailable,
        UsageError,
        ClientDisconnect,
        Exception,
    ):
        app.add_exception_handler(kind, _answer)


async def _answer(request: Request, error: Exception) -> JSONResponse:
    match error:
        case HTTPException(status_code=405):
            return problem_response(405, str(error.detail), {"Allow": ", ".join(_allowed(request))})
        case HTTPException():
            return problem_response(error.status_code, str(error.detail), error.headers)
        case RequestValidationError():
            return problem_response(422, "; ".join(_explain(wrong) for wrong in error.errors()))
        case NotPermitted():
            return problem_response(403, str(error))
        case QueueFull():
            return problem_response(429, str(error), retry_after(error.retry_after))
        case UploadExpired():
            return problem_response(408, str(error))
        case ServiceUnavailable() | UsageError():  # UsageError: Redis refuses our credentials
            log_unavailable(request.url.path, error)
            return problem_response(503, str(error))
        case ClientDisconnect():
            return problem_response(400, "the client disconnected")  # nobody will read it
        case _:
            return problem_response(500, "internal error; see the log of the server")


def log_unavailable(path: str, error: Exception) -> None:
    """Log that a request was refused because of ``error``; anybody may repeat it without limit."""
    if isinstance(error, ServiceUnavailable):
        note_failure(error)
    elif (skipped := _refusals.skipped()) is not None:
        shown = path[:LOGGED_PATH_CHARACTERS]
        said = without_secrets(str(error))
        log.warning(events.API_REFUSED, path=shown, error=said, skipped=skipped)


def _allowed(request: Request) -> list[str]:
    """Return the methods of all routes with this path; the router itself stops at the first."""
    app: FastAPI = request.app
    return [
        method
        for method in ("DELETE", "GET", "HEAD", "POST")
        if any(
            route.matches({**request.scope, "method": method})[0] is Match.FULL
            for route in app.routes
        )
    ]


def retry_after(seconds: float) -> dict[str, str]:
    """Return the header Retry-After; HTTP allows whole seconds only."""
    return {"Retry-After": str(max(1, math.ceil(seconds)))}


def _explain(wrong: Mapping[str, Any]) -> str:
    return f"{'.'.join(str(part) for part in wrong['loc'])}: {wrong['msg']}"
