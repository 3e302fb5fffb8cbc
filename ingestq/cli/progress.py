"""Shows the progress of long work: as a bar on a terminal, elsewhere as a line now and then."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from ingestq.cli.output import err, error_line
from ingestq.core.display import Activity, Display
from ingestq.core.printable import printable

LINE_SECONDS: Final = 5.0
"""Interval between lines where there is no terminal."""


@contextmanager
def progress_display(starting: str) -> Iterator[Display]:
    """Show progress on stderr; ``starting`` is shown until the first activity."""
    if not err.is_terminal:
        yield _Lines(starting)
        return
    progress = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[units]}  {task.fields[detail]}", markup=False),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}", markup=False),
        console=err,
        transient=True,
    )
    with progress:
        task = progress.add_task(starting, total=None, units="", detail="", left="")
        yield _Bar(progress, task)


class _Bar:
    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task
        self._estimate = _Estimate()

    def show(self, activity: Activity) -> None:
        self._progress.update(
            self._task,
            description=printable(activity.name),
            total=activity.total,
            completed=activity.done,
            units=activity.units,
            detail=printable(activity.detail),
            left=self._estimate.left(activity),
        )


class _Lines:
    def __init__(self, starting: str) -> None:
        self._next = 0.0
        self._estimate = _Estimate()
        self._print(starting)

    def show(self, activity: Activity) -> None:
        left = self._estimate.left(activity)
        if time.monotonic() >= self._next or activity.finished:
            of = "" if activity.total is None else f"/{activity.total}"
            counts = f"{activity.name} {activity.done}{of} {activity.units}"
            self._print(", ".join(filter(None, (counts, activity.detail, left))))

    def _print(self, text: str) -> None:
        self._next = time.monotonic() + LINE_SECONDS
        error_line(text)


class _Estimate:
    """Estimates the time left from the documents done since the work began, or began again."""

    def __init__(self) -> None:
        self._since = 0.0
        self._done: int | None = None

    def left(self, activity: Activity) -> str:
        """Return the time left in words; empty while it cannot be estimated."""
        now = time.monotonic()
        if self._done is None or activity.done < self._done:
            self._since = now
        self._done = activity.done
        if activity.total is None or activity.growing or not activity.done:
            return ""
        if (waiting := activity.total - activity.done) <= 0:
            return ""
        seconds_left = (now - self._since) / activity.done * waiting
        minutes, seconds = divmod(round(seconds_left), 60)
        return f"{minutes}:{seconds:02} left"
