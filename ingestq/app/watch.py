"""Decides which folders are watched: those of the command line, or else of the settings."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Literal

from ingestq.app.composition import Broker
from ingestq.app.services import ProcessPart
from ingestq.app.settings import DropTable, Settings
from ingestq.app.sources import off_limits_of
from ingestq.core.errors import UsageError
from ingestq.core.limits import check_metadata
from ingestq.core.paths import text_to_path
from producers.files.walk import Root
from producers.watch.folder import WatchedFolder
from producers.watch.folder_watch import FolderWatch, WatchConfig
from producers.watch.moves import Arrivals


@dataclass(frozen=True)
class WatchRequest:
    """The folders and options of a command line."""

    folders: tuple[Path, ...]
    source: str | None
    allow_mass_delete: bool
    hot: bool = False


def watched_folders(
    wanted: WatchRequest, settings: Settings, *, required: bool = True
) -> list[WatchedFolder]:
    """Return the folders that ``wanted`` names, or else those of the settings.

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
    tables = [DropTable(path=path, source=wanted.source, mode=mode) for path in wanted.folders]
    off_limits = off_limits_of(settings)
    folders = [_folder(table, settings.collection) for table in tables or settings.drop]
    for folder in folders:
        reason = off_limits.reason_against(folder.path)
        if reason is not None:
            raise UsageError(f"{folder.path} cannot be watched: {reason}")
    if required and not folders:
        raise UsageError("pass a DIR, or add a [[drop]] table to ingestq.toml")
    for one, other in combinations(folders, 2):
        _check_apart(one, other)
    return folders


def drop_parts(
    folders: Sequence[WatchedFolder], wanted: WatchRequest, settings: Settings, broker: Broker
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
        FolderWatch(
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


def _folder(table: DropTable, default_collection: str) -> WatchedFolder:
    root = Root.at(table.path.expanduser())
    if not root.is_folder:
        raise UsageError(f"{table.path} cannot be watched: there is no such folder")
    try:
        check_metadata(table.metadata)
    except ValueError as error:
        raise UsageError(f"metadata of the folder {table.path}: {error}") from error
    try:
        return WatchedFolder(
            root.path,
            table.source,
            table.tenant,
            table.include,
            table.exclude,
            table.metadata,
            default_collection if table.collection is None else table.collection,
            hot=table.mode == "hot",
        )
    except ValueError as error:
        raise UsageError(f"include or exclude of the folder {table.path}: {error}") from error


def _check_apart(one: WatchedFolder, other: WatchedFolder) -> None:
    """Raise UsageError if documents of both folders could have the same id."""
    ids = [text_to_path(Root(f.path, f.name, is_folder=True).folder) for f in (one, other)]
    overlap = ids[0].is_relative_to(ids[1]) or ids[1].is_relative_to(ids[0])
    if overlap and (one.collection, one.tenant) == (other.collection, other.tenant):
        raise UsageError(
            f"{one.path} and {other.path} cannot both be watched: their documents would have the "
            "same ids; watch only the outer one, or give each a source, a tenant or a collection "
            "of its own"
        )
