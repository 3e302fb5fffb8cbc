"""Processes that are asked and answer, one line of JSON each way."""

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

Answer = dict[str, Any]


@dataclass(frozen=True)
class Asked:
    """A process that is ready to be asked; ``first`` is the line with which it said so."""

    process: Process
    log: Path
    first: Answer

    @property
    def pid(self) -> int:
        return self.process.pid

    async def ask(self, **question: Any) -> Answer:
        """Its answer. Raises RuntimeError with what it logged if it ends instead."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(question).encode() + b"\n")
        return await _next_line(self.process, self.log)


@asynccontextmanager
async def asked(
    module: str, *arguments: str, log: Path, env: Mapping[str, str] | None = None
) -> AsyncIterator[Asked]:
    """Run ``python -m module``; yields when it is ready. It ends when its stdin does."""
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
        yield Asked(process, log, await _next_line(process, log))
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
        raise RuntimeError(f"a process ended: {_last_words(log)}")
    answer: Answer = json.loads(line)
    return answer


def _last_words(log: Path) -> str:
    return log.read_text(errors="replace")[-2000:]


def speaker(first: Answer) -> Callable[[Answer], None]:
    """The other side: says ``first``, and returns how to say more. Questions come on stdin.

    What else is printed from now on goes to stderr: libraries like to talk.
    """
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(line: Answer) -> None:
        out.write(json.dumps(line) + "\n")
        out.flush()

    say(first)
    return say
