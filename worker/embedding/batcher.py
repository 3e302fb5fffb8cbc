"""Packs the chunks of all running jobs into batches, one for each free slot of the embedder.

A batch is made only when a slot is free: no text waits while a slot is idle, and under load batches
are full. If several slots are idle, each takes an equal share of what is waiting; the last batches
get smaller, so that all slots end at about the same time. A batch holds the text that has waited
longest and those nearest to it in length, because all texts of a batch are padded to the longest.
"""

import asyncio
import math
from bisect import insort
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Final, Protocol, Self

import numpy as np
import structlog

from ingestq.core import events, metrics
from ingestq.core.documents import Lane
from ingestq.core.errors import DocumentRejected, LimitExceeded, PoolBroken, PoolFailure
from ingestq.core.service import Service
from worker.bisection import bisect_on_failure
from worker.embedding.backends import Vectors
from worker.lanes import next_lane
from worker.text.parts import SizedText

log = structlog.get_logger()

MAX_WAITING: Final = 4096
"""Texts of a lane that may wait; callers with more texts wait until there is space."""
LEAST_SHARE: Final = 4
"""While other slots are busy, a batch is at least one in so many of a full one: smaller ones cost
more than they gain."""
SPECIAL_TOKENS: Final = 2
"""Special tokens that most models put around a text."""


class Embedder(Protocol):
    """Computes vectors: the embedding processes, or an endpoint.

    It takes ``slots`` batches at once, each of up to ``batch_texts`` texts with about
    ``batch_tokens`` tokens including padding.
    """

    slots: int
    batch_texts: int
    batch_tokens: int

    async def embed_each(self, texts: Sequence[str]) -> Sequence[Vectors | DocumentRejected]:
        """Embed chunks of documents; return the vector of each (unit length), or its rejection.

        Raises PoolFailure if a process died over them.
        """
        ...

    async def embed_query(self, text: str) -> Vectors:
        """Embed a search query; shape (dimension,), of unit length."""
        ...


@dataclass(eq=False)
class _Text:
    """A text to embed; ``done`` gets its vector or its error."""

    text: str
    tokens: int
    done: "asyncio.Future[Vectors]" = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )

    def set_vector(self, vector: Vectors) -> None:
        """Set the vector, unless the caller has stopped waiting."""
        if not self.done.done():
            self.done.set_result(vector)

    def set_error(self, error: Exception) -> None:
        """Set the error, unless the caller has stopped waiting."""
        if not self.done.done():
            self.done.set_exception(error)


class _LaneQueue:
    """The waiting texts of one lane, ordered by age and by length.

    Callers hold ``adding`` while they add texts, so space goes to them in the order they came.
    """

    def __init__(self) -> None:
        self.adding = asyncio.Lock()
        self.tokens = 0
        self._by_age: dict[_Text, None] = {}
        self._by_length: list[_Text] = []
        self._removed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._by_age)

    async def wait_for_space(self) -> None:
        """Return when one more text may be added."""
        while len(self) >= MAX_WAITING:
            self._removed.clear()
            await self._removed.wait()

    def add(self, text: _Text) -> None:
        self._by_age[text] = None
        self.tokens += text.tokens
        insort(self._by_length, text, key=_tokens)

    def discard(self, text: _Text) -> None:
        if text in self._by_age:
            del self._by_age[text]
            self.tokens -= text.tokens
            self._by_length.remove(text)
            self._removed.set()

    def take(self, max_texts: int, max_tokens: int) -> list[_Text]:
        """Remove and return a batch: the oldest text and those nearest to it in length that fit."""
        ordered = self._by_length
        oldest = next(iter(self._by_age))
        start = ordered.index(oldest)
        end = start + 1
        while end - start < max_texts:
            fitting = max_tokens // (end - start + 1)
            left = start > 0 and ordered[end - 1].tokens <= fitting
            right = end < len(ordered) and ordered[end].tokens <= fitting
            if left and right:
                below, above = ordered[start - 1].tokens, ordered[end].tokens
                left = oldest.tokens - below <= above - oldest.tokens
            if left:
                start -= 1
            elif right:
                end += 1
            else:
                break
        taken = ordered[start:end]
        del ordered[start:end]
        for text in taken:
            del self._by_age[text]
            self.tokens -= text.tokens
        self._removed.set()
        return taken


