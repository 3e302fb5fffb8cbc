"""A failed batch is bisected: only bad items fail, and it takes few calls."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from worker.bisection import bisect_on_failure


class BadItemError(Exception):
    """One item of the call is bad."""


class ServiceError(Exception):
    """The service failed; no item caused it."""


@dataclass
class Backend:
    """Doubles numbers; fails a call with a bad number, and the calls numbered in ``down``."""

    bad: set[int] = field(default_factory=set)
    down: set[int] = field(default_factory=set)
    calls: list[Sequence[int]] = field(default_factory=list)

    async def double(self, items: Sequence[int]) -> Sequence[int]:
        self.calls.append(items)
        if len(self.calls) in self.down:
            raise ServiceError
        if found := self.bad.intersection(items):
            raise BadItemError(min(found))
        return [2 * item for item in items]


async def outcomes(backend: Backend, items: Sequence[int]) -> list[tuple[int, int | Exception]]:
    calls = bisect_on_failure(items, backend.double, lambda e: isinstance(e, BadItemError))
    return [pair async for pair in calls]


@given(is_bad=st.lists(st.booleans(), max_size=200))
async def test_only_bad_items_fail_and_few_calls_are_made(is_bad: list[bool]) -> None:
    items = list(range(len(is_bad)))
    backend = Backend(bad={item for item in items if is_bad[item]})
    found = await outcomes(backend, items)

    assert [item for item, _ in found] == items
    for item, outcome in found:
        if is_bad[item]:
            assert isinstance(outcome, BadItemError)
            assert outcome.args == (item,)
            assert [item] in backend.calls
        else:
            assert outcome == 2 * item
    if items:
        depth = math.ceil(math.log2(len(items)))
        assert len(backend.calls) <= 1 + 2 * len(backend.bad) * depth


@given(is_bad=st.lists(st.booleans(), min_size=1, max_size=50), data=st.data())
async def test_a_failure_that_no_item_caused_is_not_bisected(
    is_bad: list[bool], data: st.DataObject
) -> None:
    items = list(range(len(is_bad)))
    bad = {item for item in items if is_bad[item]}
    healthy = Backend(bad)
    await outcomes(healthy, items)
    down = data.draw(st.integers(1, len(healthy.calls)))
    backend = Backend(bad, {down})
    found = dict(await outcomes(backend, items))

    failed = {item for item, outcome in found.items() if isinstance(outcome, ServiceError)}
    assert failed == set(backend.calls[down - 1])
    assert [call for call in backend.calls if set(call) < failed] == []
    assert found.keys() == set(items)


async def test_outcomes_are_yielded_before_the_last_call() -> None:
    backend = Backend(bad={3})
    calls = bisect_on_failure(range(4), backend.double, lambda e: isinstance(e, BadItemError))
    assert await anext(calls) == (0, 0)
    assert [list(call) for call in backend.calls] == [[0, 1, 2, 3], [0, 1]]


async def test_too_few_results_fail_every_item() -> None:
    async def forgets_one(items: Sequence[int]) -> Sequence[int]:
        return items[1:]

    found = [pair async for pair in bisect_on_failure([1, 2], forgets_one, lambda _: False)]
    assert [(item, type(outcome)) for item, outcome in found] == [(1, ValueError), (2, ValueError)]
