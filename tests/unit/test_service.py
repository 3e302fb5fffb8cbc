"""Background services stop when they are told to, even if cancellations are lost."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from ingestq.core.service import (
    Service,
    cancel,
    cancelled_with,
    happens_within,
    opening,
    run_together,
    run_until_first,
    uninterrupted,
)
from tests.waiting import SECONDS


async def loses_cancellations(count: int, ended: asyncio.Event) -> None:
    """Swallow ``count`` cancellations, as redis-py can."""
    while count:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            count -= 1
    try:
        await asyncio.Event().wait()
    finally:
        ended.set()


async def test_a_service_that_loses_cancellations_stops() -> None:
    ended = asyncio.Event()
    service = Service(lambda _: loses_cancellations(2, ended), name="deaf")
    service.start()
    await asyncio.sleep(0)
    await asyncio.wait_for(service.stop(), SECONDS)
    assert ended.is_set()
    assert not service.is_running


async def test_a_service_may_finish_within_its_grace_period() -> None:
    finished = asyncio.Event()

    async def run(stopping: asyncio.Event) -> None:
        await stopping.wait()
        await asyncio.sleep(0)
        finished.set()

    async with Service(run, name="graceful", grace_seconds=5):
        await asyncio.sleep(0)
    assert finished.is_set()


async def test_wait_and_stop_raise_the_error_of_the_service() -> None:
    async def run(stopping: asyncio.Event) -> None:
        raise LookupError("broken")

    service = Service(run, name="broken")
    service.start()
    with pytest.raises(LookupError):
        await service.wait()
    with pytest.raises(LookupError):
        await service.stop()


async def test_an_error_inside_the_block_takes_precedence_over_the_service() -> None:
    async def run(stopping: asyncio.Event) -> None:
        raise LookupError("of the service")

    async def block() -> None:
        async with Service(run, name="broken"):
            await asyncio.sleep(0)
            raise ValueError("of the block")

    with pytest.raises(ValueError, match="of the block"):
        await block()


async def test_stopping_a_service_that_never_ran_does_nothing() -> None:
    async def run(stopping: asyncio.Event) -> None:
        raise AssertionError("was never started")

    service = Service(run, name="idle")
    await service.stop()
    await service.wait()


async def test_a_service_can_be_started_again() -> None:
    runs: list[int] = []

    async def run(stopping: asyncio.Event) -> None:
        runs.append(1)
        await stopping.wait()

    service = Service(run, name="twice", grace_seconds=5)
    for _ in range(2):
        service.start()
        service.start()
        await asyncio.sleep(0)
        await service.stop()
    assert len(runs) == 2


async def test_a_cancelled_caller_of_stop_waits_until_the_service_has_ended() -> None:
    ended = asyncio.Event()
    service = Service(lambda _: loses_cancellations(1, ended), name="slow", grace_seconds=60)
    service.start()
    await asyncio.sleep(0)
    stopping = asyncio.create_task(service.stop())
    await asyncio.sleep(0)
    stopping.cancel()
    await asyncio.wait([stopping])
    assert stopping.cancelled()
    assert ended.is_set()


async def test_waiting_for_an_event_returns_whether_it_was_set() -> None:
    event = asyncio.Event()
    assert not await happens_within(event, 0)
    event.set()
    assert await happens_within(event, 0)


async def test_cancel_finishes_although_its_caller_is_cancelled() -> None:
    ended = asyncio.Event()
    task = asyncio.create_task(loses_cancellations(2, ended))
    await asyncio.sleep(0)
    cancelling = asyncio.create_task(cancel(task))
    for _ in range(2):
        await asyncio.sleep(0)
        cancelling.cancel()
    await asyncio.wait([cancelling])
    assert cancelling.cancelled()
    assert ended.is_set()


async def fails() -> None:
    raise LookupError("broken")


async def test_run_together_ends_all_after_a_failure_although_cancellations_are_lost() -> None:
    ended = asyncio.Event()
    with pytest.raises(LookupError):
        await asyncio.wait_for(run_together(loses_cancellations(2, ended), fails()), SECONDS)
    assert ended.is_set()


async def test_run_together_waits_for_all() -> None:
    first, second = asyncio.Event(), asyncio.Event()

    async def waits() -> None:
        await first.wait()
        second.set()

    async def sets() -> None:
        first.set()

    await asyncio.wait_for(run_together(waits(), sets()), SECONDS)
    assert second.is_set()


async def test_run_until_first_cancels_the_others() -> None:
    ended = asyncio.Event()
    await asyncio.wait_for(
        run_until_first(loses_cancellations(2, ended), asyncio.sleep(0)), SECONDS
    )
    assert ended.is_set()


async def test_cleaning_up_is_not_interrupted() -> None:
    may_end, ended = asyncio.Event(), asyncio.Event()

    async def clean_up() -> None:
        await may_end.wait()
        ended.set()

    task = asyncio.create_task(uninterrupted(clean_up()))
    for _ in range(3):
        await asyncio.sleep(0)
        task.cancel()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


async def failing_service(stopping: asyncio.Event) -> None:
    raise ValueError("the service failed")


async def test_a_block_ends_with_the_error_of_the_service_it_needs() -> None:
    async def use() -> None:
        async with cancelled_with(failing_service, name="needed"):
            await asyncio.Event().wait()

    with pytest.raises(ValueError, match="the service failed"):
        await use()
    current = asyncio.current_task()
    assert current is not None
    assert not current.cancelling()


async def test_a_block_that_ends_stops_the_service_it_needs() -> None:
    stopped = asyncio.Event()

    async def run(stopping: asyncio.Event) -> None:
        try:
            await stopping.wait()
        finally:
            stopped.set()

    async with cancelled_with(run, name="needed"):
        await asyncio.sleep(0)
    assert stopped.is_set()


async def test_a_cancelled_block_stays_cancelled() -> None:
    began = asyncio.Event()

    async def happens(stopping: asyncio.Event) -> None:
        await stopping.wait()

    async def use() -> None:
        async with cancelled_with(happens, name="needed"):
            began.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(use())
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@asynccontextmanager
async def door(may_open: asyncio.Event, closed: asyncio.Event) -> AsyncIterator[str]:
    """Opens when it may, and notes that it is closed."""
    try:
        await may_open.wait()
        yield "open"
        await asyncio.sleep(0)  # closing is not cancelled
    finally:
        closed.set()


async def test_a_block_runs_while_what_it_needs_is_opened() -> None:
    may_open, closed = asyncio.Event(), asyncio.Event()
    async with opening(door(may_open, closed), name="door") as opened:
        await asyncio.sleep(0)
        may_open.set()
        assert await opened == await opened == "open"
        assert not closed.is_set()
    assert closed.is_set()


async def test_a_block_that_ends_no_longer_opens_what_it_needs() -> None:
    closed = asyncio.Event()

    async def use() -> None:
        async with opening(door(asyncio.Event(), closed), name="door"):
            await asyncio.sleep(0)
            raise ValueError("of the block")

    with pytest.raises(ValueError, match="of the block"):
        await asyncio.wait_for(use(), SECONDS)
    assert closed.is_set()


async def test_what_cannot_be_opened_fails_only_whoever_waits_for_it() -> None:
    @asynccontextmanager
    async def locked() -> AsyncIterator[None]:
        await failing_service(asyncio.Event())
        yield

    async with opening(locked(), name="door") as opened:
        for _ in range(2):
            with pytest.raises(ValueError, match="the service failed"):
                await opened
    async with opening(locked(), name="door"):
        await asyncio.sleep(0)


async def test_a_block_ends_with_the_error_of_what_it_has_opened() -> None:
    @asynccontextmanager
    async def collapsing() -> AsyncIterator[str]:
        async with cancelled_with(failing_service, name="needed"):
            yield "open"

    async def use() -> None:
        async with opening(collapsing(), name="door") as opened:
            await opened
            await asyncio.Event().wait()

    with pytest.raises(ValueError, match="the service failed"):
        await asyncio.wait_for(use(), SECONDS)


async def test_the_task_that_owns_the_block_may_be_another_one() -> None:
    entered = asyncio.Event()

    async def own() -> None:
        owner = asyncio.current_task()

        async def enter() -> None:
            await closing.enter_async_context(
                cancelled_with(failing_service, name="needed", block=owner)
            )
            entered.set()

        async with AsyncExitStack() as closing:
            await asyncio.create_task(enter())
            await asyncio.Event().wait()

    with pytest.raises(ValueError, match="the service failed"):
        await asyncio.wait_for(own(), SECONDS)
    assert entered.is_set()
