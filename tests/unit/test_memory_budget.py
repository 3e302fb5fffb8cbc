"""The memory that documents in work hold is bounded."""

import asyncio
from contextlib import AsyncExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestq.core.documents import Document, Lane
from tests.waiting import SECONDS
from worker.pipeline.memory_budget import CHUNK_BYTES, MOST_EXPECTED, MemoryBudget


def document(chunks: int) -> Document:
    """Return a document that is charged so many chunks until it is prepared."""
    return Document(doc_id="d", version=1, source="d", text="x" * (chunks - 1) * CHUNK_BYTES)


class Work:
    """Documents in work, in the order in which they were admitted; they end when told to."""

    def __init__(self, budget: MemoryBudget) -> None:
        self.budget = budget
        self.admitted: list[int] = []
        self.ends: list[asyncio.Event] = []

    async def on(self, chunks: int, lane: Lane = Lane.BULK) -> None:
        number = len(self.ends)
        self.ends.append(asyncio.Event())
        async with self.budget.hold(lane, document(chunks)):
            self.admitted.append(number)
            await self.ends[number].wait()


async def idle() -> None:
    """Let every task run until it waits."""
    for _ in range(8):
        await asyncio.sleep(0)


@pytest.fixture
async def work() -> Work:
    return Work(MemoryBudget(chunks=10))


async def test_a_document_waits_until_memory_is_free(work: Work) -> None:
    async with asyncio.TaskGroup() as group:
        for chunks in (6, 6, 1, 1):
            group.create_task(work.on(chunks))
        await idle()
        assert work.admitted == [0, 1], "the last one may exceed the budget"
        work.ends[0].set()
        await idle()
        assert work.admitted == [0, 1, 2, 3]
        for end in work.ends:
            end.set()


async def test_what_a_prepared_document_does_not_have_is_free(work: Work) -> None:
    async with work.budget.hold(Lane.BULK, document(10)) as share, asyncio.TaskGroup() as group:
        waiting = group.create_task(work.on(1))
        await idle()
        assert not work.admitted
        share.charge(9)
        await idle()
        assert work.admitted
        work.ends[0].set()
        await waiting


async def test_bulk_documents_do_not_use_up_the_budget_of_the_other_lane(work: Work) -> None:
    async with asyncio.TaskGroup() as group:
        for lane in (Lane.BULK, Lane.BULK, Lane.INTERACTIVE):
            group.create_task(work.on(10, lane))
        await idle()
        assert work.admitted == [0, 2]
        work.ends[2].set()
        await idle()
        assert work.admitted == [0, 2], "what the other lane gives back is not for this one"
        for end in work.ends:
            end.set()


async def test_a_large_document_is_charged_for_a_segment() -> None:
    budget = MemoryBudget(chunks=MOST_EXPECTED + 1)
    async with AsyncExitStack() as held, asyncio.timeout(SECONDS):
        for chunks in (100 * MOST_EXPECTED, 1):
            await held.enter_async_context(budget.hold(Lane.BULK, document(chunks)))


async def test_a_document_that_fails_gives_its_memory_back(work: Work) -> None:
    with pytest.raises(ValueError, match="x"):
        async with work.budget.hold(Lane.BULK, document(10)):
            raise ValueError("x")
    async with asyncio.timeout(SECONDS), work.budget.hold(Lane.BULK, document(10)):
        pass


@given(
    steps=st.lists(st.tuples(st.sampled_from(["end", "cancel"]), st.integers(0, 30)), max_size=40),
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=12),
)
async def test_every_document_is_admitted_in_its_turn(
    steps: list[tuple[str, int]], sizes: list[int]
) -> None:
    """Whatever ends or is cancelled meanwhile, the budget is exceeded by one document at most."""
    work = Work(MemoryBudget(chunks=10))
    tasks = [asyncio.create_task(work.on(chunks)) for chunks in sizes]
    await idle()
    for step, which in steps:
        at = which % len(tasks)
        if step == "end":
            work.ends[at].set()
        else:
            tasks[at].cancel()
        await idle()
        assert work.admitted == sorted(work.admitted)
        held = [sizes[i] for i in work.admitted if not tasks[i].done()]
        assert sum(held[:-1]) < 10
    for end in work.ends:
        end.set()
    async with asyncio.timeout(SECONDS):
        await asyncio.gather(*tasks, return_exceptions=True)
    left = [i for i, task in enumerate(tasks) if not task.cancelled()]
    assert set(left) <= set(work.admitted)
