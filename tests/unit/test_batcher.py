"""The batcher, with an embedder that answers only when the test tells it to."""

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingestq.core.documents import Lane
from ingestq.core.errors import DocumentRejected, PoolBroken, PoolFailure
from tests.sized import sized
from worker.embedding.backends import Vectors
from worker.embedding.batcher import MAX_WAITING, SPECIAL_TOKENS, Batcher

Outcome = Vectors | DocumentRejected

TURNS = 30
"""Turns of the event loop after which only the embedder can change anything."""
PLENTY = 10**9


def vectors_of(texts: Sequence[str]) -> Vectors:
    """Return a different vector for each text."""
    digests = [blake2b(text.encode(), digest_size=8).digest() for text in texts]
    return np.frombuffer(b"".join(digests), np.uint8).reshape(len(texts), 8).astype(np.float32)


def tokens(text: str) -> int:
    [text_and_tokens] = sized([text])
    return text_and_tokens.tokens + SPECIAL_TOKENS


async def quiet() -> None:
    """Let all tasks run until they wait."""
    for _ in range(TURNS):
        await asyncio.sleep(0)


@dataclass(eq=False)
class Held:
    """A batch that the embedder has received and not answered."""

    texts: list[str]
    answer: "asyncio.Future[Vectors]" = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )

    async def embed(self) -> None:
        self.answer.set_result(vectors_of(self.texts))
        await quiet()

    async def fail(self, error: Exception) -> None:
        self.answer.set_exception(error)
        await quiet()


@dataclass
class HeldEmbedder:
    """An embedder whose batches are answered by the test."""

    slots: int = 1
    batch_texts: int = 1
    batch_tokens: int = PLENTY
    held: list[Held] = field(default_factory=list)
    given: list[list[str]] = field(default_factory=list)

    async def embed_each(self, texts: Sequence[str]) -> Sequence[Outcome]:
        held = Held(list(texts))
        self.held.append(held)
        self.given.append(held.texts)
        try:
            return list(await held.answer)
        finally:
            self.held.remove(held)

    async def embed_query(self, text: str) -> Vectors:
        raise NotImplementedError

    async def finish(self) -> None:
        """Embed the held batches, and all later ones at once."""
        while self.held:
            await self.held[0].embed()


@dataclass
class AnsweringEmbedder:
    """An embedder that answers at once with ``answer(texts)``."""

    answer: Callable[[Sequence[str]], Iterable[Outcome]]
    slots: int = 1
    batch_texts: int = 64
    batch_tokens: int = PLENTY
    given: list[list[str]] = field(default_factory=list)

    async def embed_each(self, texts: Sequence[str]) -> Sequence[Outcome]:
        self.given.append(list(texts))
        return list(self.answer(texts))

    async def embed_query(self, text: str) -> Vectors:
        raise NotImplementedError


Asking = asyncio.Task[Vectors]


@dataclass
class Callers:
    """Callers of the batcher."""

    batcher: Batcher
    tasks: list[Asking] = field(default_factory=list)

    async def ask(self, *texts: str, lane: Lane = Lane.BULK) -> Asking:
        """Ask for ``texts``; return when the batcher cannot do more without the embedder."""
        task = asyncio.create_task(self.batcher.embed(lane, sized(texts)))
        self.tasks.append(task)
        await quiet()
        return task


@asynccontextmanager
async def serving(embedder: HeldEmbedder | AnsweringEmbedder) -> AsyncIterator[Callers]:
    async with Batcher(embedder) as batcher:
        callers = Callers(batcher)
        try:
            yield callers
        finally:
            for task in callers.tasks:
                task.cancel()
            await asyncio.gather(*callers.tasks, return_exceptions=True)


def got(task: Asking, *texts: str) -> bool:
    """Return whether ``task`` has ended with the vectors of ``texts``."""
    return task.done() and np.array_equal(task.result(), vectors_of(texts))


@dataclass
class Caller:
    """A caller drawn by hypothesis."""

    lane: Lane
    texts: list[str]
    task: Asking | None = None


