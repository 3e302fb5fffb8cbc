"""Include and exclude patterns like those of a .gitignore file."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePath

from pathspec import GitIgnoreSpec


@dataclass(frozen=True)
class Patterns:
    """Match files that are included and not excluded; without ``include`` every file is included.

    Raises ValueError if a pattern is invalid.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self._specs  # noqa: B018 - raises here if a pattern is invalid

    def match(self, relative: PurePath) -> bool:
        """Return whether the file at a path relative to the folder is included."""
        include, exclude = self._specs
        if self.include and not include.match_file(relative):
            return False
        return not exclude.match_file(relative)

    @cached_property
    def _specs(self) -> tuple[GitIgnoreSpec, GitIgnoreSpec]:
        return GitIgnoreSpec.from_lines(self.include), GitIgnoreSpec.from_lines(self.exclude)
