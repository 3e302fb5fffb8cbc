"""No document stops the processes that read documents, outgrows them, or outlives their worker."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestq.core.documents import Document, Lane
from ingestq.core.errors import (
    DocumentRejected,
    LimitExceeded,
    PoolBroken,
    PoolFailure,
    SourceChanged,
    UsageError,
)
from ingestq.core.paths import BLOB_PREFIX, PROCESSES_PREFIX
from ingestq.core.temporary_folders import LockedFolder, check_private
from tests.waiting import eventually
from worker.embedding.config import EmbeddingConfig
from worker.embedding.pool import ModelPool
from worker.process_pool import limits as process_limits
from worker.process_pool.folder import ProcessFolder
from worker.process_pool.limits import (
    MAX_SECONDS,
    MEBIBYTE,
    PARSE_LIMITS,
    ProcessLimits,
    TimeLimit,
)
from worker.process_pool.messages import RemoteError
from worker.process_pool.pool import Processes
from worker.text.parts import PreparedDocument

EXAMPLES = Path(__file__).parents[2] / "examples" / "documents"
SECONDS = 60.0
HANG_SECONDS = 500.0
"""For what takes a minute on a busy machine."""
COMMAND_SECONDS = 150.0
"""For what loads libraries, or the model; less than a fast test may take, and than a process may
stand still."""
LIMITS = replace(PARSE_LIMITS, memory_bytes=300 * MEBIBYTE, cpu_seconds=1)
ROOMY = replace(LIMITS, memory_bytes=600 * MEBIBYTE, cpu_seconds=60)
"""Filling so much memory takes a busy machine more than a second."""
DEEP = 5_000
"""Far more levels than pickle can write."""


@asynccontextmanager
async def processes_with(
    limits: ProcessLimits = LIMITS, count: int = 1, at_start: Callable[[], None] | None = None
) -> AsyncIterator[Processes]:
    processes = Processes(count, limits, at_start or load_module)
    try:
        yield processes
    finally:
        await processes.stop()


# What runs in the processes.


def load_module() -> None:
    """Do nothing. It makes a process load this module at its start, not during its first task."""


def be_patient() -> None:
    """Give tasks a minute for each second of processor time: others may need the processor."""
    process_limits.WALL_PER_CPU = 60  # type: ignore[misc]


def note_start(folder: Path) -> None:
    Path(folder, str(os.getpid())).touch()


def meet(folder: Path, count: int) -> int:
    """Wait until so many processes are in this function, so that none can run another task."""
    note_start(folder)
    while len(os.listdir(folder)) < count:
        time.sleep(0.01)
    return os.getpid()


def pid() -> int:
    return os.getpid()


def same(value: list[int]) -> list[int]:
    return value


def nested(depth: int) -> object:
    value: object = 0
    for _ in range(depth):
        value = [value]
    return value


def deep_result(depth: int) -> list[object]:
    return [nested(depth)]


def doubled(rows: npt.NDArray[np.float32], path: Path) -> tuple[npt.NDArray[np.float32], Path]:
    return 2 * rows, path / "x"


def fail(kind: str) -> None:
    errors: dict[str, Exception] = {
        "rejected": DocumentRejected("no text"),
        "changed": SourceChanged("changed"),
        "usage": UsageError("wrong"),
        "other": KeyError("surprise"),
    }
    raise errors[kind]


def allocate(mebibytes: int) -> int:
    return len(bytearray(mebibytes * MEBIBYTE))


def say_and_abort(words: str) -> None:
    os.write(2, words.encode())
    os.abort()


def crash() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def fill(mebibytes: int) -> int:
    return len(b"x" * (mebibytes * MEBIBYTE))


def fill_and_crash(mebibytes: int, number: int) -> None:
    filled = b"x" * (mebibytes * MEBIBYTE)
    os.kill(os.getpid(), number)
    assert filled


def spin() -> None:
    """Compute in C without releasing the GIL."""
    re.match(r"(a+)+$", "a" * 64 + "b")


def wait_for_a_signal() -> None:
    signal.pause()


def print_a_lot() -> None:
    print("to stdout", flush=True)  # noqa: T201
    os.system("echo from a child process; echo to stderr >&2")


# Threads of pebble


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_pool_whose_thread_has_died_is_replaced() -> None:
    """A thread dies of a value that it cannot pickle, while a task is running."""
    async with processes_with() as processes:
        before = await processes.run(SECONDS, pid)
        running = asyncio.create_task(processes.run(SECONDS, wait_for_a_signal))
        await kill_a_thread_of(processes)
        with pytest.raises(PoolBroken):
            await asyncio.wait_for(running, SECONDS / 2)
        assert await processes.run(SECONDS, pid) != before


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_documents_are_processed_after_a_thread_of_the_pool_has_died(pool: ModelPool) -> None:
    await prepare(pool, Lane.BULK, "A short text starts the process.")
    hanging = asyncio.create_task(prepare(pool, Lane.BULK, "a word " * 500_000))
    await kill_a_thread_of(pool._parsers._shared)
    async with asyncio.timeout(HANG_SECONDS):
        assert (await prepare(pool, Lane.BULK, "The next document.")).first.chunks
        assert len((await hanging).first.chunks) > 1000


async def kill_a_thread_of(processes: Processes) -> None:
    """Let a thread of pebble die of a value that it cannot pickle."""
    assert processes._pool is not None
    pool = processes._pool._pool
    pool.schedule(same, args=(nested(DEEP),))
    await eventually(lambda: asyncio.sleep(0, not pool.active))


async def test_a_deeply_nested_value_fails_alone() -> None:
    async with processes_with() as processes:
        first = await processes.run(SECONDS, pid)
        with pytest.raises(RecursionError):
            await processes.run(SECONDS, same, nested(DEEP))  # type: ignore[arg-type]
        with pytest.raises(RemoteError, match="RecursionError"):
            await processes.run(SECONDS, deep_result, DEEP)
        assert await processes.run(SECONDS, pid) == first, "nothing had to be replaced"


async def test_values_and_errors_arrive_as_they_were_sent() -> None:
    async with processes_with() as processes:
        rows = np.arange(6, dtype=np.float32).reshape(2, 3)
        found, path = await processes.run(SECONDS, doubled, rows, Path("/a/\udcff"))
        assert found.tolist() == (2 * rows).tolist()
        assert path == Path("/a/\udcff/x")
        for kind, error in {
            "rejected": DocumentRejected,
            "changed": SourceChanged,
            "usage": UsageError,
        }.items():
            with pytest.raises(error):
                await processes.run(SECONDS, fail, kind)
        with pytest.raises(RemoteError, match="KeyError: 'surprise'") as caught:
            await processes.run(SECONDS, fail, "other")
        assert "Traceback" in caught.value.__notes__[0]


# As many as are needed


async def those_of(processes: Processes, tasks: int, folder: Path) -> set[int]:
    """Run so many tasks at the same time; return the processes that ran them.

    They are run once more if that ends the pool, as an idle process that dies may do.
    """
    for again in range(2):
        place = folder / str(again)
        place.mkdir(parents=True)
        found = await asyncio.gather(
            *(processes.run(SECONDS, meet, place, tasks) for _ in range(tasks)),
            return_exceptions=True,
        )
        errors = [outcome for outcome in found if isinstance(outcome, BaseException)]
        if not errors:
            return {outcome for outcome in found if isinstance(outcome, int)}
        assert all(isinstance(error, PoolBroken) for error in errors), errors
    raise AssertionError("the second pool has ended, too")


async def test_only_as_many_processes_load_as_there_are_tasks_at_the_same_time(
    tmp_path: Path,
) -> None:
    starts = tmp_path / "starts"
    starts.mkdir()
    processes = Processes(3, PARSE_LIMITS, note_start, (starts,))
    try:
        processes.begin()
        one = {await processes.run(SECONDS, pid) for _ in range(4)}
        assert set(os.listdir(starts)) == {str(number) for number in one}
        two = await those_of(processes, 2, tmp_path / "two")
        assert one < two
        assert len(os.listdir(starts)) == 2, "the third has nothing to do"
        [first] = one
        os.kill(first, signal.SIGKILL)
        three = await those_of(processes, 3, tmp_path / "three")
        assert len(three - one) == 3, "the killed one was replaced"
    finally:
        await processes.stop()


# Limits


async def test_a_task_that_needs_too_much_memory_ends_with_the_reason() -> None:
    async with processes_with() as processes:
        assert await processes.run(SECONDS, allocate, 100) == 100 * MEBIBYTE
        with pytest.raises(
            LimitExceeded,
            match=r"needs more than 300 MiB of memory to be read \(INGESTQ_PARSE_MEMORY_BYTES\)",
        ):
            await processes.run(SECONDS, allocate, 400)
        assert await processes.run(SECONDS, allocate, 100), "the next task is not affected"


@pytest.mark.parametrize(
    "words",
    [
        "memory allocation of 1347840000 bytes failed\nstack backtrace:\n",
        "terminate called after throwing an instance of 'std::bad_alloc'\n",
    ],
)
async def test_a_library_that_aborts_without_memory_ends_with_the_reason(words: str) -> None:
    async with processes_with() as processes:
        with pytest.raises(LimitExceeded, match="needs more than 300 MiB of memory"):
            await processes.run(SECONDS, say_and_abort, words)


async def test_a_crash_is_said_in_words() -> None:
    async with processes_with() as processes:
        with pytest.raises(PoolFailure, match=r"^the parser crashed \(SIGSEGV\)$"):
            await processes.run(SECONDS, crash)
        with pytest.raises(PoolFailure) as caught:
            await processes.run(SECONDS, say_and_abort, "\n\x1b[31mno such \x00font\nmore")
        assert str(caught.value) == "the parser crashed (SIGABRT):  [31mno such  font"
        assert not isinstance(caught.value, LimitExceeded)


@pytest.mark.parametrize("number", [signal.SIGABRT, signal.SIGSEGV, signal.SIGTRAP])
def test_a_library_that_crashes_without_a_word_has_no_memory_left(number: int) -> None:
    # Linux counts the memory of the process that starts another as that one's, too, and this one
    # may have grown larger than a worker does. So another one starts it.
    program = (
        f"import asyncio\nfrom {__name__} import crash_full\nasyncio.run(crash_full({number}))"
    )
    subprocess.run([sys.executable, "-c", program], timeout=COMMAND_SECONDS, check=True)


async def crash_full(number: int) -> None:
    async with processes_with(ROOMY) as processes:
        with pytest.raises(LimitExceeded, match="needs more than 600 MiB of memory"):
            await processes.run(SECONDS, fill_and_crash, 470, number)


async def test_a_crash_with_memory_left_is_not_taken_for_a_lack_of_it() -> None:
    async with processes_with(ROOMY) as processes:
        with pytest.raises(PoolFailure, match=r"^the parser crashed \(SIGABRT\)$"):
            await processes.run(SECONDS, fill_and_crash, 200, signal.SIGABRT)
        assert await processes.run(SECONDS, fill, 420)
        with pytest.raises(PoolFailure, match=r"^the parser crashed \(SIGABRT\)$"):
            await processes.run(SECONDS, say_and_abort, "")


async def test_a_task_that_computes_too_long_ends_with_the_reason() -> None:
    async with processes_with(at_start=be_patient) as processes:
        with pytest.raises(
            LimitExceeded,
            match=r"took more than 1 s of processor time to be read \(INGESTQ_PARSE_CPU_SECONDS\)",
        ):
            await asyncio.wait_for(processes.run(SECONDS, spin), COMMAND_SECONDS)


async def test_each_task_gets_the_whole_processor_time() -> None:
    async with processes_with(at_start=be_patient) as processes:
        first = await processes.run(SECONDS, pid)
        for _ in range(6):
            await processes.run(SECONDS, burn, 0.5)
        assert await processes.run(SECONDS, pid) == first


def burn(seconds: float) -> None:
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


async def test_a_task_that_waits_for_ever_ends_with_the_reason() -> None:
    async with processes_with() as processes:
        with pytest.raises(PoolFailure, match=r"^was not read within 1 s$"):
            await processes.run(1, wait_for_a_signal)


@given(st.integers(0, 2**40), st.integers(0, 2**40), st.integers(1, 1800))
def test_time_limits_grow_with_the_size_up_to_a_maximum(a: int, b: int, cpu_seconds: int) -> None:
    small, large = (TimeLimit.of_document(cpu_seconds, size) for size in sorted((a, b)))
    assert small.cpu is not None
    assert large.cpu is not None
    assert cpu_seconds <= small.cpu <= large.cpu <= MAX_SECONDS
    assert cpu_seconds <= small.wall <= large.wall <= MAX_SECONDS
    assert small.cpu <= small.wall


def test_a_small_document_holds_no_process_for_half_an_hour() -> None:
    assert PARSE_LIMITS.cpu_seconds is not None
    assert TimeLimit.of_document(PARSE_LIMITS.cpu_seconds, 3 * 1024).wall < 300


async def test_the_limits_are_in_force() -> None:
    async with processes_with() as processes:
        report = await processes.report_limits()
    assert report.memory_bytes == 300 * MEBIBYTE
    assert report.memory_enforced
    assert report.cpu_seconds == 1
    assert report.file_bytes == LIMITS.file_bytes
    assert report.core_bytes == 0
    assert report.oom_score_adj == 500
    assert report.parent_death_signal == signal.SIGKILL
    assert report.temporary_directory_mode == 0o700


async def test_nothing_that_a_process_prints_reaches_the_terminal(
    capfd: pytest.CaptureFixture[str],
) -> None:
    async with processes_with() as processes:
        await processes.run(SECONDS, print_a_lot)
        with pytest.raises(PoolFailure):
            await processes.run(SECONDS, say_and_abort, "a secret of the document")
    out, err = capfd.readouterr()
    assert out == ""
    assert "to stderr" not in err
    assert "a secret" not in err


# Documents


@pytest.fixture
async def pool(cache_dir: Path) -> AsyncIterator[ModelPool]:
    """Yield the default model with one parse process for bulk documents, and little memory."""
    async with ModelPool(EmbeddingConfig(cache_dir, parse_limits=MODEST)) as pool:
        yield pool


MODEST = replace(PARSE_LIMITS, memory_bytes=320 * MEBIBYTE)


async def prepare(pool: ModelPool, lane: Lane, text: str) -> PreparedDocument:
    document = Document(doc_id="a", version=1, source="a", text=text)
    prepared = await pool.prepare(lane, document, None)
    assert isinstance(prepared, PreparedDocument)
    return prepared


async def test_a_hanging_bulk_document_delays_neither_uploads_nor_searches(pool: ModelPool) -> None:
    await prepare(pool, Lane.BULK, "A short text starts the process.")
    shared = await pool._parsers._shared.run(SECONDS, pid)
    os.kill(shared, signal.SIGSTOP)
    hanging = asyncio.create_task(prepare(pool, Lane.BULK, "This one hangs."))
    waiting = asyncio.create_task(prepare(pool, Lane.BULK, "And this one waits."))
    try:
        async with asyncio.timeout(COMMAND_SECONDS):
            await prepare(pool, Lane.INTERACTIVE, "An upload.")
            await pool.embed_query("A search.")
        assert not hanging.done()
    finally:
        os.kill(shared, signal.SIGCONT)
    await asyncio.gather(hanging, waiting)


async def test_the_process_for_interactive_work_starts_with_such_work(pool: ModelPool) -> None:
    await prepare(pool, Lane.BULK, "A bulk document.")
    assert pool._parsers._interactive._pool is None
    await prepare(pool, Lane.INTERACTIVE, "An upload.")
    assert pool._parsers._interactive._pool is not None


async def test_a_document_that_needs_too_much_memory_is_rejected_alone(pool: ModelPool) -> None:
    large = asyncio.create_task(prepare(pool, Lane.BULK, "word and " * 4_000_000))
    neighbours = [prepare(pool, Lane.BULK, f"Neighbour {i}.") for i in range(3)]
    await asyncio.gather(*neighbours)
    with pytest.raises(DocumentRejected) as caught:
        await large
    assert str(caught.value) == (
        "needs more than 320 MiB of memory to be read (INGESTQ_PARSE_MEMORY_BYTES)"
    )


# The environment


async def test_a_process_that_cannot_unpack_a_library_is_an_error_of_the_environment() -> None:
    processes = Processes(1, replace(LIMITS, file_bytes=64 * 1024), unpack_a_library)
    try:
        for _ in range(2):
            with pytest.raises(UsageError, match=r"a parse process cannot start: OSError.*large"):
                await processes.run(SECONDS, pid)
    finally:
        await processes.stop()


def entries(folder: Path) -> set[Path]:
    return set(folder.iterdir())


def unpack_a_library() -> None:
    Path(tempfile.gettempdir(), "lib.so").write_bytes(bytes(MEBIBYTE))


async def test_too_little_memory_to_start_is_an_error_of_the_environment(cache_dir: Path) -> None:
    limits = replace(PARSE_LIMITS, memory_bytes=24 * MEBIBYTE)
    async with ModelPool(EmbeddingConfig(cache_dir, parse_limits=limits)) as pool:
        with pytest.raises(UsageError, match="parse process"):
            await asyncio.wait_for(prepare(pool, Lane.BULK, "A text."), SECONDS)


async def test_a_process_that_dies_while_it_starts_is_an_error_of_the_environment() -> None:
    processes = Processes(1, LIMITS, say_and_abort, ("no such CPU instruction",))
    try:
        with pytest.raises(PoolBroken):
            await processes.run(SECONDS, pid)
        with pytest.raises(UsageError, match="die while they start: no such CPU instruction"):
            await processes.run(SECONDS, pid)
    finally:
        await processes.stop()


async def test_without_a_temporary_directory_the_error_says_what_to_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    async with processes_with() as processes:
        with pytest.raises(UsageError, match=r"no temporary files.*set TMPDIR"):
            await processes.run(SECONDS, pid)
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        assert await processes.run(SECONDS, pid)
    assert not entries(tmp_path)


async def test_libraries_do_not_use_what_others_put_into_the_temporary_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cache_dir: Path
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    planted = [tmp_path / name for name in ("libpdfium.so", "libpdfium.dylib", "xberg")]
    for path in planted:
        path.write_text("not a library")
    manual = EXAMPLES / "tide-mill-manual.pdf"
    document = Document(
        doc_id="a", version=1, source="a", path=str(manual), media_type="application/pdf"
    )
    async with ModelPool(EmbeddingConfig(cache_dir)) as pool:
        prepared = await pool.prepare(Lane.BULK, document, None)
        assert isinstance(prepared, PreparedDocument)
        folders = entries(tmp_path).difference(planted)
        assert {folder.stat().st_mode & 0o777 for folder in folders} == {0o700}
    assert entries(tmp_path) == set(planted)


@pytest.mark.parametrize("mode", [0o755, 0o770])
def test_a_folder_that_others_can_use_is_refused(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "shared"
    folder.mkdir(mode)
    folder.chmod(mode)
    with pytest.raises(UsageError, match="only this user"):
        check_private(folder)
    link = tmp_path / "link"
    link.symlink_to(folder)
    folder.chmod(0o700)
    check_private(folder)
    with pytest.raises(UsageError, match="only this user"):
        check_private(link)


def test_folders_of_living_owners_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folders = [LockedFolder.make(prefix) for prefix in (PROCESSES_PREFIX, BLOB_PREFIX) * 2]
    for folder in folders[:2]:
        os.close(folder.lock)  # as when its owner is killed
    last = ProcessFolder.make()
    assert entries(tmp_path) == {folders[2].path, folders[3].path, last.path}
    for kept in folders[2:]:
        kept.delete()
    last.delete()
    assert not entries(tmp_path)


PARENT = """
import asyncio
from tests.security.test_processes import processes_with, pid, spin
from worker.process_pool.limits import PARSE_LIMITS

