"""The queue over the last hour, as far as this process saw it."""

from collections import deque
from dataclasses import dataclass
from typing import Final

from broker.status import Overview

SAMPLE_SECONDS: Final = 10.0
HISTORY_SECONDS: Final = 3600.0


@dataclass(frozen=True)
class Sample:
    """Jobs on the queue, and what all workers together did in the minute before.

    ``at`` is a time in seconds of a clock that never goes back.
    """

    at: float
    ready: float
    in_flight: float
    deferred: float
    documents_per_second: float
    chunks_per_second: float

    @classmethod
    def of(cls, overview: Overview, at: float) -> "Sample":
        depth, workers = overview.depth, overview.workers
        return cls(
            at,
            depth.ready,
            depth.in_flight,
            depth.deferred,
            sum(worker.documents_per_second for worker in workers),
            sum(worker.chunks_per_second for worker in workers),
        )


class History:
    """Keeps one sample every ten seconds, for an hour."""

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque(maxlen=int(HISTORY_SECONDS / SAMPLE_SECONDS))

    def add(self, sample: Sample) -> None:
        """Keep ``sample``, unless the last one is as good as new."""
        if not self._samples or sample.at - self._samples[-1].at >= SAMPLE_SECONDS:
            self._samples.append(sample)

    def samples(self) -> tuple[Sample, ...]:
        """Those that are kept, the oldest first."""
        return tuple(self._samples)
