"""``ingestq reindex``: build the collection anew beside the live one, and exchange the two."""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ingestq.app.composition import open_broker, open_qdrant
from ingestq.app.reindex import before_last, build, live_collection
from ingestq.app.settings import Settings
from ingestq.cli.entry import ExitCode, run_command
from ingestq.cli.options import Json
from ingestq.cli.output import configure_logging, err, line, print_json
from ingestq.cli.progress import LINE_SECONDS
from ingestq.core.errors import UsageError
from ingestq.core.results import ChunkCounts

if TYPE_CHECKING:
    from worker.maintenance.reindex import CutoverRefusal, ReindexResult
    from worker.store.collection import CollectionNames

Model = Annotated[
    str | None,
    typer.Option("--model", metavar="MODEL", help="Embed with this model.", show_default=False),
]
ChunkTokens = Annotated[
    int | None,
    typer.Option("--chunk-tokens", min=16, help="Cut texts into chunks of up to so many tokens."),
]
Rollback = Annotated[
    bool, typer.Option("--rollback", help="Go back to the collection before the last reindex.")
]


def reindex(
    model: Model = None,
    chunk_tokens: ChunkTokens = None,
    rollback: Rollback = False,
    json: Json = False,
) -> None:
    """Rebuild the collection with other settings while it is searched and written.

    It is built beside the live one, from the sources or, where they are gone or changed, from the
    text that is stored; vectors of the same model are taken over. Then one takes the other's place
    in one step. The old collection is kept for INGESTQ_KEEP_PREVIOUS_HOURS. Interrupt it as you
    like: the next call goes on where it was.
    """
    configure_logging(logging.WARNING)
    changes = {"model": model, "chunk_tokens": chunk_tokens}
    given = {name: value for name, value in changes.items() if value is not None}
    run_command(partial(_reindex, given, rollback, json))


class _Done:
    """What was done so far: ``documents`` of the pass, ``chunks`` of all passes."""

    def __init__(self) -> None:
        self.chunks = ChunkCounts()
        self.documents = self.of = 0

    def begin(self, documents: int) -> None:
        self.documents, self.of = 0, documents

    def done(self, chunks: ChunkCounts) -> None:
        self.documents += 1
        self.chunks += chunks


async def _reindex(
    given: dict[str, Any], rollback: bool, as_json: bool, settings: Settings
) -> ExitCode:
    if rollback and given:
        raise UsageError("--rollback goes back to what was before; it takes no other option")
    started = time.monotonic()
    async with open_broker(settings) as broker, open_qdrant(settings) as qdrant:
        live = await live_collection(qdrant, settings)
        wanted, before = settings.model_copy(update=given), None
        if rollback:
            before, wanted = await before_last(qdrant, settings)
        with building_display() as done:
            new, outcome = await build(broker, qdrant, live, wanted, done, before)
    summary = _Summary(live, new, outcome, done.chunks, time.monotonic() - started)
    if as_json:
        print_json(summary.as_json())
    else:
        _print_for_people(summary, settings, wanted)
    return ExitCode.DOCUMENTS_FAILED if summary.problems else ExitCode.OK


@dataclass(frozen=True)
class _Summary:
    """What became of a rebuild; without an outcome there was nothing to be done."""

    live: "CollectionNames"
    new: "CollectionNames"
    outcome: "ReindexResult | CutoverRefusal | None"
    chunks: ChunkCounts
    seconds: float

    @property
    def rebuilt(self) -> "ReindexResult | None":
        from worker.maintenance.reindex import ReindexResult

        return self.outcome if isinstance(self.outcome, ReindexResult) else None

    @property
    def problems(self) -> Sequence[str]:
        from worker.maintenance.reindex import CutoverRefusal

        return self.outcome.reasons if isinstance(self.outcome, CutoverRefusal) else ()

    def as_json(self) -> dict[str, Any]:
        return {
            "collection": self.live.alias,
            "from": self.live.chunks,
            "to": self.new.chunks,
            "swapped": self.rebuilt is not None,
            "documents": self.rebuilt.documents if self.rebuilt else 0,
            "chunks": {"embedded": self.chunks.embedded, "reused": self.chunks.reused},
            "seconds": round(self.seconds, 3),
            "problems": list(self.problems),
        }


def _print_for_people(summary: _Summary, settings: Settings, wanted: Settings) -> None:
    live, new, rebuilt = summary.live, summary.new, summary.rebuilt
    for problem in summary.problems:
        line(problem, style="red")
    if summary.problems:
        line(f"{live.alias} is still {live.chunks}: the new collection is not as it should be")
    elif rebuilt is None:
        line(f"{live.alias} is {live.chunks} already: it was made with these settings")
    else:
        line(
            f"{live.alias} is now {new.chunks}: {rebuilt.documents} documents, {rebuilt.chunks} "
            f"chunks ({summary.chunks.embedded} embedded, {summary.chunks.reused} reused)"
        )
        line(
            f"{live.chunks} is kept for {settings.keep_previous_hours:g} hours: "
            "`ingestq reindex --rollback` goes back"
        )
        for name in _changed(settings, wanted):
            value = getattr(wanted, name)
            line(f"from now on, set INGESTQ_{name.upper()}={'' if value is None else value}")


def _changed(settings: Settings, wanted: Settings) -> list[str]:
    names = ("model", "chunk_tokens", "vector_name", "hybrid")
    return [name for name in names if getattr(settings, name) != getattr(wanted, name)]


@contextmanager
def building_display() -> Iterator[_Done]:
    """Show how far a rebuild is, on stderr."""
    if not err.is_terminal:
        err.print("building")
        yield _Lines()
        return
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("documents  {task.fields[chunks]}"),
        TimeRemainingColumn(),
        console=err,
        transient=True,
    )
    with progress:
        yield _Bar(progress)


class _Lines(_Done):
    """A line now and then."""

    _next = 0.0

    def done(self, chunks: ChunkCounts) -> None:
        super().done(chunks)
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + LINE_SECONDS
            err.print(f"building {self.documents}/{self.of} documents, {_told(self.chunks)}")


class _Bar(_Done):
    """A bar for each pass over the documents."""

    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self._progress = progress
        self._task = progress.add_task("building", total=None, chunks="")

    def begin(self, documents: int) -> None:
        super().begin(documents)
        self._progress.reset(self._task, total=documents)

    def done(self, chunks: ChunkCounts) -> None:
        super().done(chunks)
        self._progress.update(self._task, advance=1, chunks=_told(self.chunks))


def _told(chunks: ChunkCounts) -> str:
    return f"{chunks.embedded} chunks embedded, {chunks.reused} reused"
