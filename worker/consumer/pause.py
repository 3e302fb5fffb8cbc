"""Back-pressure: whether a worker may claim jobs, or has to leave a service alone for a while."""

import time

import structlog

from ingestq.core import events

log = structlog.get_logger()


class BackPressure:
    """Keeps a worker from claiming jobs that could not be done either.

    Without it a worker would take up every job of a long queue, only to put it back. When a pause
    is over, jobs are claimed again; if they meet the same, it begins anew, but is logged only once.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self._until = 0.0

    @property
    def seconds_left(self) -> float:
        """How long to claim nothing from now; not more than 0 if jobs may be claimed."""
        return self._until - time.monotonic()

    def pause(self, reason: str, seconds: float) -> None:
        """Claim nothing for ``seconds`` from now."""
        if self.reason is None:
            log.error(events.WORKER_PAUSED, reason=reason, retry_in=seconds)
        self.reason = reason
        self._until = max(self._until, time.monotonic() + seconds)

    def job_done(self) -> None:
        """Note that a job was done: if the pause is over, so is the reason for it."""
        if self.reason is not None and self.seconds_left <= 0:
            log.info(events.WORKER_RESUMED, reason=self.reason)
            self.reason = None
