"""Plots of the last hour: samples of the queue, and the SVG paths drawn from them."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from ingestq.api.dashboard.wording import number, rate
from ingestq.core.results import Overview

SAMPLE_SECONDS: Final = 10.0
HISTORY_SECONDS: Final = 3600.0


@dataclass(frozen=True)
class Sample:
    """Jobs on the queue, and the rates of all workers together over the minute before.

    ``at`` is a time of the monotonic clock, in seconds.
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
        """Keep ``sample``, unless the last one is less than ten seconds old."""
        if not self._samples or sample.at - self._samples[-1].at >= SAMPLE_SECONDS:
            self._samples.append(sample)

    def samples(self) -> tuple[Sample, ...]:
        """Return the samples, oldest first."""
        return tuple(self._samples)


WIDTH: Final = 360
HEIGHT: Final = 100
"""Size of the drawing in its own units; the browser scales it."""
GAP_SECONDS: Final = 2.5 * SAMPLE_SECONDS
"""Samples that are further apart than this are not connected."""
STEPS: Final = (2, 4, 10)
"""An axis ends at one of these times a power of ten, so that its half is a round number, too."""

Value = Callable[[Sample], float]
Wording = Callable[[float], str]


@dataclass(frozen=True)
class PlotLine:
    """One value over time: its SVG ``path``, and its ``latest`` and ``highest`` value as text."""

    name: str
    style: str
    path: str
    latest: str
    highest: str


@dataclass(frozen=True)
class Plot:
    """Lines over one axis from 0 to ``top``; ``middle`` is half of that."""

    name: str
    title: str
    unit: str
    top: str
    middle: str
    lines: Sequence[PlotLine]

    @property
    def description(self) -> str:
        """The values as text, for screen readers."""
        values = (f"{line.name} {line.latest}, maximum {line.highest}" for line in self.lines)
        return f"{self.unit} over the last hour: {'; '.join(values)}."


@dataclass(frozen=True)
class _Kind:
    name: str
    title: str
    unit: str
    lowest_top: float
    wording: Wording
    values: dict[tuple[str, str], Value]


KINDS: Final = (
    _Kind(
        "depth",
        "Queue depth",
        "jobs",
        2,
        number,
        {
            ("ready", "first"): lambda sample: sample.ready,
            ("in flight", "second"): lambda sample: sample.in_flight,
            ("deferred", "third"): lambda sample: sample.deferred,
        },
    ),
    _Kind(
        "documents",
        "Documents",
        "documents per second",
        1,
        rate,
        {("documents/s", "first"): lambda sample: sample.documents_per_second},
    ),
    _Kind(
        "chunks",
        "Chunks embedded",
        "chunks per second",
        1,
        rate,
        {("chunks/s", "second"): lambda sample: sample.chunks_per_second},
    ),
)


def plots(samples: Sequence[Sample]) -> list[Plot]:
    """Return the plots of ``samples``; each ends at the last sample."""
    return [_plot(kind, samples) for kind in KINDS]


def round_top(highest: float, lowest_top: float) -> float:
    """Return the end of an axis that has to reach ``highest``."""
    power = 0.1
    while True:
        for step in STEPS:
            if (top := step * power) >= max(highest, lowest_top):
                return round(top, 1)
        power *= 10


def _plot(kind: _Kind, samples: Sequence[Sample]) -> Plot:
    shown = [s for s in samples if samples[-1].at - s.at <= HISTORY_SECONDS]
    highest = max((of(sample) for of in kind.values.values() for sample in shown), default=0.0)
    top = round_top(highest, kind.lowest_top)
    lines = [
        PlotLine(
            name,
            style,
            " ".join(_path(shown, of, top)),
            kind.wording(of(shown[-1]) if shown else 0),
            kind.wording(max(map(of, shown), default=0)),
        )
        for (name, style), of in kind.values.items()
    ]
    return Plot(kind.name, kind.title, kind.unit, _tick(top), _tick(top / 2), lines)


def _tick(value: float) -> str:
    return rate(value).removesuffix(".0")


def _path(samples: Sequence[Sample], of: Value, top: float) -> Iterator[str]:
    before: Sample | None = None
    for sample in samples:
        x = WIDTH * (1 - (samples[-1].at - sample.at) / HISTORY_SECONDS)
        y = HEIGHT * (1 - of(sample) / top)
        if before is None or sample.at - before.at > GAP_SECONDS:
            yield f"M{x:.1f} {y:.1f}h0"  # with round ends a single sample is a dot
        else:
            yield f"L{x:.1f} {y:.1f}"
        before = sample