@st.composite
def crowds(draw: st.DrawFn) -> list[Caller]:
    """Draw callers with texts of all lengths, no two of which are equal."""
    sizes = st.lists(st.integers(0, 120), min_size=1, max_size=6)
    made = draw(st.lists(st.tuples(st.sampled_from(Lane), sizes), min_size=1, max_size=8))
    return [
        Caller(lane, [f"{who}.{i} ".ljust(size, "x") for i, size in enumerate(lengths)])
        for who, (lane, lengths) in enumerate(made)
    ]


class CheckingEmbedder(HeldEmbedder):
    """Checks each batch: it contains the oldest text, and is not too large."""

    waiting: dict[Lane, list[str]]

    async def embed_each(self, texts: Sequence[str]) -> Sequence[Outcome]:
        [lane] = [lane for lane, waiting in self.waiting.items() if texts[0] in waiting]
        assert self.waiting[lane][0] in texts, "a later caller was served first"
        self.waiting[lane] = [text for text in self.waiting[lane] if text not in texts]
        padded = len(texts) * max(map(tokens, texts))
        assert len(texts) <= self.batch_texts
        assert len(texts) == 1 or padded <= self.batch_tokens
        return await super().embed_each(texts)


@settings(deadline=None)
@given(data=st.data(), crowd=crowds())
async def test_every_caller_gets_the_vectors_of_its_texts_in_order(
    data: st.DataObject, crowd: list[Caller]
) -> None:
    embedder = CheckingEmbedder(
        slots=data.draw(st.integers(1, 3)),
        batch_texts=data.draw(st.integers(1, 8)),
        batch_tokens=data.draw(st.integers(1, 200)),
    )
    embedder.waiting = {lane: [] for lane in Lane}
    cancelled: list[Caller] = []
    async with serving(embedder) as callers:
        to_come = list(crowd)
        while to_come or embedder.held:
            # Whatever has come: a free slot and a text that waits are never seen together.
            idle = len(embedder.held) < embedder.slots
            assert not (idle and any(embedder.waiting.values())), "lingers"
            begun = [c for c in crowd if c.task is not None and not c.task.done()]
            steps = ["come"] * bool(to_come) + ["embed"] * bool(embedder.held)
            match data.draw(st.sampled_from(steps + ["cancel"] * bool(begun))):
                case "come":
                    caller = to_come.pop(0)
                    embedder.waiting[caller.lane] += caller.texts
                    caller.task = await callers.ask(*caller.texts, lane=caller.lane)
                case "embed":
                    await data.draw(st.sampled_from(embedder.held)).embed()
                case _:
                    caller = data.draw(st.sampled_from(begun))
                    cancelled.append(caller)
                    assert caller.task is not None
                    caller.task.cancel()
                    waiting = embedder.waiting[caller.lane]
                    embedder.waiting[caller.lane] = [t for t in waiting if t not in caller.texts]
                    await quiet()
        for caller in crowd:
            assert caller.task is not None
            if caller in cancelled:
                assert caller.task.cancelled()
            else:
                assert got(caller.task, *caller.texts)
    assert all(len(set(batch)) == len(batch) for batch in embedder.given)


async def test_an_idle_embedder_gets_a_text_at_once() -> None:
    embedder = HeldEmbedder(slots=2, batch_texts=64)
    async with serving(embedder) as callers:
        await callers.ask("one")
        await callers.ask("two")
        assert embedder.given == [["one"], ["two"]]


async def test_texts_that_wait_for_a_busy_embedder_become_one_batch() -> None:
    embedder = HeldEmbedder(batch_texts=64)
    async with serving(embedder) as callers:
        for text in ("one", "two", "three"):
            await callers.ask(text)
        await embedder.held[0].embed()
        assert [sorted(batch) for batch in embedder.given] == [["one"], ["three", "two"]]


async def test_texts_of_similar_length_share_a_batch() -> None:
    short, long = "x" * 40, "x" * 400  # 12 tokens, and 102
    embedder = HeldEmbedder(batch_texts=64, batch_tokens=3 * tokens("0" + long))
    async with serving(embedder) as callers:
        await callers.ask("busy")
        await callers.ask(*(f"{i}{text}" for i in range(3) for text in (long, short)))
        await embedder.finish()
        assert [sorted(map(len, batch)) for batch in embedder.given[1:]] == [[401] * 3, [41] * 3]


