"""The gate of a collection opens again, even if a cancellation is lost."""

import asyncio
import contextlib
from typing import Any

import pytest

from ingestq.app.composition import Broker
from ingestq.broker import keys
from ingestq.broker.queue import gate as gates
from ingestq.broker.queue.gate import Gate
from tests.waiting import ended

SHUT_MS = 400


class LossyRedis:
    """A client whose ``set`` loses a cancellation, as redis-py can up to Python 3.11."""

    def __init__(self, broker: Broker) -> None:
        self._redis = broker.redis
        self.renewing = asyncio.Event()
        self.renewals = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._redis, name)

    async def set(self, *args: Any, **options: Any) -> None:
        await self._redis.set(*args, **options)
        self.renewals += 1
        if self.renewals == 2:
            self.renewing.set()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()


@pytest.fixture
def redis(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> LossyRedis:
    monkeypatch.setattr(gates, "SHUT_MS", SHUT_MS)
    monkeypatch.setattr(gates, "GRACE_SECONDS", 0.05)
    return LossyRedis(broker)


@pytest.mark.parametrize("is_replaced", [False, True])
async def test_a_gate_opens_although_the_cancellation_of_its_renewal_is_lost(
    broker: Broker, redis: LossyRedis, is_replaced: bool
) -> None:
    gate = Gate(redis, broker.config, "documents__1")  # type: ignore[arg-type]

    async def exchange() -> None:
        async with gate.shut():
            await redis.renewing.wait()
            if is_replaced:
                await gate.replace_with("documents__2")

    await ended(asyncio.create_task(exchange()))
    assert not any("gate" in task.get_name() for task in asyncio.all_tasks() if not task.done())
    successor = await broker.redis.get(keys.GATE + "documents__1")
    assert successor == (b"documents__2" if is_replaced else None)
