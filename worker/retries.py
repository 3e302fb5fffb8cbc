"""When a job is tried again: how often, how soon, and what counts as a try."""

import random
from typing import Final

from arq import Retry

from broker.errors import ServiceUnavailable, StoreFull

MAX_TRIES: Final = 5
"""After this many failures a document is dead-lettered."""
FIRST_BACKOFF_SECONDS: Final = 1.0
LONGEST_BACKOFF_SECONDS: Final = 60.0
NEWER_WORKER_SECONDS: Final = 30.0
"""How soon to try again what this worker does not know: during a deploy, a newer one may."""
SERVICE_RETRY_SECONDS: Final = 2.0
"""How soon to look whether a service that was away is back."""
STORE_FULL_SECONDS: Final = 30.0
"""How soon to look whether somebody made room in Qdrant."""
BROKER_RETRY_SECONDS: Final = 1.0
"""The same for Redis: without it nothing at all can be done."""


class AwaitService(Retry):
    """Raised by a job that cannot go on while a service is away. Counts as no try."""

    def __init__(self, reason: str) -> None:
        super().__init__(jittered(SERVICE_RETRY_SECONDS))
        self.reason = reason


def backoff_seconds(failures: int) -> float:
    """How long to wait after the ``failures``-th failure: exponential, with jitter."""
    return jittered(min(FIRST_BACKOFF_SECONDS * 2 ** (failures - 1), LONGEST_BACKOFF_SECONDS))


def pause_seconds(error: BaseException) -> float:
    """How long a worker has to claim nothing after ``error``, because a service wants to be left
    alone; mostly 0.
    """
    match error:
        case StoreFull():
            return STORE_FULL_SECONDS
        case ServiceUnavailable(retry_after=float() | int() as named):
            return named
        case _:
            return 0.0


def jittered(seconds: float) -> float:
    """``seconds`` give or take a quarter, so that workers do not come back all at once."""
    return seconds * random.uniform(0.75, 1.25)  # noqa: S311