async def test_idle_slots_share_the_waiting_texts() -> None:
    embedder = HeldEmbedder(slots=3, batch_texts=64)
    async with serving(embedder) as callers:
        await callers.ask("a", "b", "c", "d", "e", "f")
        assert [len(texts) for texts in embedder.given] == [2, 2, 2]
        await callers.ask("g", "h", "i")
        await embedder.held[0].embed()
        assert len(embedder.given[-1]) == 3, "no other slot is idle"
        await embedder.finish()


async def test_the_last_batches_get_smaller_but_not_tiny() -> None:
    texts = [f"{i:02}" for i in range(28)]
    full = 16 * tokens(texts[0])
    embedder = HeldEmbedder(slots=2, batch_texts=64, batch_tokens=full)
    async with serving(embedder) as callers:
        await callers.ask("ab")
        await callers.ask("cd")
        await callers.ask(*texts)
        await embedder.finish()
        assert [len(batch) for batch in embedder.given[2:]] == [14, 7, 4, 3]


async def test_a_batch_takes_the_texts_nearest_in_length_shorter_or_longer() -> None:
    embedder = HeldEmbedder(batch_texts=3)
    async with serving(embedder) as callers:
        await callers.ask("busy")
        await callers.ask(*("x" * size for size in (200, 160, 800, 240, 400)))
        await embedder.finish()
        assert [[len(text) for text in batch] for batch in embedder.given[1:]] == [
            [160, 200, 240],
            [400, 800],
        ]


async def test_a_caller_is_done_as_soon_as_its_own_texts_are() -> None:
    embedder = HeldEmbedder()
    async with serving(embedder) as callers:
        first = await callers.ask("a", "b")
        second = await callers.ask("c")
        await embedder.held[0].embed()
        assert not first.done()
        await embedder.held[0].embed()
        assert got(first, "a", "b")
        assert not second.done()
        await embedder.finish()
        assert got(second, "c")


async def test_interactive_texts_come_first_and_one_batch_in_four_is_bulk() -> None:
    embedder = HeldEmbedder()
    async with serving(embedder) as callers:
        await callers.ask("busy")
        await callers.ask(*(f"bulk {i}" for i in range(20)))
        await callers.ask(*(f"interactive {i}" for i in range(20)), lane=Lane.INTERACTIVE)
        await embedder.finish()
    order = [batch[0].split()[0] for batch in embedder.given[1:]]
    while_both_waited = order[: 4 * 6]
    fours = [while_both_waited[i : i + 4] for i in range(0, 24, 4)]
    assert all(four.count("bulk") == 1 for four in fours)
    assert order.count("interactive") == order.count("bulk") == 20


async def test_the_number_of_waiting_texts_is_bounded() -> None:
    embedder = HeldEmbedder(batch_texts=PLENTY)
    texts = [f"text {i}" for i in range(MAX_WAITING + 10)]
    async with serving(embedder) as callers:
        asking = await callers.ask(*texts)
        assert len(embedder.given[0]) == MAX_WAITING
        await embedder.finish()
        assert got(asking, *texts)
        assert len(embedder.given[1]) == 10


async def test_a_full_lane_does_not_hold_up_the_other() -> None:
    embedder = HeldEmbedder()
    async with serving(embedder) as callers:
        await callers.ask(*(f"text {i}" for i in range(MAX_WAITING + 10)))
        urgent = await callers.ask("urgent", lane=Lane.INTERACTIVE)
        await embedder.held[0].embed()
        await embedder.held[0].embed()
        assert got(urgent, "urgent")


async def test_a_blocked_caller_takes_the_place_of_a_cancelled_one() -> None:
    embedder = HeldEmbedder()
    async with serving(embedder) as callers:
        await callers.ask("busy")
        many = await callers.ask(*(f"text {i}" for i in range(MAX_WAITING)))
        waiting = await callers.ask("waits for space")
        many.cancel()
        await quiet()
        await embedder.finish()
        assert got(waiting, "waits for space")
        assert len(embedder.given) == 2


async def test_blocked_callers_are_admitted_in_order() -> None:
    embedder = HeldEmbedder()
    texts = [f"text {i}" for i in range(MAX_WAITING + 2)]
    async with serving(embedder) as callers:
        await callers.ask(*texts)  # one is embedded, and one has to wait for space
        await callers.ask("later")
        embedder.held[0].answer.set_result(vectors_of(texts[:1]))
        await callers.ask("latest")  # it arrives the moment there is space
        await embedder.finish()
    assert [text for [text] in embedder.given] == [*texts, "later", "latest"]


