"""Shapes of requests to Qdrant: reading page by page, and grouping many small writes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from itertools import islice
from typing import Final, Generic, TypeVar

from qdrant_client import AsyncQdrantClient, models

from ingestq.core.errors import Failure, classify
from ingestq.core.service import Service
from worker.bisection import bisect_on_failure
from worker.store.client import Qdrant

Fields = bool | list[str]
"""Which fields of the payload to read."""


async def pages(
    qdrant: Qdrant, name: str, only: models.Filter | None, fields: Fields, size: int
) -> AsyncIterator[list[models.Record]]:
    """Yield the points of the collection ``name`` that match ``only``, ``size`` at a time."""
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
R = TypeVar("R")

OF_ONE_ITEM: Final = (Failure.PERMANENT, Failure.TRANSIENT)
"""Failures that a single item of a group may have caused."""


class GroupCommit(Generic[T, R]):
    """Groups the items of concurrent callers into calls of ``commit``.

    ``commit`` gets up to ``max_items`` items and returns their results in order. If it raises an
    error that one item may have caused, the group is bisected, so that a bad item fails alone. If a
    service is unavailable, the whole group fails at once.
    """

    def __init__(
        self, commit: Callable[[Sequence[T]], Awaitable[Sequence[R]]], max_items: int
    ) -> None:
        self._commit = commit
        self._max_items = max_items
        self._waiting: dict[asyncio.Future[R], T] = {}
        self._service = Service(self._commit_all, name="group commit")

    async def __call__(self, item: T) -> R:
        """Commit ``item`` in a group; return its result, or raise its error."""
        answer: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting[answer] = item
        self._service.start()
        return await answer

    async def _commit_all(self, _: asyncio.Event) -> None:
        """Commit groups until no item waits. The next item starts this again."""
        while self._waiting:
            group = dict(islice(self._waiting.items(), self._max_items))
            for answer in group:
                del self._waiting[answer]
            await self._commit_group(group)

    async def _commit_group(self, group: dict[asyncio.Future[R], T]) -> None:
        async def commit(answers: Sequence[asyncio.Future[R]]) -> Sequence[R]:
            return await self._commit([group[answer] for answer in answers])

        async for answer, result in bisect_on_failure(list(group), commit, _may_be_one_item):
            if answer.done():  # the caller was cancelled
                continue
            if isinstance(result, Exception):
                answer.set_exception(result)
            else:
                answer.set_result(result)


def _may_be_one_item(error: Exception) -> bool:
    return classify(error) in OF_ONE_ITEM
