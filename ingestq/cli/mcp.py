"""``ingestq mcp``: serve search, status and submit to an assistant, on stdin and stdout."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final, cast

import typer

from ingestq.app.settings import Settings
from ingestq.cli.entry import ExitCode, run_command
from ingestq.cli.options import named_path
from ingestq.cli.stdio import ClientGone, protocol_streams

ESCAPED_BYTES: Final = 6
"""Most bytes that JSON takes for a byte of text."""
ENVELOPE_BYTES: Final = 1024 * 1024
"""Room for what a message has beside a document."""

Submit = Annotated[
    bool, typer.Option("--submit", help="Let the assistant queue texts that it writes.")
]
SubmitFrom = Annotated[
    list[Path] | None,
    typer.Option(
        "--submit-from",
        metavar="DIR",
        help="Let the assistant queue the files in this folder. Can be repeated.",
        show_default=False,
        parser=named_path,
    ),
]


def mcp(submit: Submit = False, submit_from: SubmitFrom = None) -> None:
    """Serve search and status to an assistant, by MCP.

    Started by the assistant's program, which it answers on stdout until stdin is closed. The log
    goes to stderr. Without options, the assistant can change nothing. The HTTP API serves the same
    at /mcp.
    """
    run_command(partial(_mcp, submit, submit_from or []), until_stopped=True)


async def _mcp(submit: bool, submit_from: list[Path], settings: Settings) -> ExitCode:
    from mcp.server.stdio import stdio_server

    from ingestq.app.mcp import SubmitRights, open_mcp

    rights = SubmitRights(submit, tuple(submit_from))
    longest = ESCAPED_BYTES * settings.max_document_bytes + ENVELOPE_BYTES
    try:
        with protocol_streams(longest) as streams:
            files = cast("Any", streams)  # the SDK asks for files, and uses no more of them
            async with (
                open_mcp(settings, rights) as server,
                stdio_server(files, files) as (received, answers),
            ):
                await server.run(received, answers, server.create_initialization_options())
    except* ClientGone:
        pass
    return ExitCode.OK
