"""The memory that documents in work hold is bounded."""

import asyncio

from worker.pipeline.memory_budget import MemoryBudget


async def test_a_document_waits_until_memory_is_free() -> None:
    budget = MemoryBudget(chunks=10)
    await budget.admit()
    with budget.hold(6):
        await budget.admit()
        with budget.hold(6):
            waiting = [asyncio.create_task(budget.admit()) for _ in range(2)]
            await asyncio.sleep(0)
            assert not any(task.done() for task in waiting)
        await asyncio.gather(*waiting)


async def test_a_document_that_is_larger_than_the_budget_is_admitted() -> None:
    budget = MemoryBudget(chunks=1)
    await budget.admit()
    with budget.hold(1000):
        waiting = asyncio.create_task(budget.admit())
        await asyncio.sleep(0)
        assert not waiting.done()
    await waiting


async def test_a_document_that_fails_releases_its_memory() -> None:
    budget = MemoryBudget(chunks=1)
    try:
        with budget.hold(1):
            raise ValueError
    except ValueError:
        await budget.admit()
