"""Packs the chunks of all running jobs into batches, and hands one to each child that is free.

A batch is made when somebody can take it, never before: nothing lingers while there is idleness,
and under load batches are full. If several children are idle, each takes its share of what little
there is. A batch is made around the text that has waited longest, with those that are nearest to it
in length, because in a batch all texts are padded to the longest.
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

from ingestq.core import events
from ingestq.core.documents import Lane
from ingestq.core.errors import DocumentRejected, PoolBroken, PoolFailure
from ingestq.core.service import Service
from worker.bisection import bisect_on_failure
from worker.embedding.backends import Vectors
from worker.lanes import next_lane
from worker.text.parts import SizedText

log = structlog.get_logger()

MAX_WAITING: Final = 4096
"""Texts of a lane that wait; who has more has to wait with them."""
SPECIAL_TOKENS: Final = 2
"""That most models put around a text."""


class Embedder(Protocol):
    """What computes vectors: processes of the pool, or an endpoint.

    It may be given ``slots`` batches at once, each of up to ``batch_texts`` texts with about
    ``batch_tokens`` tokens, padding counted.
    """

    slots: int
    batch_texts: int
    batch_tokens: int

    async def embed_each(self, texts: Sequence[str]) -> Sequence[Vectors | DocumentRejected]:
        """Embed chunks of documents: the vector of each, of unit length, or why it has none.

        Raises PoolFailure if a process died over them.
        """
        ...

    async def embed_query(self, text: str) -> Vectors:
        """Embed what somebody searches for; shape (dimension,), of unit length."""
        ...


@dataclass(eq=False)
class _Text:
    """A text that is to be embedded; ``done`` gets its vector, or why there is none."""

    text: str
    tokens: int
    done: "asyncio.Future[Vectors]" = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )

    def give(self, vector: Vectors) -> None:
        """Hand over its vector, unless nobody waits for it any more."""
        if not self.done.done():
            self.done.set_result(vector)

    def fail(self, error: Exception) -> None:
        """Say why there is no vector, unless nobody waits for it any more."""
        if not self.done.done():
            self.done.set_exception(error)


class _Waiting:
    """The texts of one lane that wait, known by age and by length.

    ``door`` is held by who adds some: whoever came first has the room that there is, or will be.
    """

    def __init__(self) -> None:
        self.door = asyncio.Lock()
        self.tokens = 0
        self._by_age: dict[_Text, None] = {}
        self._by_length: list[_Text] = []
        self._left = asyncio.Event()

    def __len__(self) -> int:
        return len(self._by_age)

    async def room(self) -> None:
        """Return when one more text may wait."""
        while len(self) >= MAX_WAITING:
            self._left.clear()
            await self._left.wait()

    def add(self, text: _Text) -> None:
        self._by_age[text] = None
        self.tokens += text.tokens
        insort(self._by_length, text, key=_tokens)

    def discard(self, text: _Text) -> None:
        if text in self._by_age:
            del self._by_age[text]
            self.tokens -= text.tokens
            self._by_length.remove(text)
            self._left.set()

    def take(self, most_texts: int, most_tokens: int) -> list[_Text]:
        """Take the oldest text, and those nearest to it in length that fit in a batch with it."""
        ordered = self._by_length
        oldest = next(iter(self._by_age))
        start = ordered.index(oldest)
        end = start + 1
        while end - start < most_texts:
            fitting = most_tokens // (end - start + 1)
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
        self._left.set()
        return taken


class Batcher:
    """Gives ``embedder`` batches of what all callers ask for, as an asynchronous context manager.

    Of both lanes, interactive texts come first; one batch in four is bulk if both wait.
    """

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self._waiting = {lane: _Waiting() for lane in Lane}
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

        Whoever is cancelled takes back what still waits. Raises DocumentRejected if a text is
        refused by itself or kills its process twice, and what the embedder raises.
        """
        waiting = self._waiting[lane]
        mine = [_Text(text.text, text.tokens + SPECIAL_TOKENS) for text in texts]
        try:
            async with waiting.door:
                for text in mine:
                    await waiting.room()
                    waiting.add(text)
                    self._arrived.set()
            return np.stack(await asyncio.gather(*(text.done for text in mine)))
        finally:
            for text in mine:
                waiting.discard(text)
                text.done.cancel()

    async def _serve(self, stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            await self._embed_batch(await self._next())

    async def _next(self) -> list[_Text]:
        self._idle += 1
        while (lane := self._lane()) is None:
            self._arrived.clear()
            await self._arrived.wait()
        self._batches += 1
        waiting, most_tokens = self._waiting[lane], self._embedder.batch_tokens
        if self._idle > 1:
            most_tokens = min(most_tokens, math.ceil(waiting.tokens / self._idle))
        self._idle -= 1
        return waiting.take(self._embedder.batch_texts, most_tokens)

    def _lane(self) -> Lane | None:
        bulk, interactive = self._waiting[Lane.BULK], self._waiting[Lane.INTERACTIVE]
        return next_lane(self._batches, bulk=bool(len(bulk)), interactive=bool(len(interactive)))

    async def _embed_batch(self, batch: list[_Text]) -> None:
        """Give each text of ``batch`` its vector, or the reason why it has none, once it is known.

        A batch over which processes die is halved, again and again, until the text that kills them
        is alone, and rejected alone.
        """
        embed = partial(self._embed, len(batch))
        async for text, outcome in bisect_on_failure(batch, embed, _may_be_one_text):
            if isinstance(outcome, Exception):
                text.fail(outcome)
            elif outcome is not None:
                text.give(outcome)

    async def _embed(
        self, batch_size: int, texts: Sequence[_Text]
    ) -> Sequence[Vectors | DocumentRejected | None]:
        """Embed all or some of a batch; None for texts that nobody waits for any more.

        Raises PoolFailure if one of ``texts`` may kill processes. Anything else may also kill one,
        once: the whole batch, and a text that is alone, have a second try. A text over which a
        process died twice is rejected. PoolBroken, if nobody knows twice over which batch the
        processes died, is no document's fault.
        """
        deaths_left = 2 if len(texts) in (1, batch_size) else 1
        pools_left = 2
        while waiting := [text for text in texts if not text.done.done()]:
            try:
                outcomes = await self._embedder.embed_each([text.text for text in waiting])
            except PoolBroken:
                pools_left -= 1
                if not pools_left:
                    raise
            except PoolFailure as error:
                log.warning(events.CHILD_FAILED, error=str(error))
                deaths_left -= 1
                if not deaths_left and len(texts) == 1:
                    raise DocumentRejected(f"twice, {error}") from error
                if not deaths_left:
                    raise
            else:
                by_text = dict(zip(waiting, outcomes, strict=True))
                return [by_text.get(text) for text in texts]
        return [None] * len(texts)


def _may_be_one_text(error: Exception) -> bool:
    return isinstance(error, PoolFailure) and not isinstance(error, PoolBroken)


def _tokens(text: _Text) -> int:
    return text.tokens
