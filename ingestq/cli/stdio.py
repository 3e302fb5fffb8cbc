"""Reads stdin and writes stdout without keeping the process from ending, however they behave."""

import asyncio
import contextlib
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final, TypeVar

from ingestq.cli.streams import STDERR, STDIN, STDOUT
from ingestq.core.errors import UsageError
from ingestq.core.lines import LineSplitter

T = TypeVar("T")

READ_BYTES: Final = 64 * 1024


async def in_own_thread(call: Callable[[], T]) -> T:
    """Return what ``call`` returns, or raise its OSError.

    The thread does not keep the process from ending, as those of `asyncio.to_thread` do, if
    ``call`` waits for ever. If the caller is cancelled, the result is lost.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()

    def give(result: T | None, error: OSError | None) -> None:
        if answer.done():  # cancelled
            return
        if error is None:
            answer.set_result(result)  # type: ignore[arg-type]
        else:
            answer.set_exception(error)

    def run() -> None:
        result: T | None = None
        failure: OSError | None = None
        try:
            result = call()
        except OSError as error:
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(give, result, failure)

    threading.Thread(target=run, name="stdio", daemon=True).start()
    return await answer


class StandardInput:
    """Reads stdin, or another descriptor that it was moved to."""

    def __init__(self, descriptor: int = STDIN) -> None:
        self._descriptor = descriptor

    async def read1(self, size: int, /) -> bytes:
        """Return up to ``size`` bytes as soon as there are some; empty at the end.

        Raises OSError. Must not be called again after it was cancelled: what the thread still reads
        is lost.
        """
        return await in_own_thread(partial(os.read, self._descriptor, size))


class ClientGone(Exception):
    """Nobody reads what is written to stdout any more."""


class MessageStreams:
    """Stdin and stdout, for the lines of a protocol alone; see `protocol_streams`."""

    def __init__(self, received: int, sent: int, max_line_bytes: int) -> None:
        self._received = StandardInput(received)
        self._sent = sent
        self._max_line_bytes = max_line_bytes

    async def __aiter__(self) -> AsyncIterator[str]:
        """Yield the lines of stdin. Raises UsageError if one is too long, and OSError."""
        splitter = LineSplitter(self._max_line_bytes)
        while part := await self._received.read1(READ_BYTES):
            for line in splitter.feed(part):
                yield self._text(line)
        for line in splitter.end():
            yield self._text(line)

    def _text(self, line: bytes | None) -> str:
        if line is None:
            raise UsageError(f"a message on stdin has more than {self._max_line_bytes:,} bytes")
        return line.decode("utf-8", "replace")

    async def write(self, text: str) -> None:
        """Write all of ``text`` to stdout. Raises `ClientGone` if nobody reads it."""
        try:
            await in_own_thread(partial(self._write, text.encode()))
        except OSError as error:
            raise ClientGone from error

    async def flush(self) -> None:
        """Do nothing: `write` keeps nothing back."""

    def _write(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._sent, data) :]


@contextmanager
def protocol_streams(max_line_bytes: int) -> Iterator[MessageStreams]:
    """Keep stdin and stdout for a protocol.

    While inside, what else reads stdin finds it at its end, and what else is written to stdout goes
    to stderr: a line that is not of the protocol would break it.
    """
    received, sent, null = os.dup(STDIN), os.dup(STDOUT), os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, STDIN)
    os.close(null)
    os.dup2(STDERR, STDOUT)
    try:
        yield MessageStreams(received, sent, max_line_bytes)
    finally:  # they stay open: a thread may still read or write
        os.dup2(received, STDIN)
        os.dup2(sent, STDOUT)
