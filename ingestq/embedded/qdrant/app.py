"""The HTTP interface: Qdrant's routes, envelopes and statuses."""

import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import msgspec
import structlog
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from ingestq.core import events
from ingestq.embedded.qdrant import queries, updates
from ingestq.embedded.qdrant.aliases import ChangeAliases
from ingestq.embedded.qdrant.collections import OpenCollections
from ingestq.embedded.qdrant.errors import Refused, malformed, not_found, unsupported
from ingestq.embedded.qdrant.filters import PointId
from ingestq.embedded.qdrant.schema import CreateCollection, FieldIndex, UpdateCollection

log = structlog.get_logger()

VERSION: Final = {
    "title": "qdrant - vector search engine, bundled with ingestq",
    "version": "1.18.0",
}
"""The version whose interface this follows."""
LARGEST_BODY: Final = 32 * 1024 * 1024
NUMBER: Final = re.compile("[0-9]{1,20}")
"""An id of a point that is a number."""
PIECE_BYTES: Final = 1024 * 1024
"""More of an answer is sent piece by piece."""
COMPLETED: Final = {"operation_id": 0, "status": "completed"}

Answer = Callable[[Request, Any], Awaitable[Any]]


def create_app(collections: OpenCollections) -> Starlette:
    """Return the application that serves ``collections``."""
    api = _Api(collections)
    one, points = "/collections/{name}", "/collections/{name}/points"
    return Starlette(
        routes=[
            Route("/", _version),
            *(Route(path, _ready) for path in ("/readyz", "/healthz", "/livez")),
            _route("GET /aliases", api.aliases),
            _route("GET /collections", api.list),
            _route("POST /collections/aliases", api.change_aliases, ChangeAliases),
            _route(f"GET {one}", api.describe),
            _route(f"PUT {one}", api.create, CreateCollection),
            _route(f"PATCH {one}", api.update, UpdateCollection),
            _route(f"DELETE {one}", api.delete),
            _route(f"GET {one}/exists", api.exists),
            _route(f"GET {one}/aliases", api.aliases),
            _route(f"PUT {one}/index", api.create_index, FieldIndex),
            _route(f"DELETE {one}/index/{{field:path}}", api.delete_index),
            _route(f"PUT {points}", api.write, updates.Upsert),
            _route(f"POST {points}", _reading(api, queries.retrieve), queries.RetrieveRequest),
            _route(f"POST {points}/batch", api.write_batch, updates.Batch),
            _route(f"POST {points}/delete", api.write, updates.Delete),
            _route(f"POST {points}/payload", api.write, updates.SetPayload),
            _route(f"PUT {points}/payload", api.write, updates.OverwritePayload),
            _route(f"POST {points}/payload/delete", api.write, updates.DeletePayload),
            _route(f"POST {points}/payload/clear", api.write, updates.ClearPayload),
            _route(f"PUT {points}/vectors", api.write, updates.UpdateVectors),
            _route(f"POST {points}/vectors/delete", api.write, updates.DeleteVectors),
            _route(f"POST {points}/scroll", _reading(api, queries.scroll), queries.ScrollRequest),
            _route(f"POST {points}/count", _reading(api, queries.count), queries.CountRequest),
            _route(f"POST {points}/query", _reading(api, queries.query), queries.QueryRequest),
            _route(f"POST {points}/query/batch", api.query_batch, queries.QueryBatch),
            _route(f"POST {one}/facet", _reading(api, queries.facet), queries.FacetRequest),
            _route(f"GET {points}/{{id}}", api.point),
        ],
        exception_handlers={404: _unknown, 405: _unknown},
    )


def _route(where: str, answer: Answer, body: Any = None) -> Route:
    """Return the route ``where`` ("METHOD /path"), which answers with the result of ``answer``."""
    decoder = None if body is None else msgspec.json.Decoder(body)

    async def respond(request: Request) -> Response:
        began = time.perf_counter()
        try:
            content = await _body(request)
            try:
                wanted = None if decoder is None else decoder.decode(content)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                raise malformed(str(error)) from error
            result = await answer(request, wanted)
        except RecursionError as error:
            return _refusal(malformed(str(error)), began)
        except Refused as error:
            if error.status >= 500 and error.status != 501:
                log.error(
                    events.ENGINE_REQUEST_FAILED,
                    method=request.method,
                    path=request.url.path,
                    error=str(error),
                )
            return _refusal(error, began)
        answered = {"result": result, "status": "ok", "time": time.perf_counter() - began}
        return _large(answered) or _json(answered)

    method, path = where.split()
    return Route(path, respond, methods=[method])


