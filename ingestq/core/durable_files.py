"""Files and names that are still there after a power cut. Everything blocks, and raises OSError."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

NAME_CHARACTERS: Final = 32
"""So much of the name of its file a draft has. A name may have 255 bytes."""


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file that takes the place of ``path`` when the block ends, and is durable then.

    Nothing is left of it if the block fails; if the process is killed, a hidden file beside
    ``path`` is. Several may replace ``path`` at the same time. Only the user can read the file.
    """
    hidden = f".{path.name[:NAME_CHARACTERS]}."
    number, name = tempfile.mkstemp(".partial", hidden, path.parent)
    draft = Path(name)
    try:
        with os.fdopen(number, "wb") as file:
            yield file
            file.flush()
            os.fsync(number)
        rename_durably(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def rename_durably(source: Path, target: Path) -> None:
    """Rename ``source``, which may replace a file ``target``; on the disk on return."""
    source.replace(target)
    sync_directory(target.parent)


def sync_directory(folder: Path) -> None:
    """Make the names in ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
