"""Opens the files of users, which may be anything by the time they are opened."""

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

Opener = Callable[[str, int], int]
FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def regular_only(path: str, flags: int, folder: int | None = None) -> int:
    """Open a regular file; an ``opener`` for `open`. ``path`` may be relative to a ``folder``.

    Raises OSError if ``path`` is anything else. Never waits, not even if a named pipe or a device
    took the place of the file: what is checked is what was opened.
    """
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY, dir_fd=folder)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", path)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def regular_within(folder: Path) -> Opener:
    """Return what `regular_only` is for all files, for those in ``folder``.

    A link may lead to another file in it, but not out of it, also if it takes the place of a file
    or folder at this moment.
    """

    def regular(path: str, flags: int) -> int:
        root, real = Path(os.path.realpath(folder)), Path(os.path.realpath(path))
        if root not in real.parents:
            raise OSError(errno.EXDEV, f"a link leads out of {folder}", path)
        at = os.open(root, FOLDER)
        try:
            # `real` has no links: if one of its names is a link now, opening it fails.
            *folders, name = real.relative_to(root).parts
            for below in folders:
                above, at = at, os.open(below, FOLDER, dir_fd=at)
                os.close(above)
            return regular_only(name, flags | os.O_NOFOLLOW, at)
        finally:
            os.close(at)

    return regular
