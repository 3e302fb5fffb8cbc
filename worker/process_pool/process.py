"""The other end of the pool: what runs in each of its processes."""

import logging
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any

import msgspec

from ingestq.core.errors import IngestqError, UsageError, in_one_line
from worker.process_pool.folder import enter_folder, leave_folder, restart_output
from worker.process_pool.limits import (
    OUT_OF_MEMORY,
    LimitsReport,
    ProcessLimits,
    TaskRecord,
    TimeLimit,
    apply_limits,
    begin_task,
    end_task,
    end_with_parent,
    memory_in_use,
    no_memory_to_start,
    record_line,
    record_task,
    report_limits,
)
from worker.process_pool.messages import pack_error, pack_result, unpack_arguments


class TaskEnd(IntEnum):
    """What the bytes are that a process sends after a task."""

    RESULT = 0
    ERROR = 1
    NOT_STARTED = 2
    """An error of the process's start: it can run no task."""


_limits: ProcessLimits
_temporary_directory: Path
_memory_at_start: int
_task_limit: TimeLimit | None = None
_task_record: TaskRecord | None = None
_start_error: Exception | None = None
_is_pool_process = False


def become_pool_process(
    folder: Path,
    limits: ProcessLimits,
    initialize: Callable[..., None] | None,
    arguments: tuple[Any, ...],
) -> None:
    """Prepare this process for tasks. An error is kept and raised by the first task."""
    global _limits, _temporary_directory, _memory_at_start, _start_error, _is_pool_process
    _end_with_parent()
    _limits = limits
    try:
        _temporary_directory = enter_folder(folder)
        Finalize(None, leave_folder, (_temporary_directory,), exitpriority=0)
        apply_limits(limits)
        _is_pool_process = True
        _quiet_libraries()
        if initialize is not None:
            initialize(*arguments)
        _memory_at_start = memory_in_use()
    except IngestqError as error:
        _start_error = error
    except MemoryError:
        _start_error = no_memory_to_start(limits)
    except Exception as error:
        _start_error = UsageError(f"a {limits.kind} process cannot start: {in_one_line(error)}")


def _quiet_libraries() -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ["TQDM_DISABLE"] = "1"
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    # joblib would create semaphores, which a killed process cannot release.
    os.environ["JOBLIB_MULTIPROCESSING"] = "0"
    logging.disable(logging.WARNING)  # errors are raised; what libraries log is noise


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "runs in a pool process only"
    assert parent.pid is not None
    # The thread is for systems without such a signal, and needs the GIL, which a busy library may
    # not release.
    threading.Thread(target=_exit_after, args=(parent,), daemon=True).start()
    end_with_parent(parent.pid)


def _exit_after(parent: Any) -> None:
    parent.join()
    os._exit(1)


def pool_folder() -> Path:
    """Return the private folder that all processes of this pool share; call it in one of them."""
    return _temporary_directory.parent


def limit_by_size(size: int) -> None:
    """Give the task that runs in this process time for a document of ``size`` bytes."""
    if _limits.cpu_seconds is not None:
        limit = TimeLimit.of_document(_limits.cpu_seconds, size)
        if limit != TimeLimit.of_document(_limits.cpu_seconds, 0):  # else it has that already
            _limit_task(limit)


def renew_limit() -> None:
    """Give the task that runs in this process its time once more, from now on.

    A task that works page by page, and bounds the time of all, calls it for each page: a page has
    to be done in the time of a document. Does nothing in other processes.
    """
    if _task_limit is not None:
        begin_task(_task_limit)


def _limit_task(limit: TimeLimit) -> None:
    global _task_limit, _task_record
    _task_limit = limit
    _task_record = record_task(limit, _memory_at_start)
    restart_output(record_line(_task_record))
    begin_task(limit)


@contextmanager
def step(name: str) -> Iterator[None]:
    """Name what runs inside in the reason, if this process dies. Does nothing in other processes.

    What the process has printed is forgotten.
    """
    if _task_record is None:
        yield
        return
    restart_output(record_line(msgspec.structs.replace(_task_record, step=name)))
    is_over = True
    try:
        yield
    except MemoryError:  # ends this process
        is_over = False
        raise
    finally:
        if is_over:
            restart_output(record_line(_task_record))


@contextmanager
def starting_step(name: str, seconds: float) -> Iterator[None]:
    """As `step`, while this process starts; it is killed if that takes more than ``seconds``."""
    if not _is_pool_process:
        yield
        return
    restart_output(f"it loads {name}, which may take {seconds:g} s\n".encode(errors="replace"))
    begin_task(TimeLimit(None, seconds))
    try:
        yield
    finally:
        end_task()
        restart_output(b"")


def execute(
    function: Callable[..., Any], tasks: Sequence[bytes], seconds: float
) -> list[tuple[int, bytes]]:
    """Run tasks one after another; return the `TaskEnd` and the bytes of each.

    Each has the limits of a task by itself, and may take ``seconds``.
    """
    if _start_error is not None:
        return [(int(TaskEnd.NOT_STARTED), pack_error(_start_error))]
    _forget_task()
    limit = TimeLimit.of_task(_limits.cpu_seconds, seconds)
    return [_execute(function, task, limit) for task in tasks]


def _execute(function: Callable[..., Any], task: bytes, limit: TimeLimit) -> tuple[int, bytes]:
    if limit == _task_limit:  # it is recorded
        begin_task(limit)
    else:
        _limit_task(limit)
    try:
        result = function(*unpack_arguments(function, task))
        return int(TaskEnd.RESULT), pack_result(result)
    except MemoryError:
        os._exit(OUT_OF_MEMORY)  # nobody knows what is left half done
    except BaseException as error:  # a library's panic is no Exception
        return int(TaskEnd.ERROR), pack_error(error)
    finally:
        end_task()


def _forget_task() -> None:
    global _task_limit
    _task_limit = None


def report_own_limits() -> LimitsReport:
    """Return the limits that are in force in this process."""
    return report_limits(_limits, _temporary_directory)
