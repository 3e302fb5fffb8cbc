"""Real processes are killed; their work is finished all the same."""

import asyncio
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest

from ingestq.core.documents import Document, Lane
from ingestq.core.errors import DocumentRejected
from tests.command import Ingestq
from tests.qdrant_proxy import QdrantProxy
from tests.sized import sized
from tests.waiting import eventually
from worker.embedding.backends import Vectors
from worker.embedding.batcher import Batcher
from worker.embedding.config import EmbeddingConfig
from worker.embedding.pool import ModelPool
from worker.process_pool.limits import ProcessKind, ProcessLimits
from worker.process_pool.pool import Processes
from worker.text.parts import PreparedDocument, UnchangedContent

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[2] / "examples" / "documents"
COPIES = 32
SENTENCE = "The keeper of the lighthouse writes the weather of each hour into a thick book. "
HANG_SECONDS = 5
"""Time limit of a task that hangs once: much longer than it takes otherwise."""
BUSY_SECONDS = 0.1
"""CPU seconds after which a process is in the middle of its work."""


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    """Return a folder with documents for some seconds of work."""
    folder = tmp_path / "documents"
    for i in range(COPIES):
        shutil.copytree(EXAMPLES, folder / str(i))
    return folder


async def test_a_killed_run_is_completed_by_the_next(
    ingestq: Ingestq, documents: Path, proxied_qdrant: QdrantProxy, alias: str
) -> None:
    ingestq.settings |= {"qdrant_url": proxied_qdrant.url, "collection": alias}
    held = proxied_qdrant.holds.document(3 * COPIES)  # it is in the middle
    first = ingestq.start("run", documents)
    try:
        await held.struck()
    finally:
        first.kill()
        first.communicate()
    held.release()

    second = await ingestq.ended("run", documents, "--json")
    assert second.code == 0, second.err
    ended = second.json["documents"]
    assert ended["indexed"] + ended["unchanged"] == 6 * COPIES

    status = (await ingestq.ended("status", "--json")).json
    assert status["queue"]["ready"] + status["queue"]["in_flight"] == 0
    assert status["dead_letters"] == 0
    assert status["collection"]["documents"] == 6 * COPIES
    clean = Ingestq(documents, {"data_dir": "clean"})
    chunks = (await clean.ended("run", "0", "--json")).json["chunks"]["embedded"]
    assert status["collection"]["chunks"] == chunks * COPIES


async def test_sigterm_nacks_unfinished_jobs_without_counting_a_try(
    ingestq: Ingestq, documents: Path, proxied_qdrant: QdrantProxy, alias: str
) -> None:
    ingestq.settings |= {"qdrant_url": proxied_qdrant.url, "collection": alias}
    ingestq.settings["drain_seconds"] = "0"
    added = await ingestq.ended("add", documents, "--json")
    assert added.json["documents"]["queued"] == 6 * COPIES
    jobs = (await ingestq.ended("status", "--json")).json["queue"]["ready"]
    held = proxied_qdrant.holds.document(1)  # no job can be finished
    worker = ingestq.start("worker")
    try:
        await held.struck()
        worker.terminate()
        _, log = await asyncio.to_thread(worker.communicate, timeout=60)
    finally:
        held.release()
        worker.kill()
    assert worker.returncode == 0, log
    assert "Traceback" not in log

    status = (await ingestq.ended("status", "--json")).json
    assert (status["queue"]["in_flight"], status["queue"]["deferred"]) == (0, 0)
    assert status["queue"]["ready"] == jobs
    assert status["workers"] == []


@pytest.fixture
async def pool(cache_dir: Path) -> AsyncIterator[ModelPool]:
    """Yield the default model with one embedding process and one parse process."""
    async with ModelPool(EmbeddingConfig(cache_dir)) as pool:
        yield pool