async def main():
    async with processes_with(PARSE_LIMITS) as first, processes_with(PARSE_LIMITS) as second:
        print(*[await each.run(60, pid) for each in (first, second)], flush=True)
        await asyncio.gather(*[each.run(600, spin) for each in (first, second)])

if __name__ == "__main__":
    asyncio.run(main())
"""


async def test_busy_processes_end_with_a_worker_that_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They compute in C and hold the GIL, so no thread of theirs can look after the worker."""
    parent = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PARENT,
        stdout=subprocess.PIPE,
        env=os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert parent.stdout is not None
    pids = [int(number) for number in (await parent.stdout.readline()).split()]
    assert len(pids) == 2
    for number in pids:
        await eventually(partial(asyncio.to_thread, has_computed, number))
    parent.kill()
    for number in pids:
        # Left alone, they end after a minute of processor time.
        await eventually(partial(asyncio.to_thread, is_gone, number), seconds=30)
    await parent.communicate()

    left = entries(tmp_path)
    assert len(left) == 2
    assert all(path.name.startswith(PROCESSES_PREFIX) for path in left)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    ProcessFolder.make().delete()
    assert not entries(tmp_path), "the next start deletes what was left"


def has_computed(number: int) -> bool:
    """Return True if a process has been busy for a while."""
    fields = Path(f"/proc/{number}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12]) > 1.5 * os.sysconf("SC_CLK_TCK")


def is_gone(number: int) -> bool:
    try:
        return (
            Path(f"/proc/{number}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
            == "Z"
        )
    except OSError:
        return True
