"""The batcher, against an embedder that computes when it is told to: nothing is left to chance."""

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
"""Of the event loop, after which nothing moves any more unless the embedder does."""
PLENTY = 10**9


def vectors_of(texts: Sequence[str]) -> Vectors:
    """Vectors by which texts can be told apart."""
    digests = [blake2b(text.encode(), digest_size=8).digest() for text in texts]
    return np.frombuffer(b"".join(digests), np.uint8).reshape(len(texts), 8).astype(np.float32)


def tokens(text: str) -> int:
    [text_and_tokens] = sized([text])
    return text_and_tokens.tokens + SPECIAL_TOKENS


async def quiet() -> None:
    """Let everything run that can."""
    for _ in range(TURNS):
        await asyncio.sleep(0)


@dataclass(eq=False)
class Held:
    """A batch that the embedder was given."""

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
    """An embedder that answers a batch when the test does."""

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
        """Embed what is held, and all that comes after it."""
        while self.held:
            await self.held[0].embed()


@dataclass
class AnsweringEmbedder:
    """An embedder that answers at once what ``answer`` says."""

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
    """Who asks the batcher."""

    batcher: Batcher
    tasks: list[Asking] = field(default_factory=list)

    async def ask(self, *texts: str, lane: Lane = Lane.BULK) -> Asking:
        """Ask for ``texts``; returns when the batcher has done with them what it can."""
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
    """Whether ``task`` has its vectors, and they are those of ``texts``."""
    return task.done() and np.array_equal(task.result(), vectors_of(texts))


@dataclass
class Caller:
    """A caller whom hypothesis made up."""

    lane: Lane
    texts: list[str]
    task: Asking | None = None


@st.composite
def crowds(draw: st.DrawFn) -> list[Caller]:
    """Callers with texts of all lengths, no two of which are the same."""
    sizes = st.lists(st.integers(0, 120), min_size=1, max_size=6)
    made = draw(st.lists(st.tuples(st.sampled_from(Lane), sizes), min_size=1, max_size=8))
    return [
        Caller(lane, [f"{who}.{i} ".ljust(size, "x") for i, size in enumerate(lengths)])
        for who, (lane, lengths) in enumerate(made)
    ]


class Watching(HeldEmbedder):
    """Looks at every batch when it is made: it has the oldest text, and is no larger than asked."""

    waiting: dict[Lane, list[str]]

    async def embed_each(self, texts: Sequence[str]) -> Sequence[Outcome]:
        [lane] = [lane for lane, waiting in self.waiting.items() if texts[0] in waiting]
        assert self.waiting[lane][0] in texts, "somebody who came later was served first"
        self.waiting[lane] = [text for text in self.waiting[lane] if text not in texts]
        padded = len(texts) * max(map(tokens, texts))
        assert len(texts) <= self.batch_texts
        assert len(texts) == 1 or padded <= self.batch_tokens
        return await super().embed_each(texts)


