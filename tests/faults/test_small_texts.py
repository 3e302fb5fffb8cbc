"""Small texts share a task of a parse process, and what one of them does costs only itself."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestq.core.documents import Document, Lane
from ingestq.core.errors import DocumentRejected
from worker.embedding.config import EmbeddingConfig
from worker.embedding.pool import ModelPool
from worker.process_pool.limits import MEBIBYTE, PARSE_LIMITS
from worker.text import processes
from worker.text.config import HookVersions
from worker.text.parts import PreparedDocument, UnchangedContent
from worker.text.small_texts import SHARED_BYTES, SMALL_BYTES, SmallText, SmallTexts, small_size

pytestmark = pytest.mark.slow

LIMITS = replace(PARSE_LIMITS, memory_bytes=600 * MEBIBYTE, cpu_seconds=2)
NEIGHBOURS = 3
DEADLINE_SECONDS = 400
"""Far longer than texts take, and the processes that are started again for them."""


@pytest.fixture
async def pool(cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ModelPool]:
    """Yield a pool whose parse process does what the documents say; see `read_or_obey`."""
    monkeypatch.setattr(processes, "prepare_document", read_or_obey)
    async with ModelPool(EmbeddingConfig(cache_dir, parse_limits=LIMITS)) as pool:
        await pool.prepare(Lane.BULK, small("starts the process"), None)
        yield pool


# What runs in the process.


def read_or_obey(
    document: Document, known_hash: str | None, ocr_pages: int | None, hooks: HookVersions
) -> PreparedDocument | UnchangedContent | None:
    """Return the text and the number of the process."""
    text = document.text or ""
    match text:
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "compute for ever":
            only_processor_time_counts()
            while True:
                pass
        case "compute for a while":
            only_processor_time_counts()
            started = time.process_time()
            while time.process_time() < started + 1.2:
                pass
        case "take memory":
            bytearray(1024 * MEBIBYTE)
        case "wait for ever":
            signal.pause()
        case "be no document":
            raise DocumentRejected("is no document")
    return UnchangedContent(text, str(os.getpid()))


def only_processor_time_counts() -> None:
    """Take the limit of all time from this task: on a busy machine, it may be met before."""
    signal.setitimer(signal.ITIMER_REAL, 0)


def small(text: str) -> Document:
    return Document(doc_id="a", version=1, source="a", text=text)


async def read(pool: ModelPool, *texts: str, lane: Lane = Lane.BULK) -> list[object]:
    """Read texts at the same time; return what each says, or its error."""
    reading = (pool.prepare(lane, small(text), None) for text in texts)
    async with asyncio.timeout(DEADLINE_SECONDS):
        ended = await asyncio.gather(*reading, return_exceptions=True)
    return [each.content_hash if isinstance(each, UnchangedContent) else each for each in ended]


async def test_texts_that_wait_together_are_read_one_after_another(pool: ModelPool) -> None:
    texts = [f"text {i}" for i in range(100)]
    assert await read(pool, *texts) == texts


@pytest.mark.parametrize(
    ("hostile", "reason"),
    [
        ("die", r"twice, the process that worked on it was killed \(SIGKILL\)"),
        ("compute for ever", "took more than 2 s of processor time"),
        ("take memory", "needs more than 600 MiB of memory"),
        ("be no document", "is no document"),
    ],
)
async def test_a_hostile_text_is_rejected_alone(pool: ModelPool, hostile: str, reason: str) -> None:
    ended = await read(pool, "the first text", hostile, "the last text")
    [rejection] = [each for each in ended if not isinstance(each, str)]
    assert isinstance(rejection, DocumentRejected)
    with pytest.raises(DocumentRejected, match=reason):
        raise rejection
    assert [each for each in ended if isinstance(each, str)] == ["the first text", "the last text"]


async def test_each_text_has_the_whole_processor_time(
    pool: ModelPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "SHARED_SECONDS", 600.0)  # they share a task to its end
    texts = ["compute for a while"] * 3
    assert await read(pool, *texts) == texts


async def test_a_text_that_waits_for_ever_holds_up_its_neighbours_only_for_a_moment(
    pool: ModelPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "SHARED_SECONDS", 4.0)  # longer than a process stands still
    texts = ["wait for ever", *(f"text {i}" for i in range(NEIGHBOURS))]
    reading = [asyncio.create_task(read(pool, text)) for text in texts]
    async with asyncio.timeout(DEADLINE_SECONDS):
        assert await asyncio.gather(*reading[1:]) == [[text] for text in texts[1:]]
    assert not reading[0].done(), "it has the time of any other document"
    [[rejection]] = await asyncio.gather(reading[0])
    assert "was not read within 8 s" in str(rejection)


async def test_a_text_whose_caller_is_cancelled_takes_no_other_along(pool: ModelPool) -> None:
    texts = [f"text {i}" for i in range(NEIGHBOURS)]
    cancelled = asyncio.create_task(pool.prepare(Lane.BULK, small("compute for a while"), None))
    reading = asyncio.create_task(read(pool, *texts))
    await asyncio.sleep(0)  # both wait now, for one task
    cancelled.cancel()
    assert await reading == texts


def test_only_small_texts_share_a_task() -> None:
    assert small_size(small("a" * SMALL_BYTES)) == SMALL_BYTES
    assert small_size(small("a" * (SMALL_BYTES + 1))) is None
    assert small_size(file_of("text/plain", "400:1:2:aa")) == 400
    assert small_size(file_of("image/png", "400:1:2:aa")) is None
    assert small_size(file_of(None, "400:1:2:aa")) is None
    assert small_size(file_of("text/plain", None)) is None


def file_of(media_type: str | None, state: str | None) -> Document:
    return Document(doc_id="a", version=1, source="a", path="/a", file=state, media_type=media_type)


@given(st.lists(st.integers(0, SMALL_BYTES), max_size=200))
async def test_a_task_is_no_longer_than_that_of_a_usual_document(sizes: Sequence[int]) -> None:
    groups: list[int] = []

    async def read_each(lane: Lane, texts: Sequence[SmallText[int]]) -> Sequence[int | Exception]:
        groups.append(sum(text.size for text in texts))
        await asyncio.sleep(0)
        return [text.size for text in texts]

    async def read_alone(lane: Lane, text: SmallText[int]) -> int:
        groups.append(text.size)
        return text.size

    shared = SmallTexts[int](2, read_each, read_alone)
    texts = [SmallText[int](small("a"), None, None, size) for size in sizes]
    read = await asyncio.gather(*(shared.read(Lane.BULK, text) for text in texts))
    assert read == list(sizes)
    assert sum(groups) == sum(sizes)
    assert all(size <= SHARED_BYTES for size in groups)
    await shared.stop()
