"""What every benchmark is told on its command line."""

import argparse
from collections.abc import Sequence
from pathlib import Path


def parser(description: str | None, results: Path) -> argparse.ArgumentParser:
    """Takes ``--quick`` and ``--output``; a benchmark may add its own."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--quick", action="store_true", help="see in a minute that it works")
    made.add_argument("--output", type=Path, help=f"default {results.name}; --quick: none")
    return made


def parsed(
    made: argparse.ArgumentParser, argv: Sequence[str] | None, results: Path
) -> argparse.Namespace:
    """The arguments; ``output`` is where to write results, or None."""
    args = made.parse_args(argv)
    args.output = args.output if args.quick or args.output else results
    return args
