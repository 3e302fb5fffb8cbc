"""Options and arguments that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

from ingestq.core.errors import UsageError, encodable

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Source = Annotated[
    str | None,
    typer.Option(
        "--source",
        metavar="NAME",
        help="Name the folder: ids become NAME/relative path instead of absolute paths.",
    ),
]
Checksum = Annotated[
    bool,
    typer.Option("--checksum", help="Read files even if size and time of modification are known."),
]
AllowMassDelete = Annotated[
    bool,
    typer.Option(
        "--allow-mass-delete",
        help="Remove what is gone from a folder, even if that is most of it.",
    ),
]
InCollection = Annotated[
    str | None,
    typer.Option(
        "--collection",
        metavar="NAME",
        help="Another collection than INGESTQ_COLLECTION says.",
        show_default=False,
    ),
]
Paths = Annotated[
    list[Path], typer.Argument(metavar="PATH…", help="Files and folders.", show_default=False)
]


def require_text(*arguments: str) -> None:
    """Raise UsageError unless all can be encoded: a shell may hand over any bytes."""
    for argument in arguments:
        if encodable(argument) != argument:
            raise UsageError(f"{encodable(argument)!r} is not UTF-8")