async def test_texts_of_a_cancelled_caller_are_not_embedded() -> None:
    embedder = HeldEmbedder(batch_texts=2)
    async with serving(embedder) as callers:
        await callers.ask("busy")
        mine = await callers.ask("mine 1", "mine 2", "mine 3")
        theirs = await callers.ask("theirs")
        mine.cancel()
        await quiet()
        assert mine.cancelled()
        await embedder.finish()
        assert got(theirs, "theirs")
        assert embedder.given == [["busy"], ["theirs"]]


async def test_a_running_batch_survives_the_cancellation_of_a_caller() -> None:
    embedder = HeldEmbedder(batch_texts=2)
    async with serving(embedder) as callers:
        await callers.ask("busy")
        mine = await callers.ask("mine")
        theirs = await callers.ask("theirs")
        await embedder.held[0].embed()
        mine.cancel()
        await quiet()
        await embedder.finish()
        assert mine.cancelled()
        assert got(theirs, "theirs")


async def test_a_batch_is_retried_after_its_process_died_once() -> None:
    embedder = HeldEmbedder(batch_texts=8)
    async with serving(embedder) as callers:
        asking = await callers.ask("a", "b", "c")
        await embedder.held[0].fail(PoolFailure("it died"))
        await embedder.finish()
        assert got(asking, "a", "b", "c")
        assert len(embedder.given) == 2
        assert embedder.given[0] == embedder.given[1]


POISON = "poison"


def dies_over_poison(texts: Sequence[str]) -> Vectors:
    if any(POISON in text for text in texts):
        raise PoolFailure("it died")
    return vectors_of(texts)


@settings(deadline=None)
@given(poisoned=st.lists(st.booleans(), min_size=1, max_size=40))
async def test_only_texts_that_kill_processes_are_rejected(poisoned: list[bool]) -> None:
    embedder = AnsweringEmbedder(dies_over_poison)
    texts = [f"{i} {POISON if bad else 'harmless'}" for i, bad in enumerate(poisoned)]
    async with serving(embedder) as callers:
        asking = [
            asyncio.create_task(callers.batcher.embed(Lane.BULK, sized([text]))) for text in texts
        ]
        outcomes = await asyncio.gather(*asking, return_exceptions=True)
    for text, bad, outcome in zip(texts, poisoned, outcomes, strict=True):
        if bad:
            assert isinstance(outcome, DocumentRejected)
            assert str(outcome) == "twice, it died"
            assert embedder.given.count([text]) == 2, "it died over it alone, and twice"
        else:
            assert not isinstance(outcome, BaseException)
            assert np.array_equal(outcome, vectors_of([text]))


async def test_finding_one_bad_text_of_a_thousand_costs_few_processes() -> None:
    embedder = AnsweringEmbedder(dies_over_poison, batch_texts=1024)
    async with serving(embedder) as callers:
        texts = [POISON, *(f"text {i}" for i in range(1023))]
        with pytest.raises(DocumentRejected):
            await callers.batcher.embed(Lane.BULK, sized(texts))
    deaths = [batch for batch in embedder.given if POISON in batch]
    assert [len(batch) for batch in deaths] == [
        1024, 1024, 512, 256, 128, 64, 32, 16, 8, 4, 2, 1, 1,
    ]  # fmt: skip


async def test_good_texts_of_a_batch_do_not_wait_for_the_search_for_the_bad_one() -> None:
    embedder = HeldEmbedder(batch_texts=4)
    async with serving(embedder) as callers:
        await callers.ask("busy")
        innocent = await callers.ask("a", "b")
        guilty = await callers.ask(f"c {POISON}", "d")
        await embedder.held[0].embed()
        for _ in range(2):
            await embedder.held[0].fail(PoolFailure("it died"))
        await embedder.held[0].embed()
        assert got(innocent, "a", "b")
        assert not guilty.done()


