"""Finds ``ingestq.toml``, and reads it if it can be trusted.

The file decides where documents go and which code runs, and a folder may come from anywhere. So a
file that is merely found in the working directory must be one that only the user can have written;
and `ingestq.app.settings` does not let it run code or choose where a key is sent. A file that
INGESTQ_CONFIG names is trusted.
"""

import os
import stat
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ingestq.core.errors import UsageError
from ingestq.core.paths import expanded

CONFIG: Final = "INGESTQ_CONFIG"
FILE: Final = Path("ingestq.toml")
ROOT: Final = 0
MAX_BYTES: Final = 1024 * 1024


@dataclass(frozen=True)
class SettingsFile:
    """The values in a settings file; none if there is no file. Printed, it is its path."""

    path: Path
    is_named: bool
    values: dict[str, Any] = field(default_factory=dict, repr=False)

    def __str__(self) -> str:
        return str(self.path)

    def untrusted(self, reason: str) -> UsageError:
        """Return the error for a file that was found and cannot be trusted."""
        return UsageError(
            f"{self.path} in the working directory is not used, because {reason}; if you trust it, "
            f"set {CONFIG}={self.path.absolute()}"
        )


def find_settings_file(named: str | None) -> SettingsFile:
    """Read the file ``named``; without a name, ``ingestq.toml`` in the working directory, if any.

    Raises UsageError if a file that was named does not exist, if one that was found could have been
    written by another user, or if it cannot be read.
    """
    if named:
        file = SettingsFile(expanded(Path(named)), is_named=True)
        return _read(file)
    file = SettingsFile(FILE, is_named=False)
    return _read(file) if os.path.lexists(FILE) else file


def _read(file: SettingsFile) -> SettingsFile:
    try:
        # Not to wait for the writer of a named pipe; the flag means nothing for a file.
        descriptor = os.open(file.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as opened:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise UsageError(f"{_who(file)} is not a file")
            if not file.is_named:
                _check_owners(file, found)
            content = opened.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise UsageError(f"{_who(file)} is larger than {MAX_BYTES} bytes")
        values = tomllib.loads(content.decode())
    except OSError as error:
        raise UsageError(f"{_who(file)} cannot be read: {error.strerror}") from error
    except ValueError as error:  # not TOML, or not UTF-8
        raise UsageError(f"{_who(file)}: {error}") from error
    return SettingsFile(file.path, file.is_named, values)


def _check_owners(file: SettingsFile, found: os.stat_result) -> None:
    """Raise UsageError if another user can have written the file or put it where it is."""
    folders = {Path(), file.path.resolve().parent}
    for path, status in {file.path: found, **{folder: folder.stat() for folder in folders}}.items():
        name = path if path == file.path else f"the folder {path.absolute()}"
        if status.st_uid not in (os.geteuid(), ROOT):
            raise file.untrusted(f"{name} belongs to another user (uid {status.st_uid})")
        if _others_can_write(status):
            raise file.untrusted(
                f"other users can write to {name} (to change that: chmod go-w {path.absolute()})"
            )


def _others_can_write(status: os.stat_result) -> bool:
    if stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX:
        return False  # as in /tmp: files of this user can only be replaced by this user
    # Where each user has a group of their own, both have the same number, and umask is often 002.
    shared = stat.S_IWOTH if status.st_gid == status.st_uid else stat.S_IWOTH | stat.S_IWGRP
    return bool(status.st_mode & shared)


def _who(file: SettingsFile) -> str:
    return f"{CONFIG}: {file}" if file.is_named else str(file)
