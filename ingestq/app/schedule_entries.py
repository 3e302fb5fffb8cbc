"""Scheduled entries, built from the settings."""

import re
from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Final

from ingestq.app.settings import ScheduleTable, Settings
from ingestq.core.errors import UsageError
from producers.files.patterns import Patterns
from producers.schedule.entry import Action, ScheduledEntry, Timetable
from producers.schedule.generators import Generator
from producers.schedule.sources import FileSource, LineSource, Source

SOURCES: Final = ("path", "glob", "jsonl", "generator")
WILDCARD: Final = re.compile(r"[*?\[]")
FOR_RESCANS: Final[tuple[str, ...]] = (
    *("glob", "jsonl", "generator", "tenant", "include", "exclude", "metadata"),
    *("delete_missing", "lane"),
)
"""Keys that mean nothing to any other action."""


def scheduled_entries(settings: Settings) -> list[ScheduledEntry]:
    """The entries of all tables ``[[schedule]]``.

    Raises UsageError that names the table, and what is wrong with it.
    """
    counts = Counter(table.name for table in settings.schedule)
    for name, count in counts.items():
        if count > 1:
            raise UsageError(f"[[schedule]] {name!r}: {count} tables have this name")
    entries = [_entry(table, settings.collection) for table in settings.schedule]
    for one, other in combinations(entries, 2):
        _check_apart(one, other)
    return entries


def _entry(table: ScheduleTable, default_collection: str) -> ScheduledEntry:
    try:
        return ScheduledEntry(
            table.name,
            Timetable(table.cron, table.timezone),
            table.action,
            _source(table),
            table.lane,
            default_collection if table.collection is None else table.collection,
        )
    except ValueError as error:
        raise UsageError(f"[[schedule]] {table.name!r}: {error}") from error


def _source(table: ScheduleTable) -> Source | None:
    """Raises ValueError that says what is wrong."""
    named = [key for key in SOURCES if getattr(table, key) is not None]
    if table.action is not Action.RESCAN:
        _check_needless(table)
        return None if table.path is None else FileSource(_absolute(table.path), table.source)
    if len(named) != 1:
        raise ValueError(
            f"it has {' and '.join(named) or 'no source'}; name one of {', '.join(SOURCES)}"
        )
    [kind] = named
    if table.source is not None and not Path(table.source).name:
        raise ValueError(f"source is {table.source!r}: write a name")
    if table.delete_missing and kind == "path":
        raise ValueError("delete_missing: a folder is kept equal to what is in it without that")
    if table.delete_missing and table.source is None:
        raise ValueError("delete_missing needs a source: what is missing is looked for under it")
    if table.path is not None:
        return _files(table, table.path, table.include, complete=True)
    if table.glob is not None:
        return _glob(table, table.glob)
    return _lines(table)


def _check_needless(table: ScheduleTable) -> None:
    needless = FOR_RESCANS
    if table.action is Action.REINDEX:
        needless += ("path", "source")
    unused = [key for key in needless if key in table.model_fields_set]
    if unused:
        raise ValueError(f"action {table.action.value!r} has no use for {', '.join(unused)}")
    if table.source is not None and table.path is None:
        raise ValueError("source names the folder at path: say which one")


def _glob(table: ScheduleTable, glob: str) -> FileSource:
    """The folder before the first wildcard, and the rest as a pattern in it."""
    if table.include:
        raise ValueError("a glob says what is included; leave include out")
    parts = Path(glob).parts
    wild = next((i for i, part in enumerate(parts) if WILDCARD.search(part)), None)
    if wild is None:
        raise ValueError(f"glob is {glob!r}: it has no wildcard; write it as path")
    base, pattern = Path(*parts[:wild]), "/" + "/".join(parts[wild:])
    return _files(table, base, (pattern,), complete=table.delete_missing, glob=glob)


def _files(
    table: ScheduleTable,
    path: Path,
    include: tuple[str, ...],
    *,
    complete: bool,
    glob: str | None = None,
) -> FileSource:
    try:
        patterns = Patterns(include, table.exclude)
    except ValueError as error:
        raise ValueError(f"include or exclude: {error}") from error
    return FileSource(
        _absolute(path), table.source, table.tenant, patterns, table.metadata, glob, complete
    )


def _lines(table: ScheduleTable) -> LineSource:
    if table.include or table.exclude:
        raise ValueError("include and exclude are about the files of a folder")
    if table.generator is not None:
        items: Path | Generator = Generator(table.generator)
    else:
        assert table.jsonl is not None, "one of the sources is named"
        items = _absolute(table.jsonl)
    name = None if table.source is None else str(Path(table.source))
    return LineSource(items, name, table.tenant, table.metadata, table.delete_missing)


def _absolute(path: Path) -> Path:
    """Raises ValueError if the home of nobody is meant."""
    try:
        return Path.cwd() / path.expanduser()
    except RuntimeError as error:
        raise ValueError(f"{path}: {error}") from error


def _check_apart(one: ScheduledEntry, other: ScheduledEntry) -> None:
    """Raise UsageError if each would remove what the other one has."""
    names = [_list_name(entry.source) for entry in (one, other)]
    if None in names or one.source == other.source or one.collection != other.collection:
        return
    (tenant, first), (other_tenant, second) = [name for name in names if name is not None]
    if tenant == other_tenant and (first.is_relative_to(second) or second.is_relative_to(first)):
        raise UsageError(
            f"[[schedule]] {one.name!r} and {other.name!r}: with delete_missing, each would remove "
            "what the other one has; give each a source of its own"
        )


def _list_name(source: Source | None) -> tuple[str, Path] | None:
    """Tenant and name of a source that is the whole of what is under that name."""
    match source:
        case FileSource(complete=True, name=str(name)) | LineSource(complete=True, name=str(name)):
            return source.tenant, Path(name)
        case _:
            return None


def entry_named(entries: Sequence[ScheduledEntry], name: str) -> ScheduledEntry:
    """Raises UsageError if there is none of this name."""
    for entry in entries:
        if entry.name == name:
            return entry
    known = ", ".join(entry.name for entry in entries) or "there are none"
    raise UsageError(f"no table [[schedule]] is called {name!r}: {known}")
