"""Limits of the processes that touch documents: memory, processor time, files, and who dies first.

The worker passes frozen limits. A process applies them to itself before it imports any library, and
sets the time limits anew for each task. The second half of this module finds out, in the worker,
which limit ended a process.

Memory is limited by RLIMIT_DATA: what a process may write to, and nothing else. RLIMIT_AS would
count address space, of which the allocator and thread pools reserve hundreds of MiB per core that
they never use. Both hold without root, unlike a cgroup, which limits the worker as a whole.
"""

import ctypes
import mmap
import os
import re
import resource
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from ingestq.core.errors import LimitExceeded, PoolFailure, ProcessEnd, UsageError
from worker.process_pool.spawn import RSS_UNIT

MEBIBYTE: Final = 1024 * 1024
WALL_PER_CPU: Final = 4
"""A task may take so many times its processor time, since others use the processor, too."""
MAX_SECONDS: Final = 1800.0
"""No task may take longer, whatever its size."""
MIB_PER_CPU_ALLOWANCE: Final = 2
"""A document gets the processor time of a small one again for every so many MiB: enough to
recognize the text of a scanned page of 50 kB in more than a second."""

MAX_FILE_BYTES: Final = 1024 * MEBIBYTE
"""No temporary file of a parser is larger, and nothing that a library prints."""
OUT_OF_MEMORY: Final = 86
"""Exit code of a process in which Python had no memory left."""
OOM_SCORE: Final = Path("/proc/self/oom_score_adj")
STATM_BYTES: Final = 256
RESIDENT, DATA = 1, 5
"""The places of numbers in the kernel's count of the pages of a process; see proc_pid_statm(5)."""
PR_SET_PDEATHSIG: Final = 1
PR_GET_PDEATHSIG: Final = 2


class ProcessKind(StrEnum):
    """What a process does. The settings with its limits are named after it."""

    PARSE = "parse"
    EMBEDDING = "embedding"

    @property
    def memory_setting(self) -> str:
        return f"INGESTQ_{self.upper()}_MEMORY_BYTES"

    @property
    def cpu_setting(self) -> str:
        return f"INGESTQ_{self.upper()}_CPU_SECONDS"


WORK: Final = {ProcessKind.PARSE: "read", ProcessKind.EMBEDDING: "embedded"}
WORKER: Final = {ProcessKind.PARSE: "the parser", ProcessKind.EMBEDDING: "the model"}


@dataclass(frozen=True)
class ProcessLimits:
    """What a process may use; None is unlimited.

    It may have ``memory_bytes`` of memory, write files of up to ``file_bytes``, and take
    ``cpu_seconds`` of processor time for a small task. The kernel's OOM killer prefers processes
    with a higher ``oom_score_adj``, from 0 to 1000.
    """

    kind: ProcessKind
    memory_bytes: int | None = None
    cpu_seconds: int | None = None
    oom_score_adj: int = 0
    file_bytes: int | None = None


PARSE_LIMITS: Final = ProcessLimits(
    ProcessKind.PARSE,
    memory_bytes=2048 * MEBIBYTE,
    cpu_seconds=60,
    oom_score_adj=500,
    file_bytes=MAX_FILE_BYTES,
)
"""The default limits: a laptop survives them, and a parser needs a tenth of them for most files."""
EMBEDDING_LIMITS: Final = ProcessLimits(
    ProcessKind.EMBEDDING,
    memory_bytes=4096 * MEBIBYTE,
    cpu_seconds=120,
    oom_score_adj=500,
    file_bytes=MAX_FILE_BYTES,
)
"""The default limits: a batch takes seconds, and the default model 300 MB."""


