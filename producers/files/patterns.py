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

    def match(self, *names: PurePath) -> bool:
        """Return whether a file is included, by its path relative to the folder.

        A file of several ``names`` is included or excluded by any of them.
        """
        include, _ = self._specs
        if self.include and not any(map(include.match_file, names)):
            return False
        return not self.excludes(*names)

    def excludes(self, *names: PurePath) -> bool:
        """Return whether a file is excluded, whatever is included."""
        _, exclude = self._specs
        return any(map(exclude.match_file, names))

    @cached_property
    def _specs(self) -> tuple[GitIgnoreSpec, GitIgnoreSpec]:
        return GitIgnoreSpec.from_lines(self.include), GitIgnoreSpec.from_lines(self.exclude)
