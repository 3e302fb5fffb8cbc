"""What documents in work hold in memory is bounded."""

import asyncio

from worker.pipeline.memory_budget import Room


async def test_a_document_waits_until_there_is_room() -> None:
    room = Room(chunks=10)
    await room.enter()
    with room.hold(6):
        await room.enter()
        with room.hold(6):
            waiting = [asyncio.create_task(room.enter()) for _ in range(2)]
            await asyncio.sleep(0)
            assert not any(task.done() for task in waiting)
        await asyncio.gather(*waiting)


async def test_a_document_that_is_larger_than_the_room_gets_in() -> None:
    room = Room(chunks=1)
    await room.enter()
    with room.hold(1000):
        waiting = asyncio.create_task(room.enter())
        await asyncio.sleep(0)
        assert not waiting.done()
    await waiting


async def test_one_that_fails_gives_its_room_back() -> None:
    room = Room(chunks=1)
    try:
        with room.hold(1):
            raise ValueError
    except ValueError:
        await room.enter()
