"""Group commit: what is asked for at the same time is done in one request.

Nothing lingers: the first item goes at once, and what arrives while a request is under way goes
together in the next.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice
from typing import Final, Generic, TypeVar

from broker.errors import Failure, classify

T = TypeVar("T")
R = TypeVar("R")

OF_ONE_ITEM: Final = (Failure.PERMANENT, Failure.TRANSIENT)
"""Failures that one item of a group may have caused."""


class GroupCommit(Generic[T, R]):
    """Calls ``commit`` with up to ``most`` items; it answers in their order.

    If ``commit`` raises for a group, each item is tried by itself, so that one that is refused
    fails alone; but not if a service is away: that would be asked once more for each.
    """

    def __init__(self, commit: Callable[[Sequence[T]], Awaitable[Sequence[R]]], most: int) -> None:
        self._commit = commit
        self._most = most
        self._waiting: dict[asyncio.Future[R], T] = {}
        self._committing: asyncio.Task[None] | None = None

    async def __call__(self, item: T) -> R:
        """Have ``item`` committed. Raises what ``commit`` raises for it."""
        answer: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting[answer] = item
        if self._committing is None:
            self._committing = asyncio.create_task(self._commit_all())
        return await answer

    async def _commit_all(self) -> None:
        try:
            while self._waiting:
                group = dict(islice(self._waiting.items(), self._most))
                for answer in group:
                    del self._waiting[answer]
                await self._commit_group(group)
        finally:
            self._committing = None

    async def _commit_group(self, group: dict[asyncio.Future[R], T]) -> None:
        try:
            results = await self._commit(list(group.values()))
        except Exception as error:
            if len(group) > 1 and classify(error) in OF_ONE_ITEM:
                for answer, item in group.items():
                    await self._commit_group({answer: item})
                return
            for answer in group:
                if not answer.done():
                    answer.set_exception(error)
            return
        for answer, result in zip(group, results, strict=True):
            if not answer.done():  # else whoever asked was cancelled
                answer.set_result(result)
