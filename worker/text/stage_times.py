"""Measures how long a parse process reads, extracts, recognises and chunks a document.

A process works on one document at a time, in one thread.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from ingestq.core.metrics import PipelineStage
from worker.text.parts import StageSeconds


class _Stopwatch:
    """The seconds of each stage; a stage inside another one is not counted as part of it."""

    def __init__(self) -> None:
        self.seconds: StageSeconds = {}
        self.current: PipelineStage | None = None
        self.since = 0.0

    def switch(self, stage: PipelineStage | None) -> PipelineStage | None:
        """Count from now on for ``stage``; return the one before."""
        before, now = self.current, time.perf_counter()
        if before is not None:
            self.seconds[before.value] = self.seconds.get(before.value, 0.0) + now - self.since
        self.current, self.since = stage, now
        return before


_stopwatch: Final = _Stopwatch()


@contextmanager
def timed(stage: PipelineStage) -> Iterator[None]:
    """Count the time inside for ``stage``."""
    before = _stopwatch.switch(stage)
    try:
        yield
    finally:
        _stopwatch.switch(before)


def taken() -> StageSeconds:
    """Return the seconds of each stage since the last call."""
    seconds, _stopwatch.seconds = _stopwatch.seconds, {}
    return seconds