class TimeLimit(Struct, frozen=True):
    """How long a task may take: ``cpu`` seconds of processor time, and ``wall`` seconds in all."""

    cpu: int | None
    wall: float

    @classmethod
    def of_document(cls, cpu_seconds: int, size: int) -> "TimeLimit":
        """Return the limit for a document of ``size`` bytes, if a small one may take so long."""
        cpu = int(cpu_seconds * (1 + size / (MIB_PER_CPU_ALLOWANCE * MEBIBYTE)))
        return cls(min(cpu, int(MAX_SECONDS)), min(WALL_PER_CPU * cpu, MAX_SECONDS))

    @classmethod
    def of_task(cls, cpu_seconds: int | None, seconds: float) -> "TimeLimit":
        """Return the limit for a task that may take ``seconds`` in all."""
        if cpu_seconds is None:
            return cls(None, seconds)
        return cls(cpu_seconds, min(seconds, WALL_PER_CPU * cpu_seconds))


class TaskRecord(Struct, frozen=True):
    """The first line of a process's output: its limits in the current task.

    ``left_over`` is the memory that earlier tasks have left in use, and ``peak`` the most that was
    ever in main memory. So much more counts towards the limit as ``elsewhere`` says: what libraries
    have reserved and not used, without what is in main memory and does not count, such as files.
    ``step`` names what runs, if that is to be part of the reason why the process died.
    """

    time: TimeLimit
    left_over: int
    peak: int
    elsewhere: int
    step: str = ""


class LimitsReport(Struct, frozen=True):
    """The limits that are in force in a process, as the kernel tells; None is unlimited.

    ``memory_wanted`` is the configured limit, ``memory_enforced`` is True if the kernel refuses
    more memory than ``memory_bytes``. ``cpu_seconds`` is what is left for the current task.
    ``parent_death_signal`` is the signal that ends the process with its parent; 0 if the system has
    none. ``temporary_directory`` is the process's own.
    """

    memory_wanted: int | None
    memory_bytes: int | None
    memory_enforced: bool
    cpu_seconds: int | None
    file_bytes: int | None
    core_bytes: int | None
    oom_score_adj: int | None
    parent_death_signal: int
    temporary_directory: str
    temporary_directory_mode: int


def apply_limits(limits: ProcessLimits) -> None:
    """Limit this process for the rest of its life, as far as the system can."""
    _lower(resource.RLIMIT_CORE, 0)  # it would hold the text of documents
    if limits.memory_bytes is not None:
        _lower(resource.RLIMIT_DATA, limits.memory_bytes)
    if limits.file_bytes is not None:
        # Python ignores SIGXFSZ, so writing more fails with EFBIG.
        _lower(resource.RLIMIT_FSIZE, limits.file_bytes)
    score = _oom_score()
    if score is not None and score < limits.oom_score_adj:
        OOM_SCORE.write_text(str(limits.oom_score_adj), encoding="ascii")


def end_with_parent(parent: int) -> None:
    """Let the kernel kill this process when the thread that started it ends, even if it is busy.

    Exits if the ``parent`` has ended already. Does nothing where the system cannot do that.
    """
    if sys.platform == "linux":
        _prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))
        if os.getppid() != parent:
            os._exit(1)


def begin_task(limit: TimeLimit) -> None:
    """Give this process ``limit`` for what it does from now on, instead of what was left."""
    if limit.cpu is not None:
        allowed = int(time.process_time()) + 1 + limit.cpu
        hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
        allowed = allowed if hard == resource.RLIM_INFINITY else min(allowed, hard)
        resource.setrlimit(resource.RLIMIT_CPU, (allowed, hard))
    signal.setitimer(signal.ITIMER_REAL, limit.wall)


def end_task() -> None:
    """Let this process wait for its next task for as long as it takes."""
    signal.setitimer(signal.ITIMER_REAL, 0)


