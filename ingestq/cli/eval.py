"""``ingestq eval``: measure how well searches find what they should."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.table import Table

from ingestq.app.composition import open_index, open_model
from ingestq.app.search import QUERY_PROCESSES, query_settings
from ingestq.app.settings import Settings
from ingestq.cli.entry import ExitCode, run_command
from ingestq.cli.options import InCollection, Json, named_path, require_text
from ingestq.cli.output import error_line, line, out, print_json
from ingestq.cli.progress import progress_display
from ingestq.cli.search import Filters, OfSource, OfTenant, to_search_filter
from ingestq.core.errors import UsageError
from ingestq.core.search_query import LARGEST_LIMIT, Mode, SearchFilter

if TYPE_CHECKING:
    from ingestq.app.evaluation import EvalReport, QuestionResult

SHOWN: Final = 20
"""How many absent documents are printed; --json has all."""

File = Annotated[
    Path,
    typer.Argument(
        metavar="FILE",
        help="Questions with the documents or texts to find, as JSON Lines.",
        show_default=False,
        parser=named_path,
    ),
]
Modes = Annotated[
    list[Mode] | None,
    typer.Option(
        "--mode", help="Measure only this mode. Can be repeated; default all.", show_default=False
    ),
]
Misses = Annotated[
    int,
    typer.Option(
        "--misses", metavar="N", min=0, max=LARGEST_LIMIT, help="List the N worst questions."
    ),
]


def evaluate(
    file: File,
    modes: Modes = None,
    misses: Misses = 0,
    filters: Filters = None,
    source: OfSource = None,
    tenant: OfTenant = None,
    collection: InCollection = None,
    json: Json = False,
) -> None:
    """Measure how well searches find what they should.

    FILE has one question a line, with the id of the document to find, or a text that a hit has to
    contain. Exits with 1 if an expected document is not in the collection.
    """

    async def run(settings: Settings) -> ExitCode:
        require_text(source or "", tenant or "", *(filters or ()))
        where = to_search_filter(filters or (), source, tenant)
        chosen = settings.of_collection(collection)
        report = await _evaluated(file, tuple(dict.fromkeys(modes or ())), where, chosen)
        if json:
            print_json(report.as_json(misses))
        else:
            _print_for_people(report, misses, filtered=where != SearchFilter())
        return ExitCode.DOCUMENTS_FAILED if report.absent else ExitCode.OK

    run_command(run, as_json=json)


async def _evaluated(
    file: Path, modes: Sequence[Mode], where: SearchFilter, settings: Settings
) -> "EvalReport":
    from ingestq.app.evaluation import Evaluation
    from ingestq.app.evaluation import evaluate as evaluate_questions
    from ingestq.app.questions import read_questions
    from worker.store.collection import find_collection

    questions = await asyncio.to_thread(read_questions, file)
    with progress_display("loading the model") as display:
        async with open_index(settings) as qdrant:
            if qdrant is None or not (names := await find_collection(qdrant, settings.collection)):
                raise UsageError(
                    f"collection {settings.collection!r} does not exist yet; "
                    "see `ingestq run --help`"
                )
            built_with = await query_settings(settings, qdrant, names)
            async with open_model(built_with, QUERY_PROCESSES) as model:
                wanted = Evaluation(names, modes, where)
                return await evaluate_questions(qdrant, model, questions, wanted, display)


def _print_for_people(report: "EvalReport", misses: int, *, filtered: bool) -> None:
    title = f"{report.questions:,} questions, collection {report.collection}"
    table = Table(title=title, title_justify="left")
    table.add_column("mode")
    figures = {mode: report.figures(mode) for mode in report.answers}
    for measure in next(iter(figures.values())):
        table.add_column(measure, justify="right")
    for mode, values in figures.items():
        table.add_row(mode.value, *(f"{value:.3f}" for value in values.values()))
    out.print(table)
    for mode in report.answers if misses else ():
        line(f"{mode.value}: worst first")
        for answer in report.misses(mode, misses):
            _print_miss(answer)
    reachable = "that meet the filters" if filtered else "in the collection"
    for absent in report.absent[:SHOWN]:
        error_line(f"line {absent.line}: {absent.doc_id!r} has no chunks {reachable}")
    if (more := len(report.absent) - SHOWN) > 0:
        error_line(f"… and {more:,} more expected documents")
    if report.absent:
        error_line("what is not there counts as not found, and lowers the figures")


def _print_miss(answer: "QuestionResult") -> None:
    rank = "not found" if answer.rank is None else f"rank {answer.rank}"
    first = "no hits" if answer.best is None else f"first hit {answer.best}"
    line(f"  line {answer.question.line}: {answer.question.text}", style="bold")
    line(f"       {rank}; {first}")
