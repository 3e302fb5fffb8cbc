"""Shapes of requests to Qdrant: reading page by page, and grouping those of many documents."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Generic, TypeVar

from qdrant_client import AsyncQdrantClient, models

from ingestq.core import metrics
from ingestq.core.errors import Failure, StoreRejected, StoreTooSlow, classify
from ingestq.core.metrics import PipelineStage
from ingestq.core.service import Service, happens_within
from worker.bisection import bisect_on_failure
from worker.store.client import Qdrant, check_applied

T = TypeVar("T")
R = TypeVar("R")

Fields = bool | list[str]
"""Which fields of the payload to read."""


async def pages(
    qdrant: Qdrant,
    name: str,
    only: models.Filter | None,
    fields: Fields,
    size: int,
    *,
    with_vectors: bool = False,
) -> AsyncGenerator[list[models.Record], None]:
    """Yield the points of the collection ``name`` that match ``only``, ``size`` at a time."""
    read = partial(read_page, name, only, fields, size, with_vectors=with_vectors)
    offset: models.ExtendedPointId | None = None
    while True:
        records, offset = await qdrant.ask(partial(read, offset))
        yield records
        if offset is None:
            return


async def read_page(
    name: str,
    only: models.Filter | None,
    fields: Fields,
    size: int,
    offset: models.ExtendedPointId | None,
    client: AsyncQdrantClient,
    *,
    with_vectors: bool = False,
) -> tuple[list[models.Record], models.ExtendedPointId | None]:
    """Return up to ``size`` points that match ``only``, from ``offset`` on, and the next offset."""
    return await client.scroll(
        name,
        scroll_filter=only,
        limit=size,
        offset=offset,
        with_payload=fields,
        with_vectors=with_vectors,
    )


def in_pages(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Yield ``items`` in pages of ``size``; the last may be smaller."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


async def batch_update(
    name: str, operations: Sequence[models.UpdateOperation], client: AsyncQdrantClient
) -> None:
    """Apply ``operations`` to the collection ``name``, in order; durable on return.

    Those before one that is refused stay applied.
    """
    for result in await client.batch_update_points(name, list(operations), wait=True):
        check_applied(result)


GROUP_BYTES: Final = 4 * 1024 * 1024
"""About the most bytes in the body of a group's request: encoding it blocks the event loop."""
TURN_ITEMS: Final = 16
"""So many items of a call go into a group before those of the next call: a large document does not
hold up the small ones."""
GROUP_SECONDS: Final = 0.1
"""While several callers are at work, the groups of a kind begin so far apart, unless a full one is
waiting. A request costs more than the items in it: some milliseconds of the event loop and of the
server."""
OF_ONE_ITEM: Final = (Failure.PERMANENT, Failure.TRANSIENT)
"""Failures that a single item of a group may have caused."""


@dataclass(frozen=True)
class GroupLimits:
    """Bounds of a group: ``items``, and about so many ``bytes`` in its request.

    Groups begin at least ``spacing_seconds`` apart while several callers are at work.
    """

    items: int
    bytes: int = GROUP_BYTES
    spacing_seconds: float = GROUP_SECONDS


@dataclass(eq=False)
class _Call(Generic[T, R]):
    """The items of one caller, each with its size in bytes.

    ``answer`` gets their results, or the error of the first to fail.
    """

    items: Sequence[tuple[T, int]]
    answer: "asyncio.Future[list[R]]" = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    results: list[R] = field(default_factory=list)
    taken: int = 0

    @property
    def left(self) -> int:
        return len(self.items) - self.taken

    def fail(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)

    def add(self, result: R) -> None:
        self.results.append(result)
        if len(self.results) == len(self.items) and not self.answer.done():
            self.answer.set_result(self.results)


