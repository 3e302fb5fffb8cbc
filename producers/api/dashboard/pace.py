"""How long submissions will take, from how far they were when somebody looked."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from broker.recent import RecentSubmission

MARK_SECONDS: Final = 5.0
"""How far apart two looks have to be to tell a speed."""
MARKS: Final = 13
"""So many are kept: the speed is that of the last minute or two."""


@dataclass(frozen=True)
class Mark:
    """So many documents were done at a time of a clock that never goes back."""

    at: float
    done: int


@dataclass
class Pace:
    """How far each submission was; those that are not recent any more are forgotten."""

    _marks: dict[str, deque[Mark]] = field(default_factory=dict)

    def seconds_left(self, now: float, submissions: Sequence[RecentSubmission]) -> dict[str, float]:
        """How long each will take if it goes on like this, where that can be known at ``now``."""
        marks = {s.id: self._marks.get(s.id, deque(maxlen=MARKS)) for s in submissions}
        self._marks = marks
        left = {}
        for submission in submissions:
            status, known = submission.status, marks[submission.id]
            mark = Mark(now, status.documents.total)
            if not known or now - known[-1].at >= MARK_SECONDS:
                known.append(mark)
            remaining = status.accepted - mark.done
            if remaining > 0 and (speed := _speed(known[0], mark)) > 0:
                left[submission.id] = remaining / speed
        return left


def _speed(first: Mark, last: Mark) -> float:
    """Documents a second; 0 if it is too early to tell."""
    seconds = last.at - first.at
    return (last.done - first.done) / seconds if seconds >= MARK_SECONDS else 0.0
