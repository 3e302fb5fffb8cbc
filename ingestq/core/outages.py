"""Logs the outages of services: one line when one begins, one a minute, and one when it is over.

Many loops wait for the same service at the same time, each with retries of its own. All report here
instead of logging, so that an outage does not fill the log.
"""

import asyncio
import time
from dataclasses import dataclass
from typing import Final

import structlog

from ingestq.core import events
from ingestq.core.errors import (
    BlobStoreUnavailable,
    BrokerUnavailable,
    EmbedderUnavailable,
    HookUnavailable,
    RemoteUnavailable,
    RerankerUnavailable,
    ServiceUnavailable,
    StoreUnavailable,
)

log = structlog.get_logger()

REPEAT_SECONDS: Final = 60.0
"""How often a lasting outage is logged again."""
QUIET_SECONDS: Final = 5.0
"""An outage is over when a request has succeeded and none has failed for so long. A Redis that is
full, for example, still answers requests that only read."""
SERVICES: Final[dict[type[ServiceUnavailable], str]] = {
    BrokerUnavailable: "Redis",
    StoreUnavailable: "Qdrant",
    EmbedderUnavailable: "embeddings endpoint",
    RerankerUnavailable: "reranker",
    BlobStoreUnavailable: "blob store",
    RemoteUnavailable: "remote source",
    HookUnavailable: "service of a hook",
}


@dataclass
class _Outage:
    """An outage: when it began, was last logged, and when a request last failed (monotonic)."""

    began: float
    logged: float
    failed: float
    is_ending: bool = False


_outages: dict[type[ServiceUnavailable], _Outage] = {}


def note_failure(error: BaseException) -> None:
    """Log that a service is away, unless that was logged within the last minute.

    Errors that do not mean that a service is away are ignored.
    """
    kind = next((kind for kind in SERVICES if isinstance(error, kind)), None)
    if kind is None:
        return
    now = time.monotonic()
    outage = _outages.get(kind)
    if outage is None or now - outage.failed > REPEAT_SECONDS:  # nobody has asked meanwhile
        _outages[kind] = outage = _Outage(began=now, logged=now, failed=now)
    else:
        outage.failed = now
        if now - outage.logged < REPEAT_SECONDS:
            return
        outage.logged = now
    log.warning(
        events.SERVICE_UNAVAILABLE,
        service=SERVICES[kind],
        error=str(error),
        seconds=round(now - outage.began),
    )


def note_answer(kind: type[ServiceUnavailable]) -> None:
    """Note that the service whose absence is ``kind`` has answered. Call it in an event loop."""
    outage = _outages.get(kind)
    if outage is not None and not outage.is_ending:
        outage.is_ending = True
        answered = time.monotonic()
        asyncio.get_running_loop().call_later(QUIET_SECONDS, _end, kind, outage, answered)


def _end(kind: type[ServiceUnavailable], outage: _Outage, answered: float) -> None:
    """Log that ``outage`` is over, if no request has failed since the service ``answered``."""
    outage.is_ending = False
    if outage.failed > answered:
        return
    if _outages.get(kind) is outage:
        del _outages[kind]
        log.info(
            events.SERVICE_AVAILABLE, service=SERVICES[kind], seconds=round(answered - outage.began)
        )