class GroupCommit(Generic[T, R]):
    """Groups the items of concurrent callers into calls of ``commit``, one at a time.

    ``commit`` gets items of one or more callers, bounded by ``limits``, and returns their results
    in order. While it runs, the next group grows, and for up to ``limits.spacing_seconds`` from its
    start if it has items of several callers; one who is alone never waits for others.

    If ``commit`` raises an error that one item may have caused, the group is bisected, so that a
    refused item fails alone, with its name as ``name`` gives it; the other items of its caller are
    not sent any more. If a service is unavailable, the whole group fails at once. ``size`` returns
    about how many bytes an item takes in a request. The time of requests counts for ``stage``.
    """

    def __init__(
        self,
        commit: Callable[[Sequence[T]], Awaitable[Sequence[R]]],
        limits: GroupLimits,
        *,
        name: Callable[[T], str],
        size: Callable[[T], int],
        stage: PipelineStage,
    ) -> None:
        self._commit = commit
        self._stage = stage
        self._limits = limits
        self._name = name
        self._size = size
        self._next_at = 0.0
        self._waiting: deque[_Call[T, R]] = deque()
        self._left = 0
        self._full = asyncio.Event()
        self._service = Service(self._commit_all, name="group commit")

    async def __call__(self, items: Sequence[T]) -> list[R]:
        """Commit ``items`` in groups; return their results, or raise the error of one of them.

        If the caller is cancelled, those that are not being sent yet never will be.
        """
        if not items:
            return []
        call: _Call[T, R] = _Call([(item, self._size(item)) for item in items])
        self._waiting.append(call)
        self._left += call.left
        if self._left >= self._limits.items:
            self._full.set()
        self._service.start()
        return await call.answer

    async def of_one(self, item: T) -> R:
        """Commit one item in a group; return its result, or raise its error."""
        [result] = await self([item])
        return result

    async def _commit_all(self, _: asyncio.Event) -> None:
        """Commit groups until no item waits. The next item starts this again."""
        while self._waiting:
            if (seconds := self._next_at - time.monotonic()) > 0:
                await happens_within(self._full, seconds)
            group = self._next_group()
            if not group:
                continue
            if any(call is not group[0][0] for call, _ in group):
                self._next_at = time.monotonic() + self._limits.spacing_seconds
            await self._commit_group(group)

    def _next_group(self) -> list[tuple[_Call[T, R], T]]:
        """Take items of all callers in turns, as many as fit into a group."""
        group: list[tuple[_Call[T, R], T]] = []
        size, is_full = 0, False
        while self._waiting and not is_full:
            call = self._waiting.popleft()
            if call.answer.done():  # it was cancelled, or one of its items has failed
                self._left -= call.left
                continue
            for item, item_size in call.items[call.taken : call.taken + TURN_ITEMS]:
                size += item_size
                is_full = len(group) == self._limits.items or size > self._limits.bytes
                if group and is_full:
                    self._waiting.appendleft(call)
                    break
                group.append((call, item))
                call.taken += 1
                self._left -= 1
            else:
                if call.left:
                    self._waiting.append(call)
        if self._left < self._limits.items:
            self._full.clear()
        return group

    async def _commit_group(self, group: Sequence[tuple[_Call[T, R], T]]) -> None:
        async for (call, item), result in bisect_on_failure(group, self._attempt, _may_split):
            if isinstance(result, _Nothing):
                continue
            if not isinstance(result, Exception):
                call.add(result)
            elif classify(result) in OF_ONE_ITEM:
                call.fail(self._named(item, result))
            else:
                for failed, _ in group:
                    failed.fail(result)
                return

    async def _attempt(self, part: Sequence[tuple[_Call[T, R], T]]) -> Sequence["R | _Nothing"]:
        """Commit those of ``part`` whose callers still wait, and return the results of all."""
        waiting = [not call.answer.done() for call, _ in part]
        items = [item for (_, item), waits in zip(part, waiting, strict=True) if waits]
        results = iter(await self._timed(items) if items else ())
        return [next(results) if waits else NOTHING for waits in waiting]

    async def _timed(self, items: Sequence[T]) -> Sequence[R]:
        began = time.perf_counter()
        results = await self._commit(items)
        metrics.observe(metrics.STAGE_SECONDS, time.perf_counter() - began, self._stage.value)
        return results

    def _named(self, item: T, error: Exception) -> Exception:
        if isinstance(error, StoreRejected):
            named = type(error)(f"{self._name(item)}: {error}")
            named.__cause__ = error
            return named
        return error


class _Nothing:
    """The result of an item whose caller does not wait for it any more."""


NOTHING: Final = _Nothing()


def _may_split(error: Exception) -> bool:
    return classify(error) in OF_ONE_ITEM or isinstance(error, StoreTooSlow)
