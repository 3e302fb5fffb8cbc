"""The plan of a soak: what happens when. The same seed and duration make the same plan."""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Stream(StrEnum):
    """Events of a stream happen one after the other; streams run side by side."""

    FOLDERS = "folders"
    API = "api"
    ADD = "add"
    FAULTS = "faults"


class Program(StrEnum):
    """What runs during a soak. Nothing happens to the steady worker itself, only to its pool."""

    UP = "up"
    WORKER = "worker"
    STEADY = "steady"


class Action(StrEnum):
    CHANGE = "change"
    COMPARE = "compare"
    SUBMIT = "submit"
    DELETE = "delete"
    ADD = "add"
    KILL = "kill"
    RESTART = "restart"
    STOP = "stop"
    KILL_POOL_PROCESS = "kill pool process"
    STOP_POOL_PROCESS = "stop pool process"
    KILL_REDIS = "kill redis"
    STOP_REDIS = "stop redis"
    KILL_QDRANT = "kill qdrant"
    STOP_QDRANT = "stop qdrant"
    CLOCK = "clock"


@dataclass(frozen=True)
class Event:
    """Something that happens ``at`` so many seconds after the start, or as soon as it can.

    ``on`` is what it happens to. ``seconds`` is how long a process stays stopped, or by how much
    the clock is wrong from now on.
    """

    at: float
    action: Action
    on: str = ""
    seconds: float = 0.0

    def __str__(self) -> str:
        what = " ".join(filter(None, [self.action.value, self.on]))
        return f"{self.at:.1f} {what}{f' {self.seconds:.1f} s' if self.seconds else ''}"


@dataclass(frozen=True)
class Plan:
    """All events of a soak, by stream."""

    seed: int
    seconds: float
    streams: Mapping[Stream, Sequence[Event]]

    @property
    def events(self) -> int:
        return sum(map(len, self.streams.values()))


GAP_SECONDS: Final = {Stream.FOLDERS: 0.7, Stream.API: 0.8, Stream.ADD: 6.0, Stream.FAULTS: 5.0}
"""Mean time between two events of a stream."""
COMPARE_SECONDS: Final = 60.0
"""Time between two comparisons of the watched folders with the index. Between them, not more may
be deleted than the mass-deletion guard lets go."""
LONGEST_STOP_SECONDS: Final = 8.0
CLOCK_SECONDS: Final = 24 * 3600
"""The clock of Redis, which tells the time to all, is wrong by at most so much."""
API_DOCUMENTS: Final = 60
"""Documents that are sent, edited and deleted again and again."""
KILLED: Final = (Program.UP, Program.WORKER)
FAULTS: Final[Mapping[Action, Sequence[str]]] = {
    Action.KILL: KILLED,
    Action.RESTART: KILLED,
    Action.STOP: KILLED,
    Action.KILL_POOL_PROCESS: tuple(Program),
    Action.STOP_POOL_PROCESS: tuple(Program),
    Action.KILL_REDIS: ("",),
    Action.STOP_REDIS: ("",),
    Action.KILL_QDRANT: ("",),
    Action.STOP_QDRANT: ("",),
    Action.CLOCK: ("",),
}
STOPS: Final = frozenset(
    {Action.STOP, Action.STOP_POOL_PROCESS, Action.STOP_REDIS, Action.STOP_QDRANT}
)


def make_plan(seed: int, seconds: float) -> Plan:
    """Draw the plan of a soak that lasts ``seconds``."""
    makers = {
        Stream.FOLDERS: _folder_event,
        Stream.API: _api_event,
        Stream.ADD: _add_event,
        Stream.FAULTS: _fault,
    }
    streams = {}
    for stream, make in makers.items():
        dice = random.Random(f"{seed} {stream}")
        streams[stream] = [make(dice, at) for at in _times(dice, GAP_SECONDS[stream], seconds)]
    compared = [Event(at, Action.COMPARE) for at in _regularly(COMPARE_SECONDS, seconds)]
    folders = sorted([*streams[Stream.FOLDERS], *compared], key=lambda event: event.at)
    return Plan(seed, seconds, streams | {Stream.FOLDERS: folders})


def _times(dice: random.Random, gap: float, seconds: float) -> Iterator[float]:
    at = dice.expovariate(1 / gap)
    while at < seconds:
        yield round(at, 2)
        at += dice.expovariate(1 / gap)


def _regularly(gap: float, seconds: float) -> Iterator[float]:
    return (gap * number for number in range(1, int(seconds / gap) + 1))


def _folder_event(dice: random.Random, at: float) -> Event:
    return Event(at, Action.CHANGE)


def _api_event(dice: random.Random, at: float) -> Event:
    action = Action.DELETE if dice.random() < 0.25 else Action.SUBMIT
    return Event(at, action, str(dice.randrange(API_DOCUMENTS)))


def _add_event(dice: random.Random, at: float) -> Event:
    return Event(at, Action.ADD)


def _fault(dice: random.Random, at: float) -> Event:
    action = dice.choice(list(FAULTS))
    on = dice.choice(FAULTS[action])
    seconds = 0.0
    if action in STOPS:
        seconds = dice.uniform(0.5, LONGEST_STOP_SECONDS)
    if action is Action.CLOCK:
        seconds = dice.uniform(-CLOCK_SECONDS, CLOCK_SECONDS)
    return Event(at, action, on, round(seconds, 1))
