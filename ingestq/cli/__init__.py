"""The ``ingestq`` command."""

import json
import sys

from ingestq.cli.extras import COMMAND_EXTRAS, how_to_install

WRONG_USAGE = 2
INTERRUPTED = 130
"""As in `ingestq.cli.entry.ExitCode`, which needs packages that may be missing."""


def main() -> None:
    """Run the ``ingestq`` command and exit with its code.

    Exits with 2 if a package is missing that an extra brings, and with 130 on Ctrl-C, even while
    modules are still being imported.
    """
    try:
        from ingestq.cli.application import run_app

        code = run_app()
    except KeyboardInterrupt:
        _print_json_error("interrupted")
        code = INTERRUPTED
    except ModuleNotFoundError as error:
        command = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
        advice = how_to_install(error, COMMAND_EXTRAS.get(command))
        if advice is None:
            _print_json_error(f"unexpected error: {error}")
            raise
        print(f"ingestq: {advice}", file=sys.stderr)  # noqa: T201
        _print_json_error(advice)
        code = WRONG_USAGE
    sys.exit(code)


def _print_json_error(message: str) -> None:
    """Print the error as JSON if the command line asks for JSON."""
    if "--json" in sys.argv:
        print(json.dumps({"error": message}))  # noqa: T201