async def test_a_refused_text_is_rejected_alone() -> None:
    def refuses(texts: Sequence[str]) -> list[Outcome]:
        rows = vectors_of(texts)
        bad = [POISON in text for text in texts]
        return [
            DocumentRejected("too long") if b else row for b, row in zip(bad, rows, strict=True)
        ]

    embedder = AnsweringEmbedder(refuses)
    async with serving(embedder) as callers:
        asking = [
            asyncio.create_task(callers.batcher.embed(Lane.BULK, sized([text])))
            for text in ("harmless", POISON, "harmless, too")
        ]
        outcomes = await asyncio.gather(*asking, return_exceptions=True)
    assert [isinstance(outcome, DocumentRejected) for outcome in outcomes] == [False, True, False]
    assert str(outcomes[1]) == "too long"
    assert len(embedder.given) == 1


async def test_a_broken_pool_rejects_no_text() -> None:
    embedder = HeldEmbedder(batch_texts=2)
    async with serving(embedder) as callers:
        await callers.ask("busy")
        asking = [await callers.ask("a"), await callers.ask("b")]
        await embedder.held[0].embed()
        await embedder.held[0].fail(PoolBroken("all died"))
        assert embedder.given[1] == embedder.given[2]
        await embedder.held[0].fail(PoolBroken("all died"))
        for task in asking:
            assert isinstance(task.exception(), PoolBroken)
        again = await callers.ask("c")
        await embedder.finish()
        assert got(again, "c")


@pytest.mark.parametrize("order", [(PoolBroken, PoolFailure), (PoolFailure, PoolBroken)])
async def test_a_text_is_rejected_only_for_deaths_in_its_own_batches(
    order: tuple[type[PoolFailure], ...],
) -> None:
    embedder = HeldEmbedder()
    async with serving(embedder) as callers:
        asking = await callers.ask("a")
        for kind in order:
            await embedder.held[0].fail(kind("it died"))
        await embedder.finish()
        assert got(asking, "a")


async def test_an_unexpected_error_fails_only_its_batch() -> None:
    embedder = HeldEmbedder(batch_texts=2)
    async with serving(embedder) as callers:
        await callers.ask("busy")
        asking = [await callers.ask("a"), await callers.ask("b")]
        await embedder.held[0].embed()
        later = await callers.ask("c")
        error = MemoryError()
        await embedder.held[0].fail(error)
        assert [task.exception() for task in asking] == [error, error]
        await embedder.finish()
        assert got(later, "c")


async def test_an_error_reaches_only_callers_that_still_wait() -> None:
    embedder = HeldEmbedder(batch_texts=2)
    async with serving(embedder) as callers:
        await callers.ask("busy")
        mine, theirs = await callers.ask("mine"), await callers.ask("theirs")
        await embedder.held[0].embed()
        mine.cancel()
        await quiet()
        await embedder.held[0].fail(MemoryError())
        assert isinstance(theirs.exception(), MemoryError)
        later = await callers.ask("later")
        await embedder.finish()
        assert got(later, "later")


async def test_an_error_without_a_waiting_caller_is_not_reported(
    caplog: pytest.LogCaptureFixture,
) -> None:
    embedder = HeldEmbedder()
    async with serving(embedder) as callers:
        asking = await callers.ask(*(f"text {i}" for i in range(MAX_WAITING + 10)))
        await embedder.held[0].fail(MemoryError())  # while most of it waits for space
        asking.cancel()
        await quiet()
        assert asking.cancelled()
        callers.tasks.clear()
        del asking
        gc.collect()  # what is forgotten unseen is logged now
    assert "never retrieved" not in caplog.text


async def test_the_batcher_survives_an_embedder_that_returns_too_few_vectors() -> None:
    embedder = HeldEmbedder(batch_texts=2)
    async with serving(embedder) as callers:
        asking = await callers.ask("a", "b")
        embedder.held[0].answer.set_result(vectors_of(["a"]))
        await quiet()
        assert isinstance(asking.exception(), ValueError)
        later = await callers.ask("c")
        await embedder.finish()
        assert got(later, "c")


async def test_a_retried_batch_omits_texts_of_cancelled_callers() -> None:
    embedder = HeldEmbedder(batch_texts=2)
    async with serving(embedder) as callers:
        await callers.ask("busy")
        mine, theirs = await callers.ask("mine"), await callers.ask("theirs")
        await embedder.held[0].embed()
        mine.cancel()
        await quiet()
        await embedder.held[0].fail(PoolFailure("it died"))
        assert embedder.held[0].texts == ["theirs"]
        await embedder.finish()
        assert got(theirs, "theirs")
