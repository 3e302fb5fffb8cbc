"""``ingestq reindex``: rebuild the collection and switch to the new one."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from ingestq.app.composition import open_broker, opening_qdrant
from ingestq.app.reindex import Build, assignment, before_last, build, live_collection
from ingestq.app.settings import Settings
from ingestq.cli.entry import ExitCode, run_command
from ingestq.cli.options import Json
from ingestq.cli.output import line, print_json
from ingestq.cli.progress import progress_display
from ingestq.cli.summary import SHOWN_WARNINGS, print_warnings
from ingestq.core.errors import UsageError

if TYPE_CHECKING:
    from worker.maintenance.reindex import ReindexResult
    from worker.store.collection import CollectionNames

Model = Annotated[
    str | None,
    typer.Option("--model", metavar="MODEL", help="Embed with this model.", show_default=False),
]
ChunkTokens = Annotated[
    int | None,
    typer.Option("--chunk-tokens", min=16, help="Limit chunks to this many tokens."),
]
Rollback = Annotated[
    bool, typer.Option("--rollback", help="Switch back to the collection before the last reindex.")
]


def reindex(
    model: Model = None,
    chunk_tokens: ChunkTokens = None,
    rollback: Rollback = False,
    json: Json = False,
) -> None:
    """Rebuild the collection with other settings, without downtime.

    Builds a new collection while the live one is searched and written. Reads each document from its
    source or, if that is gone or has changed, from the stored text. Reuses vectors of the same
    model. Then switches to the new collection in one step and keeps the old one for
    INGESTQ_KEEP_PREVIOUS_HOURS.

    You can interrupt it: the next call continues where it stopped.
    """
    changes = {"model": model, "chunk_tokens": chunk_tokens}
    given = {name: value for name, value in changes.items() if value is not None}
    run_command(partial(_reindex, given, rollback, json), as_json=json)


async def _reindex(
    given: dict[str, Any], rollback: bool, as_json: bool, settings: Settings
) -> ExitCode:
    if rollback and given:
        raise UsageError("--rollback cannot be combined with --model or --chunk-tokens")
    started = time.monotonic()
    async with opening_qdrant(settings) as opened, open_broker(settings) as broker:
        qdrant = await opened
        live = await live_collection(qdrant, settings)
        wanted, before = settings.model_copy(update=given), None
        if rollback:
            before, wanted = await before_last(qdrant, settings)
        with progress_display("building") as display:
            built = await build(broker, qdrant, live, wanted, display, before)
    summary = _Summary(live, built, time.monotonic() - started)
    if as_json:
        print_json(summary.as_json())
    else:
        _print_for_people(summary, settings, wanted)
    return ExitCode.DOCUMENTS_FAILED if summary.problems else ExitCode.OK


@dataclass(frozen=True)
class _Summary:
    """The result of replacing ``live``."""

    live: "CollectionNames"
    built: Build
    seconds: float

    @property
    def rebuilt(self) -> "ReindexResult | None":
        from worker.maintenance.reindex import ReindexResult

        return self.built.outcome if isinstance(self.built.outcome, ReindexResult) else None

    @property
    def problems(self) -> Sequence[str]:
        from worker.maintenance.reindex import CutoverRefusal

        outcome = self.built.outcome
        return outcome.reasons if isinstance(outcome, CutoverRefusal) else ()

    def as_json(self) -> dict[str, Any]:
        chunks = self.built.chunks
        return {
            "collection": self.live.alias,
            "from": self.live.chunks,
            "to": self.built.new.chunks,
            "swapped": self.rebuilt is not None,
            "documents": self.rebuilt.documents if self.rebuilt else 0,
            "chunks": {"embedded": chunks.embedded, "reused": chunks.reused},
            "seconds": round(self.seconds, 3),
            "problems": list(self.problems),
            "warned": self.rebuilt.warned.documents if self.rebuilt else 0,
            "warnings": [
                msgspec.structs.asdict(warning)
                for warning in (self.rebuilt.warnings if self.rebuilt else ())
            ],
        }


def _print_for_people(summary: _Summary, settings: Settings, wanted: Settings) -> None:
    live, new, rebuilt = summary.live, summary.built.new, summary.rebuilt
    done = summary.built.chunks
    for problem in summary.problems:
        line(problem, style="red")
    if summary.problems:
        line(f"{live.alias} is still {live.chunks}: the new collection failed its checks")
    elif rebuilt is None:
        line(f"{live.alias} is already {live.chunks}: it was built with these settings")
    else:
        warned = rebuilt.warned
        print_warnings(rebuilt.warnings[:SHOWN_WARNINGS], warned.warnings)
        line(
            f"{live.alias} is now {new.chunks}: {rebuilt.documents} documents"
            + (f" ({warned.documents} with warnings)" if warned.documents else "")
            + f", {rebuilt.chunks} chunks ({done.embedded} embedded, {done.reused} reused)"
        )
        line(
            f"{live.chunks} is kept for {settings.keep_previous_hours:g} hours: "
            "`ingestq reindex --rollback` switches back"
        )
        for name in _changed(settings, wanted):
            line(f"set {assignment(name, getattr(wanted, name))} from now on")


def _changed(settings: Settings, wanted: Settings) -> list[str]:
    names = (
        "model",
        "precision",
        "dimensions",
        "chunk_tokens",
        "vector_name",
        "text_field",
        "hybrid",
        "languages",
        "ocr",
        "ocr_languages",
        "hooks",
    )
    return [name for name in names if getattr(settings, name) != getattr(wanted, name)]
