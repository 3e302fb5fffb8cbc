"""Migrates the index of an earlier version, which the Qdrant client's local mode wrote.

    qdrant                 the index; of an earlier version as long as it has a meta.json
    qdrant-migration       what is being written; renamed to `qdrant` when it is complete
    qdrant-local-backup    the index of the earlier version afterwards

An interrupted migration begins anew: nothing of the old index is changed before the new one is
complete, and then it takes two renames, the second of which can be made up for.
"""

import asyncio
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
import structlog
from msgspec import Struct

from ingestq.core import events
from ingestq.core.data_directory import data_directory
from ingestq.core.durable_files import rename_durably
from ingestq.core.errors import StoreUnavailable, UsageError
from ingestq.core.private_directory import private_directory
from ingestq.core.service import uninterrupted
from ingestq.embedded.engine import CATALOG, FOLDER, open_engine
from ingestq.embedded.lock_file import exclusive, is_locked, open_lock

log = structlog.get_logger()

LOCAL_MODE_FILE: Final = "meta.json"
MIGRATION: Final = "qdrant-migration"
BACKUP: Final = "qdrant-local-backup"
COPY: Final = "worker.store.migration"
"""The program that copies, in a process of its own: local mode blocks whoever reads it."""
WAIT_SECONDS: Final = 3600.0
"""How long to wait for another process that migrates."""
REPORT_SECONDS: Final = 5.0
"""How often the progress is logged."""


class Copied(Struct):
    """What the copying process prints, a line at a time, as JSON. ``error`` ends it."""

    points: int = 0
    of: int = 0
    collections: int = 0
    is_done: bool = False
    error: str | None = None
    is_temporary: bool = False


def has_index(data_dir: Path) -> bool:
    """Return whether the bundled Qdrant of ``data_dir`` has ever held anything. Blocks."""
    return (data_dir / FOLDER / CATALOG).exists() or _is_wanted(data_dir)


def _is_wanted(data_dir: Path) -> bool:
    return (data_dir / FOLDER / LOCAL_MODE_FILE).exists() or _is_half_renamed(data_dir)


def _is_half_renamed(data_dir: Path) -> bool:
    return (
        not (data_dir / FOLDER).exists()
        and (data_dir / BACKUP).exists()
        and (data_dir / MIGRATION / FOLDER).exists()
    )


async def migrate(data_dir: Path, socket_places: Sequence[Path]) -> None:
    """Migrate the index in ``data_dir`` if it is of an earlier version.

    Raises UsageError if it is damaged, and StoreUnavailable if a process of that version uses it,
    or it cannot be written now. Then nothing was changed.
    """
    if not await asyncio.to_thread(_is_wanted, data_dir):
        return
    folder = data_dir / MIGRATION
    await asyncio.to_thread(data_directory, data_dir)
    await asyncio.to_thread(private_directory, folder)
    async with exclusive(folder / "migration.lock", WAIT_SECONDS, StoreUnavailable):
        if await asyncio.to_thread(_is_wanted, data_dir):  # nobody else has done it meanwhile
            await _migrate(data_dir, socket_places)
        await _in_thread(partial(shutil.rmtree, folder, ignore_errors=True))


async def _migrate(data_dir: Path, socket_places: Sequence[Path]) -> None:
    old, new, backup = data_dir / FOLDER, data_dir / MIGRATION / FOLDER, data_dir / BACKUP
    began = time.monotonic()
    if await asyncio.to_thread(_is_half_renamed, data_dir):
        await _in_thread(partial(rename_durably, new, old))
        log.warning(events.INDEX_MIGRATED, kept=str(backup))
        return
    if await asyncio.to_thread(backup.exists):
        raise UsageError(
            f"the index in {old} is of an earlier version, and after its migration would be kept "
            f"as {backup}, which exists: move that away"
        )
    await _clear(new, socket_places)
    async with open_engine(data_dir / MIGRATION, socket_places) as engine:
        copied = await _copy(old, engine.socket)
    await asyncio.to_thread(_check_unserved, new)
    await _in_thread(partial(rename_durably, old, backup))
    await _in_thread(partial(rename_durably, new, old))
    log.warning(
        events.INDEX_MIGRATED,
        collections=copied.collections,
        points=copied.points,
        seconds=round(time.monotonic() - began, 1),
        kept=str(backup),
    )


async def _clear(new: Path, socket_places: Sequence[Path]) -> None:
    """Remove what an interrupted migration has left, with its server."""
    if not await asyncio.to_thread(new.exists):
        return
    if await asyncio.to_thread(_is_served, new):
        with suppress(StoreUnavailable):
            async with open_engine(new.parent, socket_places):
                pass  # its last user stops it
        await asyncio.to_thread(_check_unserved, new)
    await _in_thread(partial(shutil.rmtree, new))


async def _in_thread(change: Callable[[], None]) -> None:
    """Make a change to the disk. A thread cannot be stopped, so the lock is held until it ends."""
    await uninterrupted(asyncio.to_thread(change))


def _check_unserved(folder: Path) -> None:
    if _is_served(folder):
        raise StoreUnavailable(f"the bundled Qdrant of {folder} does not end; end it")


def _is_served(folder: Path) -> bool:
    with open_lock(folder / "alive.lock") as alive:
        return is_locked(alive)


async def _copy(old: Path, socket: Path) -> Copied:
    """Copy the index ``old`` to the Qdrant at ``socket``, in a process that ends with this one."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", COPY, old, socket),
        stdin=asyncio.subprocess.PIPE,  # closed when this process ends, however it ends
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    said = Copied()
    reported = time.monotonic()
    try:
        async for line in process.stdout:
            said = msgspec.json.decode(line, type=Copied)
            if time.monotonic() - reported > REPORT_SECONDS:
                reported = time.monotonic()
                log.warning(
                    events.INDEX_MIGRATING, folder=str(old), points=said.points, total=said.of
                )
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await uninterrupted(_ended(process))
    if said.error is not None:
        raise (StoreUnavailable if said.is_temporary else UsageError)(said.error)
    if not said.is_done:
        raise StoreUnavailable(
            f"the index of an earlier version in {old} was not migrated: the process that copies "
            "it has ended; start ingestq again"
        )
    return said


async def _ended(process: asyncio.subprocess.Process) -> None:
    await process.wait()
