"""The one rule for symbolic links: a walk finds each file once, by its own path if it comes there.

A link to what the walk comes to anyway is nothing of its own. A link to anything else is followed,
and what it leads to has the link's path; of two such links, the first in the order of the walk. So
a walk ends whatever links there are, and finds the same in whatever order they were made.

Hard links are names of equal rank, and each is a file of its own.
"""

import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from producers.files.off_limits import OffLimits

Skip = Callable[[Path, os.stat_result], bool]
"""Returns whether a walk skips a file, or a folder with everything in it."""
MAX_LINKS: Final = 100_000
"""Links that one walk decides about: each takes a few hundred bytes."""
LEADS_OUT: Final = "a symbolic link that leads out of the folder"
LEADS_ABOVE: Final = "a symbolic link to a folder that contains this one; it is not followed"


@dataclass(frozen=True)
class LinkDecision:
    """Whether a link is followed. ``reason`` says why not, if what it leads to is not found."""

    follow: bool
    reason: str | None = None


FOLLOW: Final = LinkDecision(follow=True)
NOTHING_NEW: Final = LinkDecision(follow=False)
TOO_MANY_LINKS: Final = LinkDecision(
    follow=False, reason=f"there are more than {MAX_LINKS:,} symbolic links"
)


class Links:
    """Decides about the links of one walk through ``roots``, in the order in which it meets them.

    ``skip`` and ``off_limits`` are those of the walk. Unless it ``may_leave`` the roots, links out
    of them are refused. All methods block, and raise OSError.
    """

    def __init__(
        self, roots: Sequence[Path], skip: Skip, off_limits: OffLimits, *, may_leave: bool = True
    ) -> None:
        self._skip = skip
        self._off_limits = off_limits
        self._may_leave = may_leave
        self._roots = [real_path(root) for root in roots]
        self._trees: dict[Path, Path] = {}
        """The real folders or files that are walked with everything in them, and by which path."""
        for root, real in sorted(zip(roots, self._roots, strict=True), key=_is_behind_link):
            self._trees.setdefault(real, root)
        self.seen: set[Path] = set()
        """The links that the walk came to, up to `MAX_LINKS`."""
        self.targets: set[Path] = set()
        """The real paths to which they lead, and broken links, up to `MAX_LINKS`."""

    def walks(self, root: Path) -> bool:
        """Return whether the walk has to begin at ``root``, and does not come there anyway."""
        real = real_path(root)
        return self._trees.get(real, root) == root and not self._comes_to(real, real.parent)

    def decide(self, path: Path, status: os.stat_result) -> LinkDecision:
        """Decide about the link at ``path``, which leads to a file or folder with ``status``."""
        if len(self.seen) == MAX_LINKS:
            return TOO_MANY_LINKS
        self.seen.add(path)
        real = self._target(path)
        if not self._may_leave and not any(real.is_relative_to(root) for root in self._roots):
            return LinkDecision(follow=False, reason=LEADS_OUT)
        if real in self._trees or self._comes_to(real, real):
            return NOTHING_NEW
        if stat.S_ISDIR(status.st_mode) and any(r.is_relative_to(real) for r in self._roots):
            return LinkDecision(follow=False, reason=LEADS_ABOVE)
        self._trees[real] = path
        return FOLLOW

    def is_away(self, path: Path) -> bool:
        """Return whether what the broken link at ``path`` leads to may come back, as on a mount.

        It was deleted if its folder is there, or if it was in one of the roots.
        """
        real = self._target(path)
        if not self._may_leave or any(real.is_relative_to(root) for root in self._roots):
            return False
        return not os.path.isdir(real.parent)  # noqa: PTH112 - Path.is_dir() may raise

    def _target(self, link: Path) -> Path:
        real = real_path(link)
        if len(self.targets) < MAX_LINKS:
            self.targets.add(real)
        return real

    def is_found(self, real: Path) -> bool:
        """Return whether a link has led to ``real``, which the walk now comes to behind another."""
        return real in self._trees

    def _comes_to(self, real: Path, innermost: Path) -> bool:
        """Return whether the walk comes to ``real`` from a tree at ``innermost`` or above it."""
        above = (innermost, *innermost.parents)
        return any(self._comes_from(tree, real) for tree in above if tree in self._trees)

    def _comes_from(self, tree: Path, real: Path) -> bool:
        path = self._trees[tree]
        for name in real.relative_to(tree).parts:
            path /= name
            status = path.lstat()
            if name.startswith(".") or self._off_limits.leads_in(path, status):
                return False
            if self._skip(path, status):
                return False
        return True


class UndecidedLinks:
    """Follows no link, for a walk through a part of a folder. ``met`` is true if there was one.

    Only a walk through the whole folder can decide about it.
    """

    def __init__(self) -> None:
        self.met = False

    def walks(self, root: Path) -> bool:
        return True

    def decide(self, path: Path, status: os.stat_result) -> LinkDecision:
        self.met = True
        return NOTHING_NEW

    def is_away(self, path: Path) -> bool:
        return True

    def is_found(self, real: Path) -> bool:
        return False


def _is_behind_link(root: tuple[Path, Path]) -> bool:
    path, real = root
    return path != real


def real_path(path: Path) -> Path:
    """Return ``path`` without links, as far as it exists. Blocks."""
    return Path(os.path.realpath(path))


def place_in(folder: Path, path: Path) -> Path | None:
    """Return the path of an entry of ``folder`` without links on the way to it; None if outside.

    Blocks.
    """
    parent, root = real_path(path.parent), real_path(folder)
    return folder / parent.relative_to(root) / path.name if parent.is_relative_to(root) else None
