"""The private folder of pool processes: a temporary directory for each, and what it printed.

Libraries unpack themselves to fixed names in the temporary directory and trust what they find
there. In the system's own, that may be a file of another user. So each process gets a directory
that nobody else can write to, before it imports any library.
"""

import errno
import fcntl
import os
import shutil
import stat
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from ingestq.core.errors import PoolBroken, UsageError
from ingestq.core.paths import PROCESSES_PREFIX

LOCK: Final = "lock"
PRIVATE: Final = 0o700
OUTPUT_SUFFIX: Final = ".output"
MAX_OUTPUT_BYTES: Final = 64 * 1024
"""More of what a process printed is not read: the cause of a crash comes first."""


@dataclass(frozen=True)
class ProcessFolder:
    """A private folder in the temporary directory, which its owner keeps locked while it lives."""

    path: Path
    lock: int

    @classmethod
    def make(cls) -> Self:
        """Make a new folder, and delete those whose owners were killed.

        Raises UsageError if the temporary directory cannot be written, and PoolBroken if this
        process has too many open files.
        """
        try:
            _delete_abandoned()
            path = Path(tempfile.mkdtemp(prefix=PROCESSES_PREFIX))
            # Under another name first: a lock file that nobody holds means that the owner is dead.
            unlocked = path / f"{LOCK}.new"
            lock = os.open(unlocked, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX)
            unlocked.rename(path / LOCK)
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise PoolBroken(f"no process can be started: {error.strerror}") from error
            raise UsageError(
                f"no temporary files can be written ({error.strerror}: {error.filename}); set "
                "TMPDIR to a folder that is writable and has space"
            ) from error
        return cls(path, lock)

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
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self.lock)

    def _output(self, pid: int) -> Path:
        return self.path / f"{pid}{OUTPUT_SUFFIX}"


def _delete_abandoned() -> None:
    """Delete the folders of this user's processes that were killed."""
    for path in Path(tempfile.gettempdir()).glob(f"{PROCESSES_PREFIX}*"):
        try:
            check_private(path)
            lock = os.open(path / LOCK, os.O_RDWR | os.O_NOFOLLOW)
        except (OSError, UsageError):
            continue  # that of another user, or one that is being made or deleted
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue  # its owner lives
        else:
            shutil.rmtree(path, ignore_errors=True)
        finally:
            os.close(lock)


def check_private(path: Path) -> None:
    """Raise UsageError unless ``path`` is a directory that only this user can use; or OSError."""
    status = path.lstat()
    private = stat.S_ISDIR(status.st_mode) and stat.S_IMODE(status.st_mode) == PRIVATE
    if not private or status.st_uid != os.geteuid():
        raise UsageError(f"{path} is not a directory that only this user can use")


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
