"""Opens what a process may need, when it is first needed."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Generic, TypeVar

from ingestq.core.service import opening

T = TypeVar("T")


class OnDemand(Generic[T]):
    """Opens what ``make`` returns when it is first needed, and keeps it open until ``closing`` is
    closed.

    Make it in the task that closes ``closing``: that one is cancelled when what was opened can no
    longer be used, as a bundled server whose data directory was deleted.
    """

    def __init__(
        self,
        make: Callable[[], AbstractAsyncContextManager[T]],
        closing: AsyncExitStack,
        *,
        name: str,
    ) -> None:
        self._make = make
        self._name = name
        self._owner = asyncio.current_task()
        self._turn = asyncio.Lock()
        self._attempt = AsyncExitStack()
        self._opened: asyncio.Future[T] | None = None
        closing.push_async_exit(self._attempt)

    async def opened(self) -> T:
        """Return what is open. If the caller is cancelled, it is opened all the same.

        Raises what opening it raises; then the next call tries again.
        """
        async with self._turn:
            if self._opened is None or (self._opened.done() and self._opened.exception()):
                await self._attempt.aclose()
                attempt = opening(self._make(), name=self._name, block=self._owner)
                self._opened = await self._attempt.enter_async_context(attempt)
        return await asyncio.shield(self._opened)
