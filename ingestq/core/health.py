"""What makes a process live and ready: the checks, and what must not stand still.

*Live* is a process that need not be restarted: its event loop turns, and its worker polls. *Ready*
is one that can do its work now: the services that it needs can be used. A service that is away
makes a process unready, but never dead: a restart would not bring it back.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

LIVE: Final = "/livez"
READY: Final = "/readyz"
HEALTH: Final = "/healthz"
"""The older name of `LIVE`: the same answer."""
METRICS: Final = "/metrics"
HEALTH_PATHS: Final = frozenset({LIVE, READY, HEALTH})
"""The paths that anybody may ask."""

LOOP_STILL_SECONDS: Final = 30.0
"""An event loop that has not turned for so long hangs. Ordinary lag is below 50 ms."""
POLL_STILL_SECONDS: Final = 180.0
"""Longer than a poll takes while Redis and Qdrant let every request run into its time limit."""


class HealthCheck(StrEnum):
    """Something that has to be so for a process to be live or ready."""

    EVENT_LOOP = "event_loop"
    POLL = "poll"
    STARTED = "started"
    REDIS = "redis"
    WORKERS = "workers"
    QDRANT = "qdrant"
    POOL = "pool"
    FINGERPRINT = "fingerprint"


FAILURES: Final[Mapping[HealthCheck, str]] = {
    HealthCheck.EVENT_LOOP: "the event loop stands still; restart the process",
    HealthCheck.POLL: "the worker does not poll the queue; restart the process",
    HealthCheck.STARTED: "the process is still starting",
    HealthCheck.REDIS: "Redis does not answer, or accepts no writes",
    HealthCheck.WORKERS: "no worker is running; start `ingestq worker`",
    HealthCheck.QDRANT: "Qdrant does not answer",
    HealthCheck.POOL: "the pool processes are starting",
    HealthCheck.FINGERPRINT: "a collection is missing, or was built with other settings",
}
"""What a failed check means, for anybody: details, which may name hosts, are in the log."""


@dataclass(frozen=True)
class Health:
    """The result of each check; None for one that cannot be made now, which is no failure."""

    checks: Mapping[HealthCheck, bool | None]

    @property
    def failed(self) -> tuple[HealthCheck, ...]:
        return tuple(check for check, is_good in self.checks.items() if is_good is False)

    @property
    def ok(self) -> bool:
        return not self.failed

    def as_json(self) -> dict[str, Any]:
        """Return the answer: the checks by name, and what those mean that failed."""
        words = {True: "ok", False: "failed", None: "unknown"}
        answer: dict[str, Any] = {
            "status": words[self.ok],
            "checks": {check.value: words[result] for check, result in self.checks.items()},
        }
        if not self.ok:
            answer["detail"] = "; ".join(FAILURES[check] for check in self.failed)
        return answer


@dataclass
class Pulse:
    """Beats each time something happens that must not stand still for more than ``limit_seconds``.

    It may be read in another thread than it beats in.
    """

    limit_seconds: float
    _last: float | None = field(default=None, init=False)

    def beat(self) -> None:
        """Note that it happens."""
        self._last = time.monotonic()

    def rest(self) -> None:
        """Note that it has not begun, or has ended in order."""
        self._last = None

    @property
    def is_alive(self) -> bool:
        """False if it stands still."""
        last = self._last
        return last is None or time.monotonic() - last <= self.limit_seconds
