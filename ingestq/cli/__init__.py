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
        sys.exit(f"ingestq: {advice}")
    app()
