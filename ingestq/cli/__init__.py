"""The ``ingestq`` command."""

import sys

from ingestq.cli.extras import how_to_install


def main() -> None:
    """Run the ``ingestq`` command. Exits with 2 if a package is missing that an extra brings."""
    try:
        from ingestq.cli.application import app
    except ModuleNotFoundError as error:
        advice = how_to_install(error)
        if advice is None:
            raise
        print(f"ingestq: {advice}", file=sys.stderr)  # noqa: T201
        sys.exit(2)
    app()
