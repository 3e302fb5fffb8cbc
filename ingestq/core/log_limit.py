"""Bounds how often an event is logged that clients or services can repeat without limit."""

import time
from typing import Final

LOG_SECONDS: Final = 60.0


class LogLimit:
    """Lets one event pass each minute, and counts the others."""

    def __init__(self, seconds: float = LOG_SECONDS) -> None:
        self._seconds = seconds
        self._last: float | None = None
        self._skipped = 0

    def skipped(self) -> int | None:
        """Return how many events were skipped since the last one; None if this one is, too."""
        now = time.monotonic()
        if self._last is not None and now - self._last < self._seconds:
            self._skipped += 1
            return None
        self._last, skipped, self._skipped = now, self._skipped, 0
        return skipped
