"""Scheduled entries, built from the settings."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Final

from ingestq.app.settings import Settings
from ingestq.app.settings_tables import ScheduleTable
from ingestq.app.sources import off_limits_of
from ingestq.core.errors import UsageError
from ingestq.core.limits import check_metadata
from ingestq.core.remote import RemoteAccess
from ingestq.core.web import is_web
from producers.files.patterns import Patterns
from producers.remote.source import RemoteSource
from producers.schedule.entry import Action, ScheduledEntry, Timetable
from producers.schedule.generators import Generator
from producers.schedule.sources import FileSource, LineSource, Source

SOURCES: Final = ("path", "url", "glob", "jsonl", "generator")
WILDCARD: Final = re.compile(r"[*?\[]")
FOR_RESCANS: Final[tuple[str, ...]] = (
    *("url", "glob", "jsonl", "generator", "tenant", "include", "exclude", "metadata"),
    *("delete_missing", "lane"),
)
"""Keys that only a rescan has a use for."""


def scheduled_entries(settings: Settings) -> list[ScheduledEntry]:
    """Return the entries of all ``[[schedule]]`` tables.

    Raises UsageError that names the table and what is wrong with it.
    """
    counts = Counter(table.name for table in settings.schedule)
    for name, count in counts.items():
        if count > 1:
            raise UsageError(f"[[schedule]] {name!r}: {count} tables have this name")
    entries = [_entry(table, settings) for table in settings.schedule]
    for one, other in combinations(entries, 2):
        _check_apart(one, other)
    return entries


def _entry(table: ScheduleTable, settings: Settings) -> ScheduledEntry:
    try:
        source = _source(table, settings.max_document_bytes, settings.remote_access)
        if isinstance(source, FileSource):
            source = replace(source, off_limits=off_limits_of(settings))
        return ScheduledEntry(
            table.name,
            Timetable(table.cron, table.timezone),
            table.action,
            source,
            table.lane,
            settings.collection if table.collection is None else table.collection,
        )
    except ValueError as error:
        raise UsageError(f"[[schedule]] {table.name!r}: {error}") from error


def _source(table: ScheduleTable, max_line_bytes: int, access: RemoteAccess) -> Source | None:
    """Return what the entry reads; None if it needs nothing. Raises ValueError if it is wrong."""
    named = [key for key in SOURCES if getattr(table, key) is not None]
    if table.action is not Action.RESCAN:
        _check_unused_keys(table)
        return None if table.path is None else FileSource(_absolute(table.path), table.source)
    if len(named) != 1:
        raise ValueError(
            f"it has {' and '.join(named) or 'no source'}; set exactly one of {', '.join(SOURCES)}"
        )
    [kind] = named
    check_metadata(table.metadata)
    if table.source is not None and not Path(table.source).name:
        raise ValueError(f"source is {table.source!r}; use a name")
    if table.delete_missing and kind in ("path", "url"):
        raise ValueError(
            f"delete_missing is not for a {kind}: a folder's deleted files always leave the index"
        )
    if table.delete_missing and table.source is None:
        raise ValueError(
            "delete_missing needs a source: it deletes what is missing under that name"
        )
    if table.path is not None:
        return _files(table, table.path, table.include, complete=True)
    if table.url is not None:
        return _remote(table, table.url, access)
    if table.glob is not None:
        return _glob(table, table.glob)
    return _lines(table, max_line_bytes)


def _check_unused_keys(table: ScheduleTable) -> None:
    useless = FOR_RESCANS
    if table.action is Action.REINDEX:
        useless += ("path", "source")
    unused = [key for key in useless if key in table.model_fields_set]
    if unused:
        raise ValueError(
            f"action {table.action.value!r} does not use {', '.join(unused)}; remove it"
        )
    if table.source is not None and table.path is None:
        raise ValueError("source names the folder at path; set path, too")


def _glob(table: ScheduleTable, glob: str) -> FileSource:
    """Return the folder before the first wildcard as a source, with the rest as its pattern."""
    if table.include:
        raise ValueError("include cannot be combined with glob")
    parts = Path(glob).parts
    wild = next((i for i, part in enumerate(parts) if WILDCARD.search(part)), None)
    if wild is None:
        raise ValueError(f"glob is {glob!r}, which has no wildcard; use path instead")
    base, pattern = Path(*parts[:wild]), "/" + "/".join(parts[wild:])
    return _files(table, base, (pattern,), complete=table.delete_missing, glob=glob)


def _remote(table: ScheduleTable, url: str | Sequence[str], access: RemoteAccess) -> RemoteSource:
    patterns = _patterns(table.include, table.exclude)
    try:
        return RemoteSource.at(
            url,
            table.source,
            tenant=table.tenant,
            patterns=patterns,
            metadata=table.metadata,
            access=access,
        )
    except UsageError as error:
        raise ValueError(f"url: {error}") from error


def _patterns(include: tuple[str, ...], exclude: tuple[str, ...]) -> Patterns:
    try:
        return Patterns(include, exclude)
    except ValueError as error:
        raise ValueError(f"include or exclude: {error}") from error


def _files(
    table: ScheduleTable,
    path: Path,
    include: tuple[str, ...],
    *,
    complete: bool,
    glob: str | None = None,
) -> FileSource:
    patterns = _patterns(include, table.exclude)
    return FileSource(
        _absolute(path), table.source, table.tenant, patterns, table.metadata, glob, complete
    )


def _lines(table: ScheduleTable, max_line_bytes: int) -> LineSource:
    if table.include or table.exclude:
        raise ValueError(
            "include and exclude need path, url or glob: they select files of a folder"
        )
    if table.generator is not None:
        items: Path | Generator = Generator(table.generator)
    else:
        assert table.jsonl is not None, "the caller has checked that there is a source"
        items = _absolute(table.jsonl)
    name = None if table.source is None else str(Path(table.source))
    return LineSource(
        items, name, table.tenant, table.metadata, table.delete_missing, max_line_bytes
    )


def _absolute(path: Path) -> Path:
    """Return ``path`` as an absolute path. Raises ValueError if "~user" does not exist."""
    try:
        return Path.cwd() / path.expanduser()
    except RuntimeError as error:
        raise ValueError(f"{path}: {error}") from error


def _check_apart(one: ScheduledEntry, other: ScheduledEntry) -> None:
    """Raise UsageError if each entry would delete the documents of the other."""
    sources = (one.source, other.source)
    names = [_list_name(source) for source in sources]
    if None in names or one.source == other.source or one.collection != other.collection:
        return
    (tenant, first), (other_tenant, second) = [name for name in names if name is not None]
    if tenant == other_tenant and (first.is_relative_to(second) or second.is_relative_to(first)):
        how = "with delete_missing, "
        if any(isinstance(source, RemoteSource) and is_web(source.url) for source in sources):
            how = ""
        raise UsageError(
            f"[[schedule]] {one.name!r} and {other.name!r}: {how}each would delete "
            "the documents of the other; give each a source of its own"
        )


def _list_name(source: Source | None) -> tuple[str, Path] | None:
    """Return tenant and name of ``source`` if it is complete: what it lacks is deleted."""
    match source:
        case (
            FileSource(complete=True, name=str(name))
            | LineSource(complete=True, name=str(name))
            | RemoteSource(name=str(name))
        ):
            return source.tenant, Path(name)
        case RemoteSource() if is_web(source.url):  # its sweep is that of the whole site
            return source.tenant, Path(source.folder)
        case _:
            return None


def entry_named(entries: Sequence[ScheduledEntry], name: str) -> ScheduledEntry:
    """Return the entry called ``name``. Raises UsageError if there is none."""
    for entry in entries:
        if entry.name == name:
            return entry
    known = ", ".join(entry.name for entry in entries) or "none"
    raise UsageError(f"there is no [[schedule]] table {name!r}; known entries: {known}")
