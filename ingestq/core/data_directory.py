"""The data directory: what ingestq keeps in it, and the version of that.

redis, qdrant, blobs         the bundled servers' files, and the blob store
qdrant-migration             while an index of an earlier version is migrated
qdrant-local-backup          that index afterwards
version.json                 the format of all this, and which version of ingestq made it
"""

import os
from importlib.metadata import version
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from ingestq.core.durable_files import replacing
from ingestq.core.errors import UsageError
from ingestq.core.private_directory import owned_directory, private_directory

VERSION_FILE: Final = "version.json"
FORMAT: Final = 1
"""Raise it when an older version of ingestq could not read the directory, or would damage it.
CONTRIBUTING.md says how."""
KEPT: Final = frozenset(
    {"redis", "qdrant", "blobs", "qdrant-migration", "qdrant-local-backup", VERSION_FILE}
)
"""What ingestq keeps in its data directory, each closed by whoever creates it."""


class _Version(Struct, frozen=True):
    """What `VERSION_FILE` says. ``ingestq`` is the version that brought it to this format."""

    format: int
    ingestq: str


def data_directory(path: Path) -> None:
    """Create the data directory with mode 0700, or make sure that an existing one is the user's.

    An existing one is closed to other users if it holds nothing but what ingestq keeps in it. If
    there is something else, it may be meant for others; then only what ingestq keeps is closed.

    Raises UsageError if it cannot be used, belongs to another user, or was written by a newer
    version of ingestq.
    """
    try:
        if path.is_dir() and not {entry.name for entry in os.scandir(path)} <= KEPT:
            owned_directory(path)
        else:
            private_directory(path)
    except OSError as error:
        raise _unusable(path, error) from error
    except UsageError as error:
        raise UsageError(
            f"INGESTQ_DATA_DIR: {error}; set it to a directory of your own, or run ingestq as "
            "that user"
        ) from error
    try:
        _check_version(path)
    except OSError as error:
        raise _unusable(path, error) from error


def _unusable(path: Path, error: OSError) -> UsageError:
    return UsageError(f"INGESTQ_DATA_DIR: {path} cannot be used: {error.strerror}")


def _check_version(path: Path) -> None:
    """Raise UsageError unless this version can use the data directory; note its format if new.

    One without a note is of the first format. Raises OSError.
    """
    file = path / VERSION_FILE
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        note = _Version(FORMAT, version("ingestq"))
        with replacing(file) as new:
            new.write(msgspec.json.encode(note) + b"\n")
        return
    try:
        found = msgspec.json.decode(content, type=_Version)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(
            f"INGESTQ_DATA_DIR: {file} is damaged ({error}). If no newer version of ingestq has "
            "used this directory, delete that file"
        ) from error
    if found.format > FORMAT:
        raise UsageError(
            f"INGESTQ_DATA_DIR: {path} was written by a newer version, ingestq {found.ingestq}; "
            f"this is {version('ingestq')}. Upgrade ingestq, or set INGESTQ_DATA_DIR to another "
            "directory"
        )