def record_task(limit: TimeLimit, memory_at_start: int) -> TaskRecord:
    """Return the record of a task that begins with ``limit``; see `TaskRecord`.

    ``memory_at_start`` is what was in use before the first task.
    """
    left_over = max(0, memory_in_use() - memory_at_start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT
    return TaskRecord(limit, left_over, peak, memory_in_use() - _memory(RESIDENT))


def record_line(record: TaskRecord) -> bytes:
    """Return ``record`` as the first line of a process's output."""
    return msgspec.json.encode(record) + b"\n"


def memory_in_use() -> int:
    """Return how much memory of this process counts towards its limit; 0 if that is unknown."""
    return _memory(DATA)


def _memory(kind: int) -> int:
    statm = _statm()
    if statm is None:
        return 0
    return int(os.pread(statm, STATM_BYTES, 0).split()[kind]) * resource.getpagesize()


@cache
def _statm() -> int | None:
    """Open the kernel's count of the pages of this process, which is read before each task."""
    try:
        return os.open("/proc/self/statm", os.O_RDONLY)
    except OSError:
        return None


def report_limits(limits: ProcessLimits, temporary_directory: Path) -> LimitsReport:
    """Return what is in force of ``limits`` in this process."""
    memory, cpu = _limit(resource.RLIMIT_DATA), _limit(resource.RLIMIT_CPU)
    return LimitsReport(
        memory_wanted=limits.memory_bytes,
        memory_bytes=memory,
        memory_enforced=memory is not None and not _can_allocate(memory),
        cpu_seconds=None if cpu is None else int(cpu - time.process_time()),
        file_bytes=_limit(resource.RLIMIT_FSIZE),
        core_bytes=_limit(resource.RLIMIT_CORE),
        oom_score_adj=_oom_score(),
        parent_death_signal=_parent_death_signal(),
        temporary_directory=str(temporary_directory),
        temporary_directory_mode=temporary_directory.stat().st_mode & 0o777,
    )


def _lower(kind: int, limit: int) -> None:
    """Lower a limit for good, unless a lower one is in force."""
    hard = resource.getrlimit(kind)[1]
    limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    with suppress(ValueError, OSError):  # the system does not know it: `ingestq doctor` says so
        resource.setrlimit(kind, (limit, limit))


def _limit(kind: int) -> int | None:
    soft = resource.getrlimit(kind)[0]
    return None if soft == resource.RLIM_INFINITY else soft


def _can_allocate(size: int) -> bool:
    try:
        mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except (OSError, ValueError, OverflowError):
        return False
    return True


def _oom_score() -> int | None:
    try:
        return int(OOM_SCORE.read_text(encoding="ascii"))
    except OSError:
        return None


def _parent_death_signal() -> int:
    if sys.platform != "linux":
        return 0
    number = ctypes.c_int()
    _prctl(PR_GET_PDEATHSIG, ctypes.byref(number))
    return number.value


def _prctl(option: int, argument: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, argument, *[ctypes.c_ulong(0)] * 3) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


# From here on: what the worker finds out about a process that has ended.

SHOWN_CHARACTERS: Final = 200
NO_MEMORY_LEFT: Final = re.compile(
    # Rust; C++; C++ called from Rust, where only its lack of memory raises an exception; Python.
    rb"memory allocation of \d+ bytes failed|std::bad_alloc|"
    rb"Rust cannot catch foreign exceptions|MemoryError"
)
"""What programs say when they abort because they get no more memory."""
CRASHES: Final = frozenset(
    {signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGSEGV, signal.SIGTRAP}
)
"""How programs end that use memory which they did not get, or give up without it."""
NEAR_LIMIT: Final = 0.85
"""A process that crashed with a larger share of its memory had too little."""
LEAK_SHARE: Final = 4
"""If earlier tasks have left more than a quarter of the memory in use, they may be to blame."""


def explain_death(
    exit_code: int, output: bytes, limits: ProcessLimits, peak: int = 0
) -> PoolFailure:
    """Return why a process ended during a task, in words for the user.

    ``output`` is what it wrote, beginning with its `TaskRecord`, and ``peak`` the most of its
    memory that was in main memory; 0 if that is unknown. The result is a LimitExceeded if the task
    would meet the same limit again.
    """
    first, _, said = output.partition(b"\n")
    try:
        record = msgspec.json.decode(first, type=TaskRecord)
    except msgspec.DecodeError:
        record = None  # it was killed while it began the task
    failure = _explain(exit_code, said, limits, peak, record)
    if record is None or not record.step:
        return failure
    return type(failure)(f"{failure}, in {record.step}", failure.end)


def _explain(
    exit_code: int, said: bytes, limits: ProcessLimits, peak: int, record: TaskRecord | None
) -> PoolFailure:
    kind, number = limits.kind, -exit_code
    if (
        exit_code == OUT_OF_MEMORY
        or (number == signal.SIGABRT and NO_MEMORY_LEFT.search(said))
        or (number in CRASHES and _was_near_limit(record, limits, peak))
    ):
        return _out_of_memory(record, limits)
    if number == signal.SIGXCPU and record is not None and record.time.cpu is not None:
        return LimitExceeded(
            f"took more than {record.time.cpu:,} s of processor time to be {WORK[kind]} "
            f"({kind.cpu_setting})",
            ProcessEnd.PROCESSOR_TIME,
        )
    if number == signal.SIGALRM and record is not None:
        return PoolFailure(
            f"was not {WORK[kind]} within {record.time.wall:,.4g} s", ProcessEnd.TIME
        )
    if number == signal.SIGKILL:
        return PoolFailure(
            "the process that worked on it was killed (SIGKILL), as the system does when memory "
            "runs out",
            ProcessEnd.KILLED,
        )
    if number > 0:
        return PoolFailure(
            f"{WORKER[kind]} crashed ({_signal_name(number)}){_last_words(said)}",
            ProcessEnd.CRASHED,
        )
    return PoolFailure(
        f"{WORKER[kind]} ended its process ({exit_code}){_last_words(said)}", ProcessEnd.EXITED
    )


def _was_near_limit(record: TaskRecord | None, limits: ProcessLimits, peak: int) -> bool:
    """Return True if the task, and no earlier one, used about as much memory as a process may."""
    if record is None or limits.memory_bytes is None or peak <= record.peak:
        return False
    return peak + record.elsewhere > NEAR_LIMIT * limits.memory_bytes


def _out_of_memory(record: TaskRecord | None, limits: ProcessLimits) -> PoolFailure:
    kind = limits.kind
    if limits.memory_bytes is None:
        return PoolFailure(
            f"there was not enough memory for it to be {WORK[kind]}", ProcessEnd.OUT_OF_MEMORY
        )
    reason = (
        f"needs more than {limits.memory_bytes // MEBIBYTE:,} MiB of memory to be {WORK[kind]} "
        f"({kind.memory_setting})"
    )
    fresh = record is not None and record.left_over * LEAK_SHARE <= limits.memory_bytes
    return (LimitExceeded if fresh else PoolFailure)(reason, ProcessEnd.OUT_OF_MEMORY)


def explain_failed_start(outputs: Sequence[bytes], limits: ProcessLimits) -> UsageError:
    """Return why processes died while they started; ``outputs`` is what they printed."""
    if any(map(NO_MEMORY_LEFT.search, outputs)) and limits.memory_bytes is not None:
        return no_memory_to_start(limits)
    words = next(filter(None, map(_last_words, outputs)), "")
    return UsageError(f"{limits.kind} processes die while they start{words}")


def no_memory_to_start(limits: ProcessLimits) -> UsageError:
    """Return the error of a process that had too little memory to start."""
    if limits.memory_bytes is None:
        return UsageError(f"there is not enough memory to start an {limits.kind} process")
    return UsageError(
        f"{limits.kind} processes need more than {limits.memory_bytes // MEBIBYTE:,} MiB of memory "
        f"to start; raise {limits.kind.memory_setting}"
    )


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _last_words(output: bytes) -> str:
    """Return the first line of what a crashing process said, which names the cause."""
    for line in output.decode(errors="replace").splitlines():
        if line.strip():
            shown = "".join(c if c.isprintable() else " " for c in line.strip())
            return f": {shown[:SHOWN_CHARACTERS]}"
    return ""
