"""The standard streams, made so that a closed or broken one never stops a command.

Loads nothing but the standard library, because it comes first.
"""

import io
import os
import select
import signal
import sys
from typing import Any, Final, TextIO

STDIN, STDOUT, STDERR = range(3)
NOBODY_READS: Final = 128 + signal.SIGPIPE
"""The exit code that shells report for a program whose output nobody read to its end."""
NOT_WRITTEN: Final = 1


class StandardStreams:
    """Replaces stdout and stderr by streams that raise no error.

    A command does its work to the end, whether or not somebody reads what it prints. What cannot be
    written to stderr is lost; for stdout, see `exit_code`. A stream that was closed when the
    process started leads to /dev/null: otherwise the next file or connection would get its number,
    and output would go there.
    """

    def __init__(self) -> None:
        while (number := os.open(os.devnull, os.O_RDWR)) <= STDERR:
            os.set_inheritable(number, True)
        os.close(number)
        if sys.stdin is None:
            sys.stdin = open(STDIN, encoding="utf-8", closefd=False)  # noqa: SIM115
        self._out = _LenientFile(STDOUT, "w", closefd=False)
        sys.stdout = _as_text(self._out, sys.stdout, line_buffering=self._out.isatty())
        errors = _LenientFile(STDERR, "w", closefd=False)
        sys.stderr = _as_text(errors, sys.stderr, line_buffering=True)

    def exit_code(self, code: int) -> int:
        """Return the exit code of a command that ends with ``code``.

        If it succeeded and stdout could not be written, that is 141 if nobody read it any more, as
        of a program that SIGPIPE ends; else it is 1, and stderr says why.
        """
        sys.stdout.flush()
        error = self._out.error
        if error is None or code != 0:
            return code
        if isinstance(error, BrokenPipeError):
            return NOBODY_READS
        print(f"ingestq: stdout cannot be written: {error.strerror}", file=sys.stderr)  # noqa: T201
        return NOT_WRITTEN


class _LenientFile(io.FileIO):
    """A file that drops what cannot be written; ``error`` is the first failure.

    If nobody reads any more, nothing else is tried. A full disk may have space again later.
    """

    error: OSError | None = None

    def write(self, data: Any, /) -> int:
        while not isinstance(self.error, BrokenPipeError):
            try:
                written: int | None = super().write(data)
            except OSError as error:
                self.error = self.error or error
                break
            else:
                if written is not None:
                    return written
                select.select([], [self], [])  # another program has made it non-blocking
        return memoryview(data).nbytes


def _as_text(
    file: _LenientFile, replaced: TextIO | None, *, line_buffering: bool
) -> io.TextIOWrapper:
    """Return ``file`` with the encoding of ``replaced``; what the encoding lacks is escaped."""
    return io.TextIOWrapper(
        io.BufferedWriter(file),
        encoding="utf-8" if replaced is None else replaced.encoding,
        errors="backslashreplace",
        line_buffering=line_buffering,
    )
