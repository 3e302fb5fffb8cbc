"""How fast a worker is: what it did in the last minute."""

import time
from collections import deque
from typing import Final

from broker.contract import BatchReport

WINDOW_SECONDS: Final = 60.0


class Rates:
    """Documents and chunks a second, over the last minute or since the start if that is shorter."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._done: deque[tuple[float, int, int]] = deque()

    def count(self, report: BatchReport) -> None:
        """Add what a job did."""
        moment = time.monotonic()
        self._done.append((moment, report.documents.total, report.chunks.embedded))
        self._forget(moment)

    def per_second(self) -> tuple[float, float]:
        """Documents and chunks a second."""
        moment = time.monotonic()
        self._forget(moment)
        seconds = max(min(moment - self._started, WINDOW_SECONDS), 1.0)
        documents = sum(n for _, n, _ in self._done)
        chunks = sum(n for _, _, n in self._done)
        return round(documents / seconds, 2), round(chunks / seconds, 2)

    def _forget(self, moment: float) -> None:
        while self._done and self._done[0][0] < moment - WINDOW_SECONDS:
            self._done.popleft()
