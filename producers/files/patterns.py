"""Which files of a folder are meant, as patterns like those of a .gitignore file."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePath

from pathspec import GitIgnoreSpec


@dataclass(frozen=True)
class Patterns:
    """What is included, unless it is excluded; without ``include`` every file is.

    Raises ValueError if something is no pattern.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self._specs  # noqa: B018 - so that a wrong one is an error here

    def take(self, relative: PurePath) -> bool:
        """Whether a file is meant; its path is relative to the folder."""
        include, exclude = self._specs
        if self.include and not include.match_file(relative):
            return False
        return not exclude.match_file(relative)

    @cached_property
    def _specs(self) -> tuple[GitIgnoreSpec, GitIgnoreSpec]:
        return GitIgnoreSpec.from_lines(self.include), GitIgnoreSpec.from_lines(self.exclude)
