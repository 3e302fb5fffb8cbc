"""The HTTP API: paths, bodies, envelopes and statuses of Qdrant 1.19."""

from functools import partial
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python
from qdrant_client import models
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from tests.qdrant_standin.answers import error_response, invalid_key
from tests.qdrant_standin.strict import Operation, Refused, StrictQdrant

VERSION: Final = {"title": "stand-in for qdrant", "version": "1.19.0"}
LARGEST_BODY: Final = 32 * 1024 * 1024


def create_app(api_key: str | None, largest_body: int) -> Starlette:
    """Return an empty server as an ASGI application."""
    route, qdrant = partial(_route, api_key, largest_body), StrictQdrant()
    one, points = "/collections/{name}", "/collections/{name}/points"
    return Starlette(
        routes=[
            Route("/", _version),
            Route("/readyz", _ready),
            route("GET /aliases", qdrant.aliases),
            route("GET /collections", qdrant.collections),
            route(
                "POST /collections/aliases", qdrant.change_aliases, models.ChangeAliasesOperation
            ),
            route(f"GET {one}", qdrant.collection),
            route(f"PUT {one}", qdrant.create, models.CreateCollection),
            route(f"PATCH {one}", qdrant.update, models.UpdateCollection),
            route(f"DELETE {one}", qdrant.delete_collection),
            route(f"GET {one}/exists", qdrant.exists),
            route(f"PUT {one}/index", qdrant.create_index, models.CreateFieldIndex, waits=True),
            route(f"PUT {points}", qdrant.upsert, models.PointInsertOperations, waits=True),
            route(f"POST {points}/batch", qdrant.batch, models.UpdateOperations, waits=True),
            route(f"POST {points}/delete", qdrant.delete_points, models.PointsSelector, waits=True),
            route(f"POST {points}/payload", qdrant.set_payload, models.SetPayload, waits=True),
            route(f"PUT {points}/payload", qdrant.overwrite_payload, models.SetPayload, waits=True),
            route(f"POST {points}", qdrant.retrieve, models.PointRequest),
            route(f"POST {points}/scroll", qdrant.scroll, models.ScrollRequest),
            route(f"POST {points}/count", qdrant.count, models.CountRequest),
            route(f"POST {points}/query", qdrant.query, models.QueryRequest),
        ],
        exception_handlers={404: _unknown, 405: _unknown},
    )


def _route(
    api_key: str | None,
    largest_body: int,
    where: str,
    operation: Operation,
    body: Any = None,
    *,
    waits: bool = False,
) -> Route:
    """Return the route ``where`` ("METHOD /path"), which calls ``operation`` with the parsed body.

    With ``waits``, requests without wait=true are refused: the stand-in would apply a write before
    the next read, which the server does not promise.
    """
    parser: TypeAdapter[Any] | None = None if body is None else TypeAdapter(body)

    async def answer(request: Request) -> Response:
        content = (
            await request.body()
        )  # even if it is refused: an unread body breaks the connection
        if api_key is not None and request.headers.get("api-key") != api_key:
            return invalid_key()
        if len(content) > largest_body:
            text = f"JSON payload ({len(content)} bytes) is larger than allowed"
            return error_response(400, f"{text} (limit: {largest_body} bytes).")
        if waits and request.query_params.get("wait") != "true":
            return error_response(501, "the stand-in takes no write without wait=true")
        try:
            wanted = None if parser is None else parser.validate_json(content, strict=True)
            result = operation(request.path_params.get("name", ""), wanted)
        except (Refused, ValueError, KeyError) as error:
            return _refusal(error)
        return JSONResponse({"result": to_jsonable_python(result), "status": "ok", "time": 0.0})

    method, path = where.split()
    return Route(path, answer, methods=[method])


def _refusal(error: Exception) -> Response:
    match error:
        case Refused():
            return error_response(error.status, str(error))
        case ValidationError():
            last = error.errors(include_url=False, include_input=False)[-1]
            where = ".".join(str(part) for part in last["loc"])
            return error_response(400, f"Format error in JSON body: {last['msg']} at {where}")
        case KeyError():
            return error_response(404, f"Not found: No point with id {error} found")
        case _:
            return error_response(400, f"Wrong input: {str(error).removeprefix('Wrong input: ')}")


async def _version(request: Request) -> Response:
    return JSONResponse(VERSION)


async def _ready(request: Request) -> Response:
    return PlainTextResponse("all shards are ready")


async def _unknown(request: Request, error: Exception) -> Response:
    return error_response(501, f"the stand-in does not know {request.method} {request.url.path}")
