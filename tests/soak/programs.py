"""The processes of a soak: commands that run until they are killed, and the bundled servers."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks.embedding.resources import descendants
from tests.faults.test_source_sequences import Unprivileged
from tests.skewed_redis import SkewedRedis, start_redis
from tests.soak.plan import Program
from tests.waiting import await_answer

POOL_PROCESS: Final = b"multiprocessing.spawn"
SECONDS: Final = 120.0
"""Longest time that a command takes to stop, on a busy machine."""
ARGUMENTS: Final = {
    Program.UP: ("up",),
    Program.WORKER: ("worker",),
    Program.STEADY: ("worker",),
}
READY: Final = {
    Program.UP: "drop.started",
    Program.WORKER: "worker.started",
    Program.STEADY: "worker.started",
}
"""What a program logs once it has reached all services. Before, it may end if one is away."""
UNREACHABLE: Final = 3
"""Exit code of a command that cannot reach a service."""


@dataclass
class RunningProgram:
    """A command that is started again whenever it has ended. Its log has all that it ever said."""

    program: Program
    ingestq: Unprivileged
    log: Path
    starts: int = 0
    _process: subprocess.Popen[bytes] | None = None
    _log_at_start: int = 0

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._log_at_start = log.tell()
            self._process = subprocess.Popen(
                self.ingestq.command(*ARGUMENTS[self.program]),
                cwd=self.ingestq.folder,
                env=self.ingestq.environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
            )
        self.starts += 1

    def keep_running(self) -> str | None:
        """Start it again if it could not start, because a service was away.

        Return what is wrong if it has ended by itself for another reason, or later.
        """
        if self.is_running:
            return None
        assert self._process is not None
        if self.was_ready() or self._process.returncode != UNREACHABLE:
            code = self._process.returncode
            return f"{self.program} has ended by itself with {code}, see {self.log}"
        self.start()
        return None

    def was_ready(self) -> bool:
        """Return whether it has reached all services since it was started."""
        with self.log.open("rb") as log:
            log.seek(self._log_at_start)
            return READY[self.program].encode() in log.read()

    def send(self, number: signal.Signals) -> None:
        signal_to(self.pid, number)

    def end(self, number: signal.Signals) -> int:
        """Send a signal that ends it; return its exit code. Blocks."""
        assert self._process is not None
        self._process.send_signal(number)
        return self._process.wait(SECONDS)

    def pool_processes(self) -> list[int]:
        """Return the ids of its pool processes, in the order in which they were started."""
        return sorted(pid for pid in descendants(self.pid) if POOL_PROCESS in command_of(pid))


@dataclass
class RunningRedis:
    """The Redis of a soak. It is not the bundled one, because its clock is set by a file."""

    folder: Path
    library: str | None
    _process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.folder / 's'}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        self._process = start_redis(self.folder, self.library)

    def set_clock(self, seconds: float) -> None:
        """Let it believe that it is so much later than it is."""
        SkewedRedis(self.url, self.folder / "clock").set_clock(int(seconds))

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait(SECONDS)


@dataclass
class Programs:
    """All processes of a soak in ``folder``."""

    folder: Path
    redis: RunningRedis
    running: dict[Program, RunningProgram] = field(default_factory=dict)

    @property
    def qdrant_folder(self) -> Path:
        return self.folder / ".ingestq" / "qdrant"

    def qdrant_pid(self) -> int | None:
        """Return the process id of the bundled Qdrant; None if it does not run."""
        try:
            pid = int((self.qdrant_folder / "server.pid").read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        return pid if str(self.qdrant_folder).encode() in command_of(pid) else None


@contextmanager
def programs(folder: Path, settings: dict[str, str], library: str | None) -> Iterator[Programs]:
    """Start all programs and their servers; kill what is left of them on leaving."""
    redis = RunningRedis(folder / "redis", library)
    redis.folder.mkdir()
    redis.set_clock(0)
    redis.start()
    made = Programs(folder, redis)
    try:
        await_answer(redis.folder / "s")
        for program in Program:
            ingestq = Unprivileged(folder, settings | {"redis_url": redis.url})
            made.running[program] = RunningProgram(program, ingestq, folder / f"{program}.log")
            made.running[program].start()
        yield made
    finally:
        for running in made.running.values():
            if running.is_running:
                running.end(signal.SIGKILL)
        if (pid := made.qdrant_pid()) is not None:
            signal_to(pid, signal.SIGKILL)
        redis.kill()


def signal_to(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process, unless it has ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def command_of(pid: int) -> bytes:
    """Return the command line of a process; empty if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""
