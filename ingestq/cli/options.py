"""Options and arguments shared by several commands."""

from pathlib import Path
from typing import Annotated

import typer

from ingestq.core.errors import UsageError, encodable

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object to stdout.")]
Source = Annotated[
    str | None,
    typer.Option(
        "--source",
        metavar="NAME",
        help="Use NAME/relative path as document ids instead of absolute paths.",
    ),
]
Checksum = Annotated[
    bool,
    typer.Option("--checksum", help="Read files even if their size and mtime have not changed."),
]
AllowMassDelete = Annotated[
    bool,
    typer.Option(
        "--allow-mass-delete",
        help="Delete from the index even if most of a folder is gone.",
    ),
]
InCollection = Annotated[
    str | None,
    typer.Option(
        "--collection",
        metavar="NAME",
        help="Use this collection instead of INGESTQ_COLLECTION.",
        show_default=False,
    ),
]
Paths = Annotated[
    list[Path],
    typer.Argument(metavar="PATH", help="Files and folders to index.", show_default=False),
]


def require_text(*arguments: str) -> None:
    """Raise UsageError unless all are valid UTF-8: a shell can pass any bytes."""
    for argument in arguments:
        if encodable(argument) != argument:
            raise UsageError(f"{encodable(argument)!r} is not valid UTF-8")
