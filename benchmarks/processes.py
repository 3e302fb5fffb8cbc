"""Starts and stops the worker processes of the queue benchmark."""

import asyncio
import contextlib
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks.contenders import Contender

LOG_TAIL_CHARACTERS: Final = 2000


@dataclass(frozen=True)
class Start:
    """The start of a job: its name, and the kernel's monotonic time in ns."""

    job: str
    ns: int


@dataclass(frozen=True)
class WorkerGroup:
    """Worker processes that are ready, and the job starts that they report."""

    processes: tuple[Process, ...]
    starts: asyncio.Queue[Start] = field(default_factory=asyncio.Queue)

    def go(self) -> None:
        """Let all processes begin to work."""
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.write(b"go\n")

    def kill(self) -> None:
        """Send SIGKILL to all processes."""
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                process.kill()


@asynccontextmanager
async def worker_group(
    contender: Contender, url: str, job: str, *, workers: int, log: Path
) -> AsyncIterator[WorkerGroup]:
    """Start ``workers`` processes that run ``job``; when this yields, each is connected and waits
    for `WorkerGroup.go`. They are killed on leaving. What they log is added to ``log``."""
    async with AsyncExitStack() as stack:
        processes = [
            await stack.enter_async_context(_process(contender, url, job, log))
            for _ in range(workers)
        ]
        ready = WorkerGroup(tuple(processes))
        readers = [asyncio.create_task(_read(process, ready.starts)) for process in processes]
        try:
            yield ready
        finally:
            for reader in readers:
                reader.cancel()
            await asyncio.wait(readers)


@asynccontextmanager
async def _process(contender: Contender, url: str, job: str, log: Path) -> AsyncIterator[Process]:
    command = ["-m", "benchmarks.queue_worker", url, job, *contender.worker_options]
    with log.open("ab") as stderr:
        process = await asyncio.create_subprocess_exec(
            sys.executable, *command, stdin=PIPE, stdout=PIPE, stderr=stderr
        )
    try:
        assert process.stdout is not None
        if await process.stdout.readline() != b"ready\n":
            raise RuntimeError(f"a worker did not start: {_log_tail(log)}")
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _read(process: Process, starts: asyncio.Queue[Start]) -> None:
    assert process.stdout is not None
    async for line in process.stdout:
        job, ns = line.decode().split()
        starts.put_nowait(Start(job, int(ns)))


def _log_tail(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")[-LOG_TAIL_CHARACTERS:]
