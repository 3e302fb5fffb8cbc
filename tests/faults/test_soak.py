"""A soak of a minute: what `make soak` does for longer. Its plan depends on the seed alone."""

import pytest

from tests.engine_process import short_folder
from tests.soak.plan import Action, Stream, make_plan
from tests.soak.soak import soak

SEED = 1
SECONDS = 60.0


def test_the_same_seed_makes_the_same_plan() -> None:
    assert make_plan(SEED, SECONDS) == make_plan(SEED, SECONDS)
    assert make_plan(SEED, SECONDS) != make_plan(SEED + 1, SECONDS)


def test_every_accident_happens_in_an_hour() -> None:
    plan = make_plan(SEED, 3600)
    assert {event.action for events in plan.streams.values() for event in events} == set(Action)
    assert set(plan.streams) == set(Stream)


@pytest.mark.slow
@pytest.mark.timeout(1200)
async def test_nothing_is_lost_while_everything_is_killed(libfaketime: str) -> None:
    with short_folder() as folder:
        outcome = await soak(make_plan(SEED, SECONDS), folder, libfaketime)
        logs = [path.read_text(encoding="utf-8")[-3000:] for path in folder.glob("*.log")]
    assert not outcome.problems, "\n".join([*outcome.problems, *outcome.last_events, *logs])
    assert outcome.totals is not None
    assert outcome.totals.accepted > 0
