"""Volumes: on which mounted file system a file lies. Blocks on the disk: call it in a thread."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from ingestq.core.documents import MAX_VOLUMES, Volume

MOUNT_TABLE: Final = Path("/proc/self/mountinfo")
MOUNT_POINT_FIELD: Final = 4
_escaped: Final = re.compile(rb"\\([0-7]{3})")
"""How the table writes spaces and the like: ``\\040``."""


class MountPoint(NamedTuple):
    """A folder at which a file system is mounted, and the number of its device."""

    folder: Path
    device: int


class MountTable:
    """The mount points of this machine when it was created.

    Linux lists them all. Elsewhere a mount point is known only by a device of its own, which is
    enough except for a folder that is mounted again in another place.
    """

    def __init__(self) -> None:
        try:
            lines = MOUNT_TABLE.read_bytes().splitlines()
        except OSError:
            lines = []
        raw = [line.split(b" ")[MOUNT_POINT_FIELD] for line in lines]
        self._listed = frozenset(Path(os.fsdecode(_escaped.sub(_unescaped, path))) for path in raw)

    def inside(self, folder: Path) -> frozenset[Path]:
        """Return the listed mount points in ``folder``, which may be reached through links."""
        real = Path(os.path.realpath(folder))
        return frozenset(
            folder / mount.relative_to(real)
            for mount in self._listed
            if mount != real and mount.is_relative_to(real)
        )

    def mount_of(self, folder: Path) -> MountPoint:
        """Return where the file system of ``folder`` is mounted.

        If the folder does not exist, this is that of the nearest one above it that does. A symbolic
        link to another file system counts as its mount point.
        """
        mount, device = folder, device_of(folder)
        while mount != mount.parent:
            above = device_of(mount.parent)
            if device is not None and (device != above or self._is_listed(mount)):
                break
            mount, device = mount.parent, above
        return MountPoint(mount, device or 0)

    def _is_listed(self, folder: Path) -> bool:
        return Path(os.path.realpath(folder.parent), folder.name) in self._listed


class Volumes:
    """The volumes in ``folder``, by the folders where they begin; they are found by `enter`.

    ``doc_id`` returns the id of a path in it. The ids of a ``named`` folder say nothing about where
    it is, so a file system that is mounted above it has no name.
    """

    def __init__(self, folder: Path, doc_id: Callable[[Path], str], *, named: bool) -> None:
        table = MountTable()
        mount, device = table.mount_of(folder)
        name = "" if named and mount != folder else doc_id(mount)
        self.found = {folder: Volume(name, device)}
        self._folder = folder
        self._doc_id = doc_id
        self._inside = table.inside(folder)

    def at(self, folder: Path) -> Volume:
        """Return the volume of ``folder``, which is in this one; of a missing one, that above."""
        steps = [folder, *folder.parents]
        below = steps[: steps.index(self._folder)]
        volume = self.found[self._folder]
        for step in reversed(below):
            device = device_of(step)
            if device is None:
                break
            volume = self.enter(step, device, volume)
        return volume

    def enter(self, folder: Path, device: int, above: Volume) -> Volume:
        """Return the volume of ``folder``, on ``device``; ``above`` is that of the folder above."""
        known = self.found.get(folder)
        if known is not None:
            return known
        is_mounted = device != above.device or folder in self._inside
        if not is_mounted or len(self.found) >= MAX_VOLUMES:
            return above
        self.found[folder] = Volume(self._doc_id(folder), device)
        return self.found[folder]


def device_of(path: Path) -> int | None:
    """Return the number of the device that ``path`` is on; None if it cannot be seen."""
    try:
        return path.stat().st_dev
    except (OSError, ValueError):
        return None


def _unescaped(found: re.Match[bytes]) -> bytes:
    return bytes([int(found[1], 8)])
