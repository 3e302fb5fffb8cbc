"""Directories that no other user can enter."""

import os
import pwd
import stat
from pathlib import Path
from typing import Final

from ingestq.core.errors import UsageError

PRIVATE: Final = 0o700
OTHERS: Final = 0o077
"""The permissions of everybody but the owner."""


def private_directory(path: Path, *, link_allowed: bool = True) -> None:
    """Create ``path`` with mode 0700, or close it to other users if it is there.

    Raises UsageError if it cannot be created, belongs to another user, or is no directory. A
    symbolic link to a directory counts as one if ``link_allowed``.
    """
    try:
        path.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
        if owned_directory(path, link_allowed=link_allowed).st_mode & OTHERS:
            path.chmod(PRIVATE)
    except OSError as error:
        raise UsageError(f"{path} cannot be used: {error.strerror}") from error


def owned_directory(path: Path, *, link_allowed: bool = True) -> os.stat_result:
    """Return the status of the directory ``path``.

    Raises OSError if it cannot be looked at, UsageError if it is another user's or no directory.
    """
    status = path.stat() if link_allowed else path.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise UsageError(f"{path} is not a directory")
    if status.st_uid != os.geteuid():
        raise UsageError(f"{path} belongs to the user {_user_name(status.st_uid)}")
    return status


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
