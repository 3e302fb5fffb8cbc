"""``POST /mcp``: the tools of `ingestq.api.mcp` by MCP's streamable HTTP, without sessions.

https://modelcontextprotocol.io/specification describes the transport. Every request stands for
itself: there is no state to keep, and it does not matter which process of several answers.
"""

import asyncio
from collections import deque
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from fastapi import FastAPI, HTTPException, Request
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from ingestq.api.authenticator import principal_of
from ingestq.api.bodies.intake import Intake
from ingestq.api.parameters import Collections
from ingestq.core.tokens import Principal, Right

if TYPE_CHECKING:
    from mcp.server.lowlevel import Server

MCP: Final = "/mcp"
HELD_BODIES: Final = 1
"""How many bodies of the maximum size are held at once; those of `FREE_BYTES` come on top."""
FREE_BYTES: Final = 64 * 1024
"""A larger body has a document in it."""
READER_BYTES: Final = 1024 * 1024
"""The size of a body whose sender may write no documents."""


def mcp_route(app: FastAPI, intake: Intake, collections: Collections) -> Route:
    """Return the route whose tools call the other routes of ``app``."""
    return Route(MCP, _Endpoint(app, intake, collections), methods=["POST"])


class _Endpoint:
    """An ASGI application that answers one message of the protocol."""

    def __init__(self, app: FastAPI, intake: Intake, collections: Collections) -> None:
        self._app = app
        self._intake = intake
        self._collections = collections

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        await _load()
        principal = principal_of(scope)
        limit = None if principal.may(Right.WRITE) else READER_BYTES
        async with self._intake.body(request, limit) as body:
            server = await self._server(principal)
            from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

            manager = StreamableHTTPSessionManager(
                server,
                json_response=True,
                stateless=True,
                # The intake has read the body, and the API's own middleware has checked Host and
                # Origin.
                max_request_body_size=self._intake.max_body_bytes,
            )
            async with manager.run():
                await manager.handle_request(scope, _replay(bytes(body), receive), send)

    async def _server(self, principal: Principal) -> "Server[Any]":
        from ingestq.api.mcp import Routes, api_tools, make_server

        openapi = await asyncio.to_thread(self._app.openapi)
        return make_server(api_tools(openapi, self._collections, Routes(self._app, principal)))


async def _load() -> None:
    """Import the tools, in a thread: that would block the event loop for too long."""
    try:
        await asyncio.to_thread(import_module, "ingestq.api.mcp")
    except ModuleNotFoundError as error:
        raise HTTPException(
            501,
            f"this server needs the package {error.name!r} for MCP, which is not installed; run: "
            "pip install 'ingestq[mcp]'",
        ) from error


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a function that receives ``body``, and then what ``receive`` receives."""
    messages: deque[Message] = deque([{"type": "http.request", "body": body, "more_body": False}])

    async def replayed() -> Message:
        return messages.popleft() if messages else await receive()

    return replayed
