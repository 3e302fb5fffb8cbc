"""``report.pdf.meta.json`` beside ``report.pdf``: metadata of that one document. Blocks."""

import stat
from pathlib import Path
from typing import Any

from producers.drop.folder import sidecar_of
from producers.metadata import METADATA_BYTES, decode_metadata


def read_sidecar(path: Path) -> dict[str, Any]:
    """What is said of the file at ``path``; nothing if it has no sidecar.

    Raises ValueError that says which file is wrong, and how.
    """
    sidecar = sidecar_of(path)
    try:
        is_file = stat.S_ISREG(sidecar.lstat().st_mode)  # a link might lead out of the folder
        data = _read(sidecar) if is_file else None
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ValueError(f"{sidecar.name} cannot be read: {error.strerror}") from error
    if data is None:
        raise ValueError(f"{sidecar.name} is not a regular file")
    try:
        return decode_metadata(data)
    except ValueError as error:
        raise ValueError(f"{sidecar.name} is not metadata: {error}") from error


def _read(sidecar: Path) -> bytes:
    with sidecar.open("rb") as file:
        return file.read(METADATA_BYTES + 1)  # enough to see that it is too large
