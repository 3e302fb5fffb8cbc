"""Decides which folders are watched: those of the command line, or else of the settings."""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path, PurePath
from typing import Literal

from ingestq.app.composition import Broker
from ingestq.app.services import ProcessPart
from ingestq.app.settings import Settings
from ingestq.app.settings_tables import DropTable
from ingestq.app.sources import off_limits_of
from ingestq.core.errors import RemoteUnavailable, UsageError
from ingestq.core.limits import check_metadata
from ingestq.core.paths import expanded, text_to_path
from ingestq.core.remote import RemoteAccess
from ingestq.core.urls import is_url, public_url
from producers.files.patterns import Patterns
from producers.files.walk import Root
from producers.remote.source import RemoteSource
from producers.remote.watch import RemoteWatch
from producers.watch.folder import WatchedFolder
from producers.watch.folder_watch import FolderWatch, WatchConfig
from producers.watch.moves import Arrivals


@dataclass(frozen=True)
class WatchRequest:
    """The folders and options of a command line."""

    folders: tuple[str, ...]
    source: str | None
    allow_mass_delete: bool
    hot: bool = False


@dataclass(frozen=True)
class RemoteFolder:
    """A remote source that is watched, and the collection of its documents."""

    source: RemoteSource
    collection: str


async def checked_folders(
    wanted: WatchRequest, settings: Settings, *, required: bool = True
) -> list[WatchedFolder | RemoteFolder]:
    """Return what `watched_folders` does, once it is known that remote folders may be read.

    One that does not answer is waited for later. Raises UsageError also if one is not there, or
    refuses access.
    """
    folders = await asyncio.to_thread(watched_folders, wanted, settings, required=required)
    for folder in folders:
        if isinstance(folder, RemoteFolder):
            with suppress(RemoteUnavailable):
                await folder.source.check()
    return folders


def watched_folders(
    wanted: WatchRequest, settings: Settings, *, required: bool = True
) -> list[WatchedFolder | RemoteFolder]:
    """Return the folders that ``wanted`` names, or else those of the settings. Blocks.

    Raises UsageError if one is not a folder or off limits, if the document ids of two would
    overlap, and if there is none although ``required``.
    """
    if wanted.source is not None and len(wanted.folders) != 1:
        raise UsageError(
            "--source names one folder; for several, add a [[drop]] table for each to ingestq.toml"
        )
    if wanted.source == "":
        raise UsageError("--source is empty; leave it out, or give the folder a name")
    if wanted.hot and not wanted.folders:
        raise UsageError('--hot needs a DIR; for a [[drop]] table, set mode = "hot" in it')
    mode: Literal["mirror", "hot"] = "hot" if wanted.hot else "mirror"
    tables = [
        DropTable(url=place, source=wanted.source, mode=mode)
        if is_url(place)
        else DropTable(path=Path(place), source=wanted.source, mode=mode)
        for place in wanted.folders
    ]
    off_limits = off_limits_of(settings)
    folders = [
        _folder(table, settings.collection, settings.remote_access)
        for table in tables or settings.drop
    ]
    for folder in folders:
        if isinstance(folder, RemoteFolder):
            continue
        reason = off_limits.reason_against(folder.path)
        if reason is not None:
            raise UsageError(f"{folder.path} cannot be watched: {reason}")
    if required and not folders:
        raise UsageError("pass a DIR, or add a [[drop]] table to ingestq.toml")
    for one, other in combinations(folders, 2):
        _check_apart(one, other)
    return folders


def drop_parts(
    folders: Sequence[WatchedFolder | RemoteFolder],
    wanted: WatchRequest,
    settings: Settings,
    broker: Broker,
) -> list[ProcessPart]:
    """Return one part for each of ``folders``, which watches it."""
    config = WatchConfig(
        settings.drop_settle_seconds,
        settings.drop_rescan_seconds,
        settings.drop_poll_seconds,
        wanted.allow_mass_delete,
        off_limits_of(settings),
    )
    arrivals: defaultdict[tuple[str, str], Arrivals] = defaultdict(partial(Arrivals, broker.client))
    drops = [
        RemoteWatch(
            folder.source,
            folder.collection,
            settings.drop_rescan_seconds,
            broker.client,
            broker.watched_folders,
            allow_mass_delete=wanted.allow_mass_delete,
        )
        if isinstance(folder, RemoteFolder)
        else FolderWatch(
            folder,
            config,
            broker.client,
            broker.dead_letters,
            broker.watched_folders,
            arrivals[folder.collection, folder.tenant],
        )
        for folder in folders
    ]
    return [ProcessPart(drop.run, drop.stop) for drop in drops]


def _folder(
    table: DropTable, default_collection: str, access: RemoteAccess
) -> WatchedFolder | RemoteFolder:
    place = str(table.path) if table.url is None else _shown(table.url)
    try:
        check_metadata(table.metadata)
    except ValueError as error:
        raise UsageError(f"metadata of the folder {place}: {error}") from error
    collection = default_collection if table.collection is None else table.collection
    try:
        if table.url is not None:
            return RemoteFolder(_remote_source(table, table.url, access), collection)
        return _local_folder(table, collection)
    except ValueError as error:
        raise UsageError(f"include or exclude of the folder {place}: {error}") from error


def _local_folder(table: DropTable, collection: str) -> WatchedFolder:
    assert table.path is not None, "the caller has checked that there is a place"
    root = Root.at(expanded(table.path))
    if not root.is_folder:
        raise UsageError(f"{table.path} cannot be watched: there is no such folder")
    return WatchedFolder(
        root.path,
        table.source,
        table.tenant,
        table.include,
        table.exclude,
        table.metadata,
        collection,
        hot=table.mode == "hot",
    )


def _shown(url: str | Sequence[str]) -> str:
    return public_url(url) if isinstance(url, str) else ", ".join(map(public_url, url))


def _remote_source(
    table: DropTable, url: str | Sequence[str], access: RemoteAccess
) -> RemoteSource:
    if table.mode == "hot":
        raise UsageError(f"{_shown(url)} cannot be a hot folder: objects are not moved")
    return RemoteSource.at(
        url,
        table.source,
        tenant=table.tenant,
        patterns=Patterns(table.include, table.exclude),
        metadata=table.metadata,
        access=access,
    )


def _check_apart(one: WatchedFolder | RemoteFolder, other: WatchedFolder | RemoteFolder) -> None:
    """Raise UsageError if documents of both folders could have the same id."""
    ids, owners, places = zip(*map(_ids_of, (one, other)), strict=True)
    overlap = ids[0].is_relative_to(ids[1]) or ids[1].is_relative_to(ids[0])
    if overlap and owners[0] == owners[1]:
        raise UsageError(
            f"{places[0]} and {places[1]} cannot both be watched: their documents would have the "
            "same ids; watch only the outer one, or give each a source, a tenant or a collection "
            "of its own"
        )


def _ids_of(folder: WatchedFolder | RemoteFolder) -> tuple[PurePath, tuple[str, str], str]:
    """Return what the ids of the documents begin with, whose they are, and where the folder is."""
    if isinstance(folder, RemoteFolder):
        source = folder.source
        return PurePath(source.folder), (folder.collection, source.tenant), source.url
    root = Root(folder.path, folder.name, is_folder=True)
    return text_to_path(root.folder), (folder.collection, folder.tenant), str(folder.path)
