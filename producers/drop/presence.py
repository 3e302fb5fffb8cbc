"""Whether a watched folder is there, or only the place where it was mounted. Blocks."""

import os
import stat
from pathlib import Path


class Presence:
    """Keeps in mind which folder was there.

    Another one in its place counts as soon as it has something in it: an empty one is what is left
    when a file system is unmounted.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.identity: tuple[int, int] | None = None

    def check(self) -> bool:
        """Whether the folder is there."""
        try:
            status = self._path.stat()
            identity = (status.st_dev, status.st_ino)
            is_another = self.identity not in (None, identity)
            if not stat.S_ISDIR(status.st_mode) or (is_another and not os.listdir(self._path)):
                return False
        except OSError:
            return False
        self.identity = identity
        return True
