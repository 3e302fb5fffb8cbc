"""Progress of long work, and the interface of whatever shows it to a person."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Activity:
    """A long piece of work and its progress.

    ``done`` of ``total`` documents, or other ``units``, are finished. ``total`` is None if it is
    unknown; while ``growing`` is true, more documents may still be found. ``detail`` is shown
    beside the counts. ``finished`` is true for the last activity only.
    """

    name: str
    done: int = 0
    total: int | None = None
    detail: str = ""
    growing: bool = False
    finished: bool = False
    units: str = "documents"


class Display(Protocol):
    """Shows a person the progress of long work."""

    def show(self, activity: Activity) -> None:
        """Show ``activity`` in place of the previous one. Called often; returns at once."""
        ...


class NoDisplay:
    """A `Display` that shows nothing."""

    def show(self, activity: Activity) -> None: ...
