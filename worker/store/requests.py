"""Requests to Qdrant: page by page, split when too large, grouped when many wait."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from itertools import islice
from typing import Final, Generic, TypeVar

from qdrant_client import AsyncQdrantClient, models

from ingestq.core.errors import Failure, StoreRejected, StoreTooSlow, classify
from ingestq.core.service import Service
from worker.store.client import Qdrant

Fields = bool | list[str]
"""Which fields of the payload to read."""


async def pages(
    qdrant: Qdrant, name: str, only: models.Filter | None, fields: Fields, size: int
) -> AsyncIterator[list[models.Record]]:
    """The points of the collection ``name`` that ``only`` lets through, ``size`` at a time."""
    offset: models.ExtendedPointId | None = None
    while True:
        records, offset = await qdrant.ask(partial(_page, name, only, fields, size, offset))
        yield records
        if offset is None:
            return


async def _page(
    name: str,
    only: models.Filter | None,
    fields: Fields,
    size: int,
    offset: models.ExtendedPointId | None,
    client: AsyncQdrantClient,
) -> tuple[list[models.Record], models.ExtendedPointId | None]:
    return await client.scroll(
        name, scroll_filter=only, limit=size, offset=offset, with_payload=fields
    )


T = TypeVar("T")


async def in_parts(
    items: Sequence[T],
    ask: Callable[[Sequence[T]], Awaitable[object]],
    name: Callable[[T], str],
) -> None:
    """Ask for ``items``; for one half after the other, if Qdrant refuses or cannot do all at once.

    Ends at the first item that is refused by itself, after few requests. Raises why, with the
    ``name`` of the item; those before it are done.
    """
    try:
        await ask(items)
    except (StoreRejected, StoreTooSlow) as error:
        if len(items) > 1:
            half = len(items) // 2
            await in_parts(items[:half], ask, name)
            await in_parts(items[half:], ask, name)
        elif isinstance(error, StoreRejected):
            raise type(error)(f"{name(items[0])}: {error}") from error
        else:
            raise


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
        self._service = Service(self._commit_all, name="group commit")

    async def __call__(self, item: T) -> R:
        """Have ``item`` committed. Raises what ``commit`` raises for it."""
        answer: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting[answer] = item
        self._service.start()
        return await answer

    async def _commit_all(self, _: asyncio.Event) -> None:
        """Run until nothing waits; the next item starts it again."""
        while self._waiting:
            group = dict(islice(self._waiting.items(), self._most))
            for answer in group:
                del self._waiting[answer]
            await self._commit_group(group)

    async def _commit_group(self, group: dict[asyncio.Future[R], T]) -> None:
        try:
            results = await self._commit(list(group.values()))
            if len(results) != len(group):
                raise RuntimeError(f"{len(results)} results for {len(group)} items")
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
