"""Processes that answer requests, one line of JSON each way."""

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

LONGEST_LINE: Final = 64 * 1024 * 1024
LONGEST_ANSWER_SECONDS: Final = 600.0
STOP_SECONDS: Final = 60.0
LOG_TAIL_CHARACTERS: Final = 2000

Answer = dict[str, Any]


@dataclass(frozen=True)
class JsonProcess:
    """A process that is ready for requests; ``first`` is the line that it sent when it was."""

    process: Process
    log: Path
    first: Answer

    @property
    def pid(self) -> int:
        return self.process.pid

    async def ask(self, **request: Any) -> Answer:
        """Return the answer to a request. Raises RuntimeError with its log if the process ends."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request).encode() + b"\n")
        return await _next_line(self.process, self.log)


@asynccontextmanager
async def open_process(
    module: str, *arguments: str, log: Path, env: Mapping[str, str] | None = None
) -> AsyncIterator[JsonProcess]:
    """Run ``python -m module``; yield once it is ready. It ends when its stdin does."""
    with log.open("ab") as stderr:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", module, *arguments),
            stdin=PIPE,
            stdout=PIPE,
            stderr=stderr,
            limit=LONGEST_LINE,
            env={**os.environ, **(env or {})},
        )
    try:
        yield JsonProcess(process, log, await _next_line(process, log))
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def _next_line(process: Process, log: Path) -> Answer:
    assert process.stdout is not None
    async with asyncio.timeout(LONGEST_ANSWER_SECONDS):
        line = await process.stdout.readline()
    if not line:
        raise RuntimeError(f"a process ended: {_log_tail(log)}")
    answer: Answer = json.loads(line)
    return answer


def _log_tail(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")[-LOG_TAIL_CHARACTERS:]


def open_replies(first: Answer) -> Callable[[Answer], None]:
    """Send ``first`` from within such a process, and return a function that sends answers.

    Requests come on stdin. Anything else that is printed from now on goes to stderr, because
    libraries print.
    """
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def send(line: Answer) -> None:
        out.write(json.dumps(line) + "\n")
        out.flush()

    send(first)
    return send
