"""Moves a file of a hot folder to where it says what became of it. Blocks.

Nothing is overwritten. The reason is there before the file is, and the file is moved in one step:
whoever is interrupted in between finds the file where it was.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Final

from broker.contract import Document
from producers.drop.folder import DONE, FAILED, DropFolder, sidecar_of
from producers.drop.settling import FileState
from producers.drop.sidecar import read_sidecar

ERROR_SUFFIX: Final = ".error.txt"


@dataclass(frozen=True)
class Taken:
    """A file that is on the queue, in the state in which it was found."""

    path: Path
    state: FileState
    document: Document


def is_as_taken(taken: Taken, folder: DropFolder) -> bool:
    """Whether the file, and what is said of it beside it, are what was queued.

    Raises FileNotFoundError if it is gone.
    """
    if FileState.of(taken.path.stat()) != taken.state:
        return False
    try:
        metadata = {**folder.metadata, **read_sidecar(taken.path)}
    except ValueError:
        return False
    return metadata == taken.document.metadata


def move(taken: Taken, folder: DropFolder, reason: str | None) -> None:
    """Move a file to ``done``, or if there is a ``reason`` to ``failed``, with its sidecar.

    It keeps its path relative to the folder; if there is one of that name, it gets a number.
    Raises OSError if it cannot be moved: then it is where it was.
    """
    place = folder.path / (DONE if reason is None else FAILED)
    relative = taken.path.relative_to(folder.path)
    parent = place / relative.parent
    parent.mkdir(parents=True, exist_ok=True)
    target = _reserve(parent, relative.name)
    error = target.with_name(target.name + ERROR_SUFFIX)
    try:
        if reason is not None:
            error.write_text(reason + "\n", encoding="utf-8")
        taken.path.replace(target)
    except OSError:
        target.unlink()
        error.unlink(missing_ok=True)
        raise
    sidecar = sidecar_of(taken.path)
    if sidecar.is_file():
        sidecar.replace(sidecar_of(target))


def _reserve(folder: Path, name: str) -> Path:
    """A file that did not exist, and does now: nobody else takes its name."""
    for path in _numbered(folder / name):
        others = (sidecar_of(path), path.with_name(path.name + ERROR_SUFFIX))
        if any(map(os.path.lexists, others)):
            continue
        try:
            path.touch(exist_ok=False)
        except FileExistsError:
            continue
        return path
    raise AssertionError("numbers do not end")


def _numbered(path: Path) -> Iterator[Path]:
    yield path
    for number in count(2):
        yield path.with_name(f"{path.stem}-{number}{path.suffix}")
