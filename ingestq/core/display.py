"""Showing a person the progress of long work."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Activity:
    """What long work is doing, and its progress.

    ``done`` of ``total`` documents are finished. ``total`` is None if it is unknown; while it is
    ``growing``, more documents may be found. ``detail`` is shown beside the counts. The last
    activity is ``finished``.
    """

    name: str
    done: int = 0
    total: int | None = None
    detail: str = ""
    growing: bool = False
    finished: bool = False


class Display(Protocol):
    """Shows a person the progress of long work."""

    def show(self, activity: Activity) -> None:
        """Show ``activity`` in place of the one before. Called often; returns at once."""
        ...


class Silent:
    """A `Display` that shows nothing."""

    def show(self, activity: Activity) -> None: ...
