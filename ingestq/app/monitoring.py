"""Serves what a process shows of itself on a port of its own."""

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import asynccontextmanager
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, TypeVar

import structlog

from ingestq.app.settings import Settings
from ingestq.core import events
from ingestq.core.health import HEALTH, LIVE, METRICS, READY, Health, HealthCheck
from ingestq.core.listener import listen, url_of
from ingestq.monitoring.health_checks import PROBE_SECONDS

if TYPE_CHECKING:
    from ingestq.monitoring.monitor import Monitor
    from ingestq.monitoring.server import Reply

log = structlog.get_logger()

T = TypeVar("T")

ANSWER_SECONDS: Final = 2 * PROBE_SECONDS
"""How long an answer waits for the event loop."""


@asynccontextmanager
async def open_monitor(settings: Settings) -> "AsyncIterator[Monitor | None]":
    """Serve metrics and health on INGESTQ_METRICS_PORT; yields None if that is not set.

    It listens before anything else is opened. Raises UsageError if it cannot.
    """
    if settings.metrics_port is None:
        yield None
        return
    from ingestq.monitoring.monitor import recorded
    from ingestq.monitoring.server import serving

    with await listen(settings.metrics_host, settings.metrics_port, "INGESTQ_METRICS") as listener:
        async with recorded() as monitor:
            loop = asyncio.get_running_loop()
            pages = {
                METRICS: partial(_metrics_page, monitor, loop),
                LIVE: partial(_live_page, monitor),
                HEALTH: partial(_live_page, monitor),
                READY: partial(_ready_page, monitor, loop),
            }
            with serving(listener, pages):
                log.info(events.METRICS_STARTED, url=url_of(listener))
                yield monitor


def _metrics_page(monitor: "Monitor", loop: asyncio.AbstractEventLoop) -> "Reply":
    from ingestq.monitoring.exposition import CONTENT_TYPE
    from ingestq.monitoring.server import Reply

    observed = _from_loop(loop, monitor.observed())
    return Reply(HTTPStatus.OK, CONTENT_TYPE, monitor.exposition(observed))


def _live_page(monitor: "Monitor") -> "Reply":
    return _health_page(monitor.health.live())


def _ready_page(monitor: "Monitor", loop: asyncio.AbstractEventLoop) -> "Reply":
    ready = _from_loop(loop, monitor.health.ready())
    return _health_page(ready or Health({HealthCheck.EVENT_LOOP: False}))


def _health_page(health: Health) -> "Reply":
    from ingestq.monitoring.server import Reply

    status = HTTPStatus.OK if health.ok else HTTPStatus.SERVICE_UNAVAILABLE
    return Reply(status, "application/json", json.dumps(health.as_json()).encode())


def _from_loop(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, T]) -> T | None:
    """Return the result of ``coroutine`` in ``loop``; None if the loop is too late."""
    future = asyncio.run_coroutine_threadsafe(coroutine, loop)
    try:
        return future.result(ANSWER_SECONDS)
    except FutureTimeout:
        future.cancel()
        return None
