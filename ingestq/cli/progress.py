"""How far an ingestion is: a bar on a terminal, a line now and then elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from ingestq.app.ingestion import Display, IngestionState
from ingestq.core.results import Stage

LINE_SECONDS: Final = 5.0
"""How often a line is printed where there is no terminal."""


@contextmanager
def progress_display(console: Console, starting: str) -> Iterator[Display]:
    """Show progress on ``console``; ``starting`` is shown until the first figures come."""
    if not console.is_terminal:
        yield _Lines(console, starting)
        return
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("documents  {task.fields[chunks]}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
        console=console,
        transient=True,
    )
    with progress:
        yield _Bar(progress, progress.add_task(starting, total=None, chunks="", left=""))


class _Bar:
    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task

    def show(self, state: IngestionState) -> None:
        self._progress.update(
            self._task,
            description=_activity(state),
            total=state.found,
            completed=state.done,
            chunks=_chunks(state),
            left=_time_left(state),
        )


class _Lines:
    def __init__(self, console: Console, starting: str) -> None:
        self._console = console
        self._next = 0.0
        self._print(starting)

    def show(self, state: IngestionState) -> None:
        finished = not state.listing and state.submission.complete
        if time.monotonic() >= self._next or finished:
            counts = f"{_activity(state)} {state.done}/{state.found} documents"
            parts = [counts, _chunks(state), _time_left(state)]
            self._print(", ".join(filter(None, parts)))

    def _print(self, text: str) -> None:
        self._next = time.monotonic() + LINE_SECONDS
        self._console.print(text)


def _activity(state: IngestionState) -> str:
    if state.stopping:
        return "finishing what runs (again: stop at once)"
    if state.listing:
        return "listing"
    return "waiting" if state.submission.stage is Stage.WAITING else "indexing"


def _chunks(state: IngestionState) -> str:
    done = state.submission.chunks.embedded + state.submission.chunks_running
    rate = done / state.seconds if state.seconds else 0.0
    return f"{done} chunks, {rate:.1f}/s"


def _time_left(state: IngestionState) -> str:
    """An estimate from the documents done; nothing while nobody knows how many there are."""
    left = state.found - state.done
    if state.listing or not state.done or not left:
        return ""
    minutes, seconds = divmod(round(state.seconds / state.done * left), 60)
    return f"{minutes}:{seconds:02} left"