async def test_killing_an_embedding_process_costs_only_a_retry_of_its_batch(
    pool: ModelPool,
) -> None:
    others = multiprocessing.active_children()
    [vector] = await pool.embed(Lane.BULK, sized(["a text"]))
    process = one_more_than(others)
    asking = asyncio.create_task(pool.embed(Lane.BULK, sized([SENTENCE * 20] * 64)))
    also_asking = asyncio.create_task(pool.embed(Lane.INTERACTIVE, sized(["a text"])))
    await is_busy(process)
    kill(process)
    assert (await asking).shape == (64, 384)
    [same] = await also_asking
    assert same @ vector == pytest.approx(1, abs=1e-3)
    assert one_more_than(others).pid != process.pid


async def test_killing_a_parse_process_costs_only_a_retry_of_its_document(
    pool: ModelPool,
) -> None:
    await embedding_process(pool)
    others = multiprocessing.active_children()
    await prepare(pool, "A short text starts the process.")
    process = one_more_than(others)
    asking = asyncio.create_task(prepare(pool, SENTENCE * 60_000))
    await is_busy(process)
    kill(process)
    prepared = await asking
    assert isinstance(prepared, PreparedDocument)
    assert " ".join(chunk.body for chunk in prepared.first.chunks) == (SENTENCE * 60_000).strip()
    assert one_more_than(others).pid != process.pid


async def test_a_document_that_kills_two_parse_processes_is_rejected(pool: ModelPool) -> None:
    await embedding_process(pool)
    others = multiprocessing.active_children()
    await prepare(pool, "A short text starts the process.")
    first = one_more_than(others)
    to_start = processor_seconds(first)
    # It takes several times as long as the start, so that a process that is busy is not done soon.
    asking = asyncio.create_task(prepare(pool, SENTENCE * 300_000))
    await is_busy(first)
    kill(first)
    second = await eventually(lambda: another_than([first, *others]))
    assert second is not None
    await is_busy(second, 2 * to_start)
    kill(second)
    with pytest.raises(DocumentRejected, match="twice, the process that worked on it was killed"):
        await asking
    assert isinstance(await prepare(pool, "A new process reads this."), PreparedDocument)


async def test_idle_processes_that_are_killed_are_replaced(pool: ModelPool) -> None:
    embedder = await embedding_process(pool)
    others = multiprocessing.active_children()
    await prepare(pool, "A short text starts the process.")
    for process in (embedder, one_more_than(others)):
        kill(process)
        process.join()
    for _ in range(2):
        assert isinstance(await prepare(pool, "A new process reads this."), PreparedDocument)
        assert (await pool.embed(Lane.BULK, sized(["a text"]))).shape == (1, 384)


class Harmful:
    """An embedder whose texts can kill its processes; see `embed_or_obey`."""

    batch_texts = 8
    batch_tokens = 1024

    def __init__(self, slots: int, seconds: float = 60, max_tasks: int = 0) -> None:
        self.slots = slots
        self._seconds = seconds
        self._processes = Processes(
            slots, ProcessLimits(ProcessKind.EMBEDDING), max_tasks=max_tasks
        )

    async def embed_each(self, texts: Sequence[str]) -> Sequence[Vectors]:
        return list(await self._processes.run(self._seconds, embed_or_obey, texts))

    async def embed_query(self, text: str) -> Vectors:
        raise NotImplementedError

    @asynccontextmanager
    async def batcher(self) -> AsyncIterator[Batcher]:
        try:
            async with Batcher(self) as batcher:
                yield batcher
        finally:
            await self._processes.stop()


def embed_or_obey(texts: Sequence[str]) -> Vectors:
    """Obey the texts that are commands; return a vector of each text that names the process."""
    for text in texts:
        command, _, place = text.partition(" ")
        if command == "abort":
            os.abort()
        if command == "hang-once" and not Path(place).is_symlink():
            Path(place).symlink_to(f"/proc/{os.getpid()}")
            signal.pause()
    return np.array([[os.getpid(), len(text)] for text in texts], np.float32)


async def test_a_text_that_kills_its_process_is_rejected_alone() -> None:
    texts = [*(f"harmless {i}" for i in range(6)), "abort", "also harmless"]
    async with Harmful(slots=2).batcher() as batcher:
        asking = [batcher.embed(Lane.BULK, sized([text])) for text in texts]
        outcomes = await asyncio.gather(*asking, return_exceptions=True)
    for text, outcome in zip(texts, outcomes, strict=True):
        if text == "abort":
            assert isinstance(outcome, DocumentRejected)
            assert str(outcome) == "twice, the model crashed (SIGABRT)"
        else:
            assert not isinstance(outcome, BaseException)
            assert outcome[0][1] == len(text)


