"""The memory that documents in work hold is bounded."""

import asyncio

from ingestq.core.documents import Lane
from worker.pipeline.memory_budget import MemoryBudget


async def test_a_document_waits_until_memory_is_free() -> None:
    budget = MemoryBudget(chunks=10)
    await budget.admit(Lane.BULK)
    with budget.hold(Lane.BULK, 6):
        await budget.admit(Lane.BULK)
        with budget.hold(Lane.BULK, 6):
            waiting = [asyncio.create_task(budget.admit(Lane.BULK)) for _ in range(2)]
            await asyncio.sleep(0)
            assert not any(task.done() for task in waiting)
        await asyncio.gather(*waiting)


async def test_bulk_documents_do_not_use_up_the_budget_of_the_other_lane() -> None:
    budget = MemoryBudget(chunks=10)
    with budget.hold(Lane.BULK, 10):
        waiting = asyncio.create_task(budget.admit(Lane.BULK))
        await budget.admit(Lane.INTERACTIVE)
        with budget.hold(Lane.INTERACTIVE, 10):
            pass
        await asyncio.sleep(0)
        assert not waiting.done(), "what the other lane gives back is not for this one"
    await waiting


async def test_a_document_larger_than_the_budget_is_admitted() -> None:
    budget = MemoryBudget(chunks=1)
    await budget.admit(Lane.BULK)
    with budget.hold(Lane.BULK, 1000):
        waiting = asyncio.create_task(budget.admit(Lane.BULK))
        await asyncio.sleep(0)
        assert not waiting.done()
    await waiting


async def test_a_document_that_fails_gives_its_memory_back() -> None:
    budget = MemoryBudget(chunks=1)
    try:
        with budget.hold(Lane.BULK, 1):
            raise ValueError
    except ValueError:
        await budget.admit(Lane.BULK)
