"""The files of a shard: created, opened, and made durable. Everything here blocks."""

import os
import shutil
import sys
from pathlib import Path
from typing import Final

import qdrant_edge as edge

from ingestq.core.durable_files import sync_directory
from ingestq.embedded.qdrant.errors import NO_SPACE, Refused, engine_error
from ingestq.embedded.qdrant.limits import Schema
from ingestq.embedded.qdrant.schema import index_operation

LEAST_FREE_BYTES: Final = 64 * 1024 * 1024
"""The engine maps its files into memory: on a full disk it would be killed in the middle of a
write. So it is not given any write while less than this, two files of its log, is free."""
SYNCS_LOG: Final = sys.platform == "linux"
"""Linux writes changed pages of shared mappings on fdatasync. POSIX does not promise that, so
elsewhere every group of writes is flushed."""
VERSION_BYTES: Final = 8
UNFINISHED: Final = ".atomicwrite"
"""How the names of folders begin in which the engine writes a file before it moves it into place.
One that is killed leaves them behind (https://github.com/untitaker/rust-atomicwrites)."""


class LogFiles:
    """The write-ahead log of the shard in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "wal"
        self._synced: list[str] = []

    def sync(self, shard: edge.EdgeShard) -> None:
        """Make what ``shard`` has logged durable. Raises OSError, or an error of the engine."""
        if not SYNCS_LOG:
            shard.flush()
            return
        # No folders: the engine may be writing in one; see `UNFINISHED`.
        with os.scandir(self._folder) as entries:
            names = sorted(entry.name for entry in entries if entry.is_file())
        for name in names:
            _sync_file(self._folder / name)
        if names != self._synced:
            sync_directory(self._folder)
            self._synced = names


def check_space(folder: Path) -> None:
    """Raise Refused if the disk is too full to write."""
    status = os.statvfs(folder)
    if status.f_bavail * status.f_frsize < LEAST_FREE_BYTES:
        raise Refused(500, f"Service internal error: {NO_SPACE}: {folder}")


def slots(folder: Path) -> int:
    """Return how many points the shard in ``folder`` has ever had room for.

    It never gives the room of a deleted point to another one.
    """
    versions = folder.glob("segments/*/mutable_id_tracker.versions")
    return sum(path.stat().st_size for path in versions) // VERSION_BYTES


def create_shard(folder: Path, config: edge.EdgeConfig) -> edge.EdgeShard:
    """Create an empty shard in ``folder``; it is on the disk on return. Raises Refused."""
    try:
        shard = edge.EdgeShard.create(str(folder), config)
        sync_tree(folder)
    except BaseException as error:  # the engine's panics are no Exception
        raise engine_error(error) from error
    return shard


def load_shard(folder: Path, schema: Schema) -> edge.EdgeShard:
    """Open the shard in ``folder``: apply its log, and create the indexes of ``schema`` it lacks.

    Removes what a killed engine has left unfinished. Raises Refused if it is damaged.
    """
    try:
        _remove_unfinished(folder)
        shard = edge.EdgeShard.load(str(folder))
        for field in schema.keys() - shard.info().payload_schema.keys():
            shard.update(index_operation(field, schema[field]))
        return shard
    except BaseException as error:  # the engine's panics are no Exception
        raise engine_error(error) from error


def _remove_unfinished(folder: Path) -> None:
    """Remove the folders of files that were never moved into place. Raises OSError."""
    for place, names, _ in os.walk(folder):
        for name in [name for name in names if name.startswith(UNFINISHED)]:
            shutil.rmtree(Path(place) / name)
            names.remove(name)


def sync_tree(folder: Path) -> None:
    """Make every file below ``folder``, and its name, durable. Raises OSError."""
    for place, _, names in os.walk(folder):
        for name in names:
            _sync_file(Path(place) / name)
        sync_directory(Path(place))
    sync_directory(folder.parent)


def _sync_file(path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:  # replaced meanwhile by the engine, which syncs what it renames
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
