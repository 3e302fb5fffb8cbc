"""Requests of concurrent callers go in groups, and whoever has a bad item fails alone."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestq.core.errors import StoreRejected, StoreTooSlow, StoreUnavailable
from ingestq.core.metrics import PipelineStage
from tests.waiting import SECONDS
from worker.store.requests import GROUP_BYTES, GroupCommit, GroupLimits

LIMITS = GroupLimits(items=8, bytes=40, spacing_seconds=0.0)
SPACED = replace(LIMITS, spacing_seconds=3600.0)


@dataclass
class Server:
    """Answers an item with its length; refuses items that begin with ``x``."""

    requests: list[list[str]] = field(default_factory=list)
    under_way: int = 0
    most_under_way: int = 0
    open: asyncio.Event = field(default_factory=asyncio.Event)
    outage: Exception | None = None

    async def commit(self, items: Sequence[str]) -> Sequence[int]:
        self.requests.append(list(items))
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await self.open.wait()
        finally:
            self.under_way -= 1
        if self.outage is not None:
            raise self.outage
        if any(item.startswith("x") for item in items):
            raise StoreRejected("it begins with x")
        return [len(item) for item in items]

    def group_commit(self, limits: GroupLimits = LIMITS) -> GroupCommit[str, int]:
        return GroupCommit(
            self.commit, limits, name="item {}".format, size=len, stage=PipelineStage.UPSERT
        )


@pytest.fixture
async def server() -> Server:
    return Server()


async def until_idle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_an_item_alone_is_committed_at_once(
    server: Server,
) -> None:
    server.open.set()
    commit = server.group_commit(SPACED)
    async with asyncio.timeout(SECONDS):
        for _ in range(3):
            assert await commit(["abc", "d"]) == [3, 1]
    assert server.requests == [["abc", "d"]] * 3


async def test_what_comes_during_a_request_goes_in_the_next_one(server: Server) -> None:
    commit = server.group_commit()
    async with asyncio.TaskGroup() as group:
        group.create_task(commit.of_one("a"))
        await until_idle()
        later = [group.create_task(commit.of_one(item)) for item in "bcd"]
        await until_idle()
        assert server.requests == [["a"]]
        server.open.set()
    assert [task.result() for task in later] == [1, 1, 1]
    assert server.requests == [["a"], ["b", "c", "d"]]


async def test_groups_are_apart_while_several_are_at_work_unless_one_is_full(
    server: Server,
) -> None:
    server.open.set()
    commit = server.group_commit(SPACED)
    async with asyncio.timeout(SECONDS), asyncio.TaskGroup() as group:
        for item in "ab":
            group.create_task(commit.of_one(item))
        await until_idle()
        waiting = [group.create_task(commit.of_one(item)) for item in "cdefghi"]
        await until_idle()
        assert server.requests == [["a", "b"]]
        group.create_task(commit.of_one("j"))
        await until_idle()
        assert all(task.done() for task in waiting)
    assert server.requests == [["a", "b"], list("cdefghij")]


async def test_a_small_caller_does_not_wait_for_all_items_of_a_large_one(server: Server) -> None:
    commit = GroupCommit(
        server.commit,
        replace(LIMITS, items=20, bytes=GROUP_BYTES),
        name=str,
        size=len,
        stage=PipelineStage.UPSERT,
    )
    async with asyncio.TaskGroup() as group:
        group.create_task(commit(["a"] * 1000))
        group.create_task(commit(["b"]))
        await until_idle()
        assert Counter(server.requests[0]) == {"a": 19, "b": 1}
        server.open.set()


async def test_an_outage_fails_the_whole_group_in_one_request(server: Server) -> None:
    server.open.set()
    server.outage = StoreUnavailable("away")
    commit = server.group_commit()
    outcomes = await asyncio.gather(*map(commit.of_one, "abcd"), return_exceptions=True)
    assert outcomes == [server.outage] * 4
    assert len(server.requests) == 1


async def test_a_group_that_is_too_slow_is_split_and_then_fails_as_a_whole(server: Server) -> None:
    server.open.set()
    server.outage = StoreTooSlow("slow")
    commit = server.group_commit()
    outcomes = await asyncio.gather(*map(commit.of_one, "abcd"), return_exceptions=True)
    assert outcomes == [server.outage] * 4
    assert server.requests == [list("abcd"), list("ab"), ["a"]]


async def test_items_of_a_cancelled_caller_are_not_sent(server: Server) -> None:
    commit = server.group_commit()
    first = asyncio.create_task(commit.of_one("a"))
    await until_idle()
    cancelled = asyncio.create_task(commit(["b", "c"]))
    last = asyncio.create_task(commit.of_one("d"))
    await until_idle()
    cancelled.cancel()
    server.open.set()
    assert [await first, await last] == [1, 1]
    assert server.requests == [["a"], ["d"]]


@given(
    calls=st.lists(
        st.lists(st.text("abx", min_size=1, max_size=50), max_size=40), min_size=1, max_size=12
    ),
    pauses=st.lists(st.integers(0, 6), min_size=12, max_size=12),
)
async def test_each_caller_gets_its_own_results_or_the_error_of_its_item(
    calls: list[list[str]], pauses: list[int]
) -> None:
    """Every request keeps the limits, and there is one at a time."""
    server = Server()
    server.open.set()
    commit = server.group_commit()

    async def call(items: list[str], pause: int) -> list[int]:
        for _ in range(pause):
            await asyncio.sleep(0)
        return await commit(items)

    outcomes = await asyncio.gather(*map(call, calls, pauses), return_exceptions=True)
    for items, outcome in zip(calls, outcomes, strict=True):
        bad = [item for item in items if item.startswith("x")]
        if bad:
            assert isinstance(outcome, StoreRejected)
            assert str(outcome) == f"item {bad[0]}: it begins with x"
        else:
            assert outcome == [len(item) for item in items]
    assert server.most_under_way <= 1
    for sent in server.requests:
        assert len(sent) <= LIMITS.items
        assert len(sent) == 1 or sum(map(len, sent)) <= LIMITS.bytes
