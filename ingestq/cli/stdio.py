"""Reads stdin and writes stdout without keeping the process from ending, however they behave."""

import errno
import io
import os
import select
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any, Final

from ingestq.cli.streams import STDERR, STDIN, STDOUT
from ingestq.core.daemon_threads import DaemonThreads
from ingestq.core.errors import UsageError
from ingestq.core.lines import LineSplitter

READ_BYTES: Final = 64 * 1024


class StandardInput:
    """Reads stdin, or another descriptor that it was moved to."""

    def __init__(self, descriptor: int = STDIN) -> None:
        self._descriptor = descriptor
        self._thread = DaemonThreads("stdin", 1)

    async def read1(self, size: int, /) -> bytes:
        """Return up to ``size`` bytes as soon as there are some; empty at the end.

        Raises OSError. Must not be called again after it was cancelled: what the thread still reads
        is lost.
        """
        return await self._thread.call(os.read, self._descriptor, size)


class StandardStream(io.RawIOBase):
    """Stdin or stdout, as a file whose use ends when it is closed.

    `close` ends a read or write in another thread, which raises OSError then. A file of Python's
    would wait for it, however long that takes.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor: Final = descriptor
        self._is_closed, self._close = os.pipe()  # left open: a thread may still look at it

    def readable(self) -> bool:
        """Return True: who uses it knows which of the two it is."""
        return True

    def writable(self) -> bool:
        """Return True: who uses it knows which of the two it is."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Read what there is, as soon as there is something. Raises OSError."""
        self._wait([self._descriptor], [])
        data = os.read(self._descriptor, len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def write(self, data: Any, /) -> int:
        """Write all of ``data``. Raises OSError."""
        left = memoryview(data).cast("B")
        while left:
            self._wait([], [self._descriptor])
            # A pipe that can be written takes as much without waiting.
            left = left[os.write(self._descriptor, left[: select.PIPE_BUF]) :]
        return memoryview(data).nbytes

    def close(self) -> None:
        """End the read or write that is going on. The descriptor stays open."""
        if not self.closed:
            os.close(self._close)
        super().close()

    def _wait(self, reading: list[int], writing: list[int]) -> None:
        ready, _, _ = select.select([self._is_closed, *reading], writing, [])
        if self._is_closed in ready:
            raise OSError(errno.ECANCELED, os.strerror(errno.ECANCELED))


class ClientGone(Exception):
    """Nobody reads what is written to stdout any more."""


class MessageStreams:
    """Stdin and stdout, for the lines of a protocol alone; see `protocol_streams`."""

    def __init__(self, received: int, sent: int, max_line_bytes: int) -> None:
        self._received = StandardInput(received)
        self._sent = sent
        self._thread = DaemonThreads("stdout", 1)
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
            await self._thread.call(self._write, text.encode())
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
