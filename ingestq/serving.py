"""The HTTP API as a part of a process."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog

from broker import events
from broker.errors import UsageError
from ingestq.parts import Part
from ingestq.runtime import Broker
from ingestq.searching import Searching
from ingestq.settings import Settings
from producers.client import IngestClient

if TYPE_CHECKING:
    from socket import socket

    from worker.qdrant import Qdrant

LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})

log = structlog.get_logger()


@asynccontextmanager
async def listening(settings: Settings) -> "AsyncIterator[socket]":
    """Listen where the API is to be, before anything else is begun.

    Raises UsageError if that is not possible, or anybody on the network could use it.
    """
    from producers.api.server import listen

    if settings.api_token is None and settings.api_host not in LOOPBACK:
        raise UsageError(
            f"INGESTQ_API_HOST is {settings.api_host!r} and INGESTQ_API_TOKEN is not set: anybody "
            "who reaches this host could queue documents; set a token, or listen on 127.0.0.1"
        )
    with await listen(settings.api_host, settings.api_port) as listener:
        yield listener


@asynccontextmanager
async def open_api(
    settings: Settings, broker: Broker, listener: "socket", qdrant: "Qdrant | None" = None
) -> AsyncIterator[Part]:
    """Open everything the API needs; what it searches is ``qdrant``, if that is open already."""
    from producers.api.app import ApiConfig, create_app
    from producers.api.server import Server, url_of

    async with Searching(settings, qdrant) as search:
        client = IngestClient(broker.queue)
        app = create_app(client, ApiConfig(settings.max_document_bytes, settings.api_token), search)
        server = Server(app, settings.drain_seconds)
        log.info(events.API_STARTED, url=url_of(listener), token=settings.api_token is not None)
        yield Part(partial(server.serve, [listener]), server.stop)