class Batcher:
    """Batches the texts of all callers for ``embedder``. Use it as an asynchronous context manager.

    Interactive texts go before bulk ones; while both wait, one batch in four is bulk.
    """

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self._queues = {lane: _LaneQueue() for lane in Lane}
        self._arrived = asyncio.Event()
        self._batches = 0
        self._idle = 0
        self._slots = AsyncExitStack()

    async def __aenter__(self) -> Self:
        for slot in range(self._embedder.slots):
            await self._slots.enter_async_context(
                Service(self._serve, name=f"embed in slot {slot}")
            )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._slots.__aexit__(kind, error, trace)

    async def embed(self, lane: Lane, texts: Sequence[SizedText]) -> Vectors:
        """Embed ``texts``; shape (texts, dimension).

        If the caller is cancelled, its waiting texts are removed. Raises DocumentRejected if a
        text is refused or kills its process twice, and what the embedder raises.
        """
        queue = self._queues[lane]
        mine = [_Text(text.text, text.tokens + SPECIAL_TOKENS) for text in texts]
        try:
            async with queue.adding:
                for text in mine:
                    await queue.wait_for_space()
                    queue.add(text)
                    self._arrived.set()
            return np.stack(await asyncio.gather(*(text.done for text in mine)))
        finally:
            for text in mine:
                queue.discard(text)
                text.done.cancel()

    async def _serve(self, stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            await self._embed_batch(await self._next_batch())

    async def _next_batch(self) -> list[_Text]:
        self._idle += 1
        while (lane := self._next_lane()) is None:
            self._arrived.clear()
            await self._arrived.wait()
        self._batches += 1
        queue, embedder = self._queues[lane], self._embedder
        if self._idle > 1:
            share = math.ceil(queue.tokens / self._idle)
        else:
            share = max(queue.tokens // embedder.slots, embedder.batch_tokens // LEAST_SHARE)
        self._idle -= 1
        batch = queue.take(embedder.batch_texts, min(share, embedder.batch_tokens))
        padded = len(batch) * max(map(_tokens, batch))
        metrics.observe(metrics.BATCH_CHUNKS, len(batch))
        metrics.observe(metrics.BATCH_FILL, padded / embedder.batch_tokens)
        return batch

    def _next_lane(self) -> Lane | None:
        bulk, interactive = self._queues[Lane.BULK], self._queues[Lane.INTERACTIVE]
        return next_lane(self._batches, bulk=bool(len(bulk)), interactive=bool(len(interactive)))

    async def _embed_batch(self, batch: list[_Text]) -> None:
        """Set the vector or the error of each text of ``batch`` as soon as it is known.

        A batch over which processes die is bisected until the text that kills them is alone, and
        only that text is rejected.
        """
        embed = partial(self._embed, len(batch))
        async for text, outcome in bisect_on_failure(batch, embed, _may_be_one_text):
            if isinstance(outcome, Exception):
                text.set_error(outcome)
            elif outcome is not None:
                text.set_vector(outcome)

    async def _embed(
        self, batch_size: int, texts: Sequence[_Text]
    ) -> Sequence[Vectors | DocumentRejected | None]:
        """Embed all or some texts of a batch; None for those whose caller has stopped waiting.

        Raises PoolFailure if one of ``texts`` may kill processes. Because a process may also die of
        something else, the whole batch and a single text get a second try. A text over which a
        process died twice is rejected. Raises PoolBroken if it is unknown, twice in a row, over
        which batch the processes died: that is no document's fault.
        """
        failures_left = 2 if len(texts) in (1, batch_size) else 1
        broken_pools_left = 2
        while waiting := [text for text in texts if not text.done.done()]:
            try:
                outcomes = await self._embedder.embed_each([text.text for text in waiting])
            except PoolBroken:
                broken_pools_left -= 1
                if not broken_pools_left:
                    raise
            except LimitExceeded as error:
                log.warning(events.PROCESS_CRASHED, error=str(error))
                if len(texts) == 1:
                    raise DocumentRejected(str(error)) from error
                raise
            except PoolFailure as error:
                log.warning(events.PROCESS_CRASHED, error=str(error))
                failures_left -= 1
                if not failures_left and len(texts) == 1:
                    raise DocumentRejected(f"twice, {error}") from error
                if not failures_left:
                    raise
            else:
                metrics.count(metrics.EMBEDDED_CHUNKS, amount=len(waiting))
                metrics.count(metrics.EMBEDDED_TOKENS, amount=sum(map(_tokens, waiting)))
                by_text = dict(zip(waiting, outcomes, strict=True))
                return [by_text.get(text) for text in texts]
        return [None] * len(texts)


def _may_be_one_text(error: Exception) -> bool:
    return isinstance(error, PoolFailure) and not isinstance(error, PoolBroken)


def _tokens(text: _Text) -> int:
    return text.tokens