async def test_a_process_that_hangs_is_replaced_after_its_time_limit(tmp_path: Path) -> None:
    hangs = tmp_path / "hangs"
    text = f"hang-once {hangs}"
    async with Harmful(slots=1, seconds=HANG_SECONDS).batcher() as batcher:
        asking = asyncio.create_task(batcher.embed(Lane.BULK, sized([text])))
        await eventually(lambda: asyncio.to_thread(hangs.exists))
        hung = int(hangs.readlink().name)
        os.kill(hung, signal.SIGSTOP)  # so that it cannot even be asked to end
        [[pid, length]] = await asking
    assert length == len(text)
    assert pid != hung


async def test_no_text_is_lost_when_processes_are_replaced_after_max_tasks() -> None:
    embedder = Harmful(slots=2, max_tasks=2)
    embedder.batch_texts = 1
    async with embedder.batcher() as batcher:
        vectors = await batcher.embed(Lane.BULK, sized(["x" * i for i in range(1, 13)]))
    assert vectors[:, 1].tolist() == list(range(1, 13))
    assert len(set(vectors[:, 0].tolist())) >= 5, "one process of two tasks has one to start with"


PARENT = """
import asyncio, multiprocessing, sys
from pathlib import Path
from ingestq.core.jobs import Document, Lane
from worker.text.parts import SizedText
from worker.embedding.config import EmbeddingConfig
from worker.embedding.pool import ModelPool

async def main():
    async with ModelPool(EmbeddingConfig(Path(sys.argv[1]))) as pool:
        await pool.embed(Lane.BULK, [SizedText("a text", 2)])
        document = Document(doc_id="a", version=1, source="a", text="A text.")
        await pool.prepare(Lane.BULK, document, None)
        print(*(process.pid for process in multiprocessing.active_children()), flush=True)
        await asyncio.Event().wait()

if __name__ == "__main__":
    asyncio.run(main())
"""


async def test_pool_processes_end_with_their_parent(cache_dir: Path) -> None:
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARENT, cache_dir, stdout=subprocess.PIPE
    )
    assert parent.stdout is not None
    pids = [int(pid) for pid in (await parent.stdout.readline()).split()]
    assert len(pids) == 2
    parent.kill()
    await parent.communicate()

    async def gone() -> bool:
        return not any(is_running(pid) for pid in pids)

    await eventually(gone)


def is_running(pid: int) -> bool:
    try:
        return (
            Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
            != "Z"
        )
    except OSError:
        return False


async def prepare(pool: ModelPool, text: str) -> PreparedDocument | UnchangedContent:
    document = Document(doc_id="a", version=1, source="a", text=text)
    return await pool.prepare(Lane.BULK, document, None)


async def embedding_process(pool: ModelPool) -> BaseProcess:
    """Return the embedding process of ``pool``. A document that is prepared would start it, too."""
    others = multiprocessing.active_children()
    await pool.embed(Lane.BULK, sized(["a text"]))
    return one_more_than(others)


def one_more_than(others: Sequence[BaseProcess]) -> BaseProcess:
    """Return the process that was started after ``others``."""
    [process] = set(multiprocessing.active_children()).difference(others)
    return process


async def another_than(others: Sequence[BaseProcess]) -> BaseProcess | None:
    """Return the process that was started after ``others``, if there is one."""
    return next(iter(set(multiprocessing.active_children()).difference(others)), None)


async def is_busy(process: BaseProcess, to_start: float | None = None) -> None:
    """Return when ``process`` is in the middle of its work.

    ``to_start`` is the CPU time that it needs to start; None if it has started.
    """
    before = processor_seconds(process) if to_start is None else to_start

    async def busy() -> bool:
        return processor_seconds(process) > before + BUSY_SECONDS

    await eventually(busy)


def processor_seconds(process: BaseProcess) -> float:
    fields = (
        Path(f"/proc/{process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    )
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def kill(process: BaseProcess) -> None:
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