async def _body(request: Request) -> bytes:
    """Return the body, which is read to its end even if it is too large: the client still sends."""
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size <= LARGEST_BODY:
            chunks.append(chunk)
        else:
            chunks.clear()
    if size > LARGEST_BODY:
        text = f"JSON payload ({size} bytes) is larger than allowed"
        raise Refused(400, f"{text} (limit: {LARGEST_BODY} bytes).")
    return b"".join(chunks)


class _Api:
    def __init__(self, collections: OpenCollections) -> None:
        self.collections = collections

    async def list(self, request: Request, _: None) -> Any:
        return {"collections": [{"name": name} for name in self.collections.names()]}

    async def aliases(self, request: Request, _: None) -> Any:
        return {"aliases": self.collections.aliases(request.path_params.get("name"))}

    async def change_aliases(self, request: Request, wanted: ChangeAliases) -> Any:
        return await self.collections.change_aliases(wanted)

    async def describe(self, request: Request, _: None) -> Any:
        return await self.collections.describe(_name(request))

    async def exists(self, request: Request, _: None) -> Any:
        return {"exists": self.collections.exists(_name(request))}

    async def create(self, request: Request, wanted: CreateCollection) -> Any:
        return await self.collections.create(_name(request), wanted)

    async def update(self, request: Request, wanted: UpdateCollection) -> Any:
        return await self.collections.update(_name(request), wanted)

    async def delete(self, request: Request, _: None) -> Any:
        return await self.collections.delete(_name(request))

    async def create_index(self, request: Request, wanted: FieldIndex) -> Any:
        await self.collections.create_index(_name(request), wanted)
        return COMPLETED

    async def delete_index(self, request: Request, _: None) -> Any:
        await self.collections.delete_index(_name(request), request.path_params["field"])
        return COMPLETED

    async def write(self, request: Request, wanted: updates.Update) -> Any:
        is_durable = request.query_params.get("wait") == "true"
        await self.collections.write(_name(request), wanted, is_durable=is_durable)
        return COMPLETED if is_durable else {**COMPLETED, "status": "acknowledged"}

    async def write_batch(self, request: Request, wanted: updates.Batch) -> Any:
        answer = await self.write(request, wanted)
        return [answer] * len(wanted.operations)

    async def query_batch(self, request: Request, wanted: queries.QueryBatch) -> Any:
        return [
            await self.collections.read(_name(request), queries.query, search)
            for search in wanted.searches
        ]

    async def point(self, request: Request, _: None) -> Any:
        given = request.path_params["id"]
        id_: PointId = int(given) if NUMBER.fullmatch(given) else given
        wanted = queries.RetrieveRequest(ids=[id_], with_payload=True, with_vector=True)
        points = await self.collections.read(_name(request), queries.retrieve, wanted)
        if not points:
            raise not_found(f"Point with id {given} does not exists!")
        return points[0]


def _reading(api: _Api, read: Callable[..., Any]) -> Answer:
    async def answer(request: Request, wanted: Any) -> Any:
        return await api.collections.read(_name(request), read, wanted)

    return answer


def _name(request: Request) -> str:
    name: str = request.path_params["name"]
    return name


def _large(content: dict[str, Any]) -> Response | None:
    """Return a response that joins the points of a large answer while it is sent; None for others.

    Joined at once, they would let no other request be served.
    """
    result = content["result"]
    points = result.get("points") if isinstance(result, dict) else result
    if not isinstance(points, list) or sum(map(_size, points)) <= PIECE_BYTES:
        return None
    emptied = {**result, "points": []} if isinstance(result, dict) else []
    # The result comes first, and the list of points is the first in it.
    head, tail = msgspec.json.encode({**content, "result": emptied}).split(b"[]", 1)

    async def pieces() -> AsyncIterator[bytes]:
        yield head + b"["
        piece: list[Any] = []
        size = 0
        for number, point in enumerate(points):
            piece += (b",", point) if number else (point,)
            size += _size(point)
            if size > PIECE_BYTES:
                yield b"".join(piece)
                piece, size = [], 0
        yield b"".join((*piece, b"]", tail))

    return StreamingResponse(pieces(), media_type="application/json")


def _size(point: Any) -> int:
    """Return the bytes of an encoded point; 0 for anything else in an answer."""
    return memoryview(point).nbytes if isinstance(point, msgspec.Raw) else 0


def _json(content: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(content), status, media_type="application/json")


def _refusal(error: Refused, began: float) -> Response:
    content = {"status": {"error": str(error)}, "time": time.perf_counter() - began}
    return _json(content, error.status)


async def _version(request: Request) -> Response:
    return _json(VERSION)


async def _ready(request: Request) -> Response:
    return PlainTextResponse("all shards are ready")


async def _unknown(request: Request, error: Exception) -> Response:
    return _refusal(unsupported(f"{request.method} {request.url.path}"), time.perf_counter())