@settings(deadline=None)
@given(data=st.data(), crowd=crowds())
async def test_everybody_gets_the_vectors_of_their_texts_in_order(
    data: st.DataObject, crowd: list[Caller]
) -> None:
    embedder = Watching(
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


async def test_an_idle_embedder_is_given_a_text_at_once_and_alone() -> None:
    embedder = HeldEmbedder(slots=2, batch_texts=64)
    async with serving(embedder) as callers:
        await callers.ask("one")
        await callers.ask("two")
        assert embedder.given == [["one"], ["two"]]


async def test_what_waits_for_a_busy_embedder_goes_together() -> None:
    embedder = HeldEmbedder(batch_texts=64)
    async with serving(embedder) as callers:
        for text in ("one", "two", "three"):
            await callers.ask(text)
        await embedder.held[0].embed()
        assert [sorted(batch) for batch in embedder.given] == [["one"], ["three", "two"]]


async def test_texts_of_about_the_same_length_go_together() -> None:
    short, long = "x" * 40, "x" * 400  # 12 tokens, and 102
    embedder = HeldEmbedder(batch_texts=64, batch_tokens=3 * tokens("0" + long))
    async with serving(embedder) as callers:
        await callers.ask("busy")
        await callers.ask(*(f"{i}{text}" for i in range(3) for text in (long, short)))
        await embedder.finish()
        assert [sorted(map(len, batch)) for batch in embedder.given[1:]] == [[401] * 3, [41] * 3]


async def test_children_that_are_idle_share_what_little_there_is() -> None:
    embedder = HeldEmbedder(slots=3, batch_texts=64)
    async with serving(embedder) as callers:
        await callers.ask("a", "b", "c", "d", "e", "f")
        assert [len(texts) for texts in embedder.given] == [2, 2, 2]
        await callers.ask("g", "h", "i")
        await embedder.held[0].embed()
        assert len(embedder.given[-1]) == 3, "nobody else is idle"
        await embedder.finish()


async def test_the_nearest_in_length_go_together_be_they_shorter_or_longer() -> None:
    embedder = HeldEmbedder(batch_texts=3)
    async with serving(embedder) as callers:
        await callers.ask("busy")
        await callers.ask(*("x" * size for size in (200, 160, 800, 240, 400)))
        await embedder.finish()
        assert [[len(text) for text in batch] for batch in embedder.given[1:]] == [
            [160, 200, 240],
            [400, 800],
        ]


async def test_each_is_done_when_their_own_texts_are() -> None:
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


async def test_so_many_texts_wait_and_no_more() -> None:
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


async def test_who_waits_for_room_has_that_of_who_is_cancelled() -> None:
    embedder = HeldEmbedder()
    async with serving(embedder) as callers:
        await callers.ask("busy")
        many = await callers.ask(*(f"text {i}" for i in range(MAX_WAITING)))
        waiting = await callers.ask("waits for room")
        many.cancel()
        await quiet()
        await embedder.finish()
        assert got(waiting, "waits for room")
        assert len(embedder.given) == 2


async def test_who_came_first_has_the_room_first() -> None:
    embedder = HeldEmbedder()
    texts = [f"text {i}" for i in range(MAX_WAITING + 2)]
    async with serving(embedder) as callers:
        await callers.ask(*texts)  # one is embedded, and one has to wait for room
        await callers.ask("later")
        embedder.held[0].answer.set_result(vectors_of(texts[:1]))
        await callers.ask("latest")  # it comes the moment there is room
        await embedder.finish()
    assert [text for [text] in embedder.given] == [*texts, "later", "latest"]


async def test_what_a_cancelled_caller_waited_for_is_not_computed() -> None:
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


async def test_a_batch_goes_on_without_whom_it_was_begun_for() -> None:
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


async def test_a_batch_over_which_a_process_died_once_is_embedded_again() -> None:
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
async def test_who_kills_processes_is_found_and_rejected_alone(poisoned: list[bool]) -> None:
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


async def test_finding_one_text_of_a_thousand_costs_few_processes() -> None:
    embedder = AnsweringEmbedder(dies_over_poison, batch_texts=1024)
    async with serving(embedder) as callers:
        texts = [POISON, *(f"text {i}" for i in range(1023))]
        with pytest.raises(DocumentRejected):
            await callers.batcher.embed(Lane.BULK, sized(texts))
    deaths = [batch for batch in embedder.given if POISON in batch]
    assert [len(batch) for batch in deaths] == [
        1024, 1024, 512, 256, 128, 64, 32, 16, 8, 4, 2, 1, 1,
    ]  # fmt: skip


async def test_batch_mates_do_not_wait_until_the_guilty_one_is_found() -> None:
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


async def test_a_text_that_is_refused_is_rejected_alone() -> None:
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


async def test_if_nobody_knows_whom_to_blame_nobody_is_rejected() -> None:
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
async def test_a_text_is_to_blame_for_deaths_over_it_only(
    order: tuple[type[PoolFailure], ...],
) -> None:
    embedder = HeldEmbedder()
    async with serving(embedder) as callers:
        asking = await callers.ask("a")
        for kind in order:
            await embedder.held[0].fail(kind("it died"))
        await embedder.finish()
        assert got(asking, "a")


async def test_an_error_that_nobody_foresaw_is_that_of_its_batch_only() -> None:
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


async def test_an_error_reaches_who_still_waits_and_nobody_else() -> None:
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


async def test_an_error_that_nobody_waits_for_is_no_defect(
    caplog: pytest.LogCaptureFixture,
) -> None:
    embedder = HeldEmbedder()
    async with serving(embedder) as callers:
        asking = await callers.ask(*(f"text {i}" for i in range(MAX_WAITING + 10)))
        await embedder.held[0].fail(MemoryError())  # while most of it waits for room
        asking.cancel()
        await quiet()
        assert asking.cancelled()
        callers.tasks.clear()
        del asking
        gc.collect()  # what is forgotten unseen is logged now
    assert "never retrieved" not in caplog.text


async def test_an_embedder_that_gives_too_few_vectors_is_no_end_of_the_batcher() -> None:
    embedder = HeldEmbedder(batch_texts=2)
    async with serving(embedder) as callers:
        asking = await callers.ask("a", "b")
        embedder.held[0].answer.set_result(vectors_of(["a"]))
        await quiet()
        assert isinstance(asking.exception(), ValueError)
        later = await callers.ask("c")
        await embedder.finish()
        assert got(later, "c")


async def test_a_batch_that_is_done_again_leaves_out_what_nobody_wants_any_more() -> None:
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
