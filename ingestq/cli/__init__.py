"""The ``ingestq`` command."""

import json
import sys

from ingestq.cli.extras import COMMAND_EXTRAS, how_to_install
from ingestq.cli.streams import StandardStreams
from ingestq.core.signals import ignore_stop_signals, interrupt_once

OK = 0
WRONG_USAGE = 2
INTERRUPTED = 130
"""As in `ingestq.cli.entry.ExitCode`, which needs packages that may be missing."""
UNTIL_STOPPED = frozenset({"api", "drop", "mcp", "scheduler", "up", "worker"})
"""Commands that run until a signal stops them."""


def main() -> None:
    """Run the ``ingestq`` command and exit with its code.

    Exits with 2 if a package is missing that an extra brings. A stop signal ends it in order even
    while modules are still being imported.
    """
    streams = StandardStreams()
    interrupt_once()
    command = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
    try:
        from ingestq.cli.application import run_app

        code = run_app()
    except KeyboardInterrupt:
        _print_json_error("interrupted")
        code = OK if command in UNTIL_STOPPED else INTERRUPTED
    except ModuleNotFoundError as error:
        advice = how_to_install(error, COMMAND_EXTRAS.get(command))
        if advice is None:
            _print_json_error(f"unexpected error: {error}")
            raise
        print(f"ingestq: {advice}", file=sys.stderr)  # noqa: T201
        _print_json_error(advice)
        code = WRONG_USAGE
    ignore_stop_signals()
    sys.exit(streams.exit_code(code))


def _print_json_error(message: str) -> None:
    """Print the error as JSON if the command line asks for JSON."""
    if asks_for_json(sys.argv):
        print(json.dumps({"error": message}))  # noqa: T201


def asks_for_json(arguments: list[str]) -> bool:
    """Return whether the option ``--json`` is among ``arguments``."""
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return "--json" in options
