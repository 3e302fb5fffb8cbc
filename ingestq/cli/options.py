"""Options and arguments shared by several commands."""

from pathlib import Path
from typing import Annotated, Final

import typer

from ingestq.core.errors import UsageError, encodable
from ingestq.core.urls import is_url, public_url

STANDARD_STREAM: Final = Path("-")
"""Names stdin or stdout instead of a file."""


def named_path(argument: str) -> Path:
    """Return the path that an argument names. Raises BadParameter if it is blank.

    Most likely it is a variable of a shell that is not set; `Path` would make it the working
    directory.
    """
    if is_url(argument):
        raise typer.BadParameter(f"{public_url(argument)} is no file or folder of this machine")
    return Path(named_place(argument))


def named_place(argument: str) -> str:
    """Return ``argument``, a path or the URL of a remote folder. Raises BadParameter if blank."""
    if not argument.strip():
        raise typer.BadParameter(f"{argument!r} names no file or folder")
    return argument


def source_name(argument: str) -> str:
    """Return the name of a source. Raises BadParameter if it is blank."""
    if not argument.strip():
        raise typer.BadParameter(f"{argument!r} is no name; leave it out, or name the source")
    return argument


Json = Annotated[bool, typer.Option("--json", help="Print one JSON object to stdout.")]
Source = Annotated[
    str | None,
    typer.Option(
        "--source",
        metavar="NAME",
        help="Use NAME/relative path as document ids instead of absolute paths.",
        parser=source_name,
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
Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose",
        "-v",
        help="Log what is done, and the seconds that each part of the start took.",
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
PlaceNames = Annotated[
    list[str],
    typer.Argument(
        metavar="PATH",
        help="Files and folders to index, also remote ones, such as s3://bucket/prefix.",
        show_default=False,
        parser=named_place,
    ),
]


def require_text(*arguments: str) -> None:
    """Raise UsageError unless all are valid UTF-8: a shell can pass any bytes."""
    for argument in arguments:
        if encodable(argument) != argument:
            raise UsageError(f"{encodable(argument)!r} is not valid UTF-8")
