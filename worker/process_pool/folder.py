"""The private folder of pool processes: a temporary directory for each, and what it printed.

Libraries unpack themselves to fixed names in the temporary directory and trust what they find
there. In the system's own, that may be a file of another user. So each process gets a directory
that nobody else can write to, before it imports any library.
"""

import errno
import os
import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from ingestq.core.errors import PoolBroken, UsageError
from ingestq.core.paths import PROCESSES_PREFIX
from ingestq.core.temporary_folders import (
    PRIVATE,
    LockedFolder,
    check_private,
    delete_abandoned_folders,
)

OUTPUT_SUFFIX: Final = ".output"
MAX_OUTPUT_BYTES: Final = 64 * 1024
"""More of what a process printed is not read: the cause of a crash comes first."""


@dataclass(frozen=True)
class ProcessFolder:
    """A folder for pool processes. Its owner is the process that starts them."""

    folder: LockedFolder

    @classmethod
    def make(cls) -> Self:
        """Make a new folder, and delete those whose owners were killed.

        Raises UsageError if the temporary directory cannot be written, and PoolBroken if this
        process has too many open files.
        """
        try:
            delete_abandoned_folders()
            return cls(LockedFolder.make(PROCESSES_PREFIX))
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise PoolBroken(f"no process can be started: {error.strerror}") from error
            raise UsageError(
                f"no temporary files can be written ({error.strerror}: {error.filename}); set "
                "TMPDIR to a folder that is writable and has space"
            ) from error

    @property
    def path(self) -> Path:
        """Its path."""
        return self.folder.path

    def output_of(self, pid: int) -> bytes:
        """Return the beginning of what a process has printed in its current task."""
        try:
            with self._output(pid).open("rb") as file:
                return file.read(MAX_OUTPUT_BYTES)
        except OSError:
            return b""

    def outputs(self) -> list[bytes]:
        """Return the beginning of what each process that has not been deleted has printed."""
        pids = [int(path.stem) for path in self.path.glob(f"*{OUTPUT_SUFFIX}")]
        return [self.output_of(pid) for pid in pids]

    def delete_process(self, pid: int) -> None:
        """Delete what a process has left."""
        shutil.rmtree(self.path / str(pid), ignore_errors=True)
        self._output(pid).unlink(missing_ok=True)

    def delete(self) -> None:
        """Delete the folder with all that is in it."""
        self.folder.delete()

    def _output(self, pid: int) -> Path:
        return self.path / f"{pid}{OUTPUT_SUFFIX}"


# From here on: what runs in the processes.


def enter_folder(folder: Path) -> Path:
    """Make a temporary directory for this process in ``folder``; return it.

    From now on, this process and its libraries use it, and print to a file beside it.
    """
    check_private(folder)
    own = folder / str(os.getpid())
    for path in folder.glob("[0-9]*"):
        if path == own or (path.suffix != OUTPUT_SUFFIX and not _is_alive(int(path.name))):
            shutil.rmtree(path, ignore_errors=True)  # its process was killed
    own.mkdir(PRIVATE)
    for name in ("TMPDIR", "TEMP", "TMP"):
        os.environ[name] = str(own)
    tempfile.tempdir = str(own)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    output = os.open(own.with_name(own.name + OUTPUT_SUFFIX), flags, 0o600)
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    os.close(output)
    return own


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def restart_output(first_line: bytes) -> None:
    """Forget what this process has printed, and print ``first_line``."""
    with suppress(OSError):  # no space: the cause of a crash may be unknown, and nothing else
        os.ftruncate(2, 0)
        os.write(2, first_line)


def leave_folder(own: Path) -> None:
    """Delete the temporary directory of this process, which is about to end."""
    shutil.rmtree(own, ignore_errors=True)
    own.with_name(own.name + OUTPUT_SUFFIX).unlink(missing_ok=True)
