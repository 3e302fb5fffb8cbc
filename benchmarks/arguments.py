"""Command-line options that all benchmarks share."""

import argparse
from collections.abc import Sequence
from pathlib import Path


def make_parser(description: str | None, results: Path) -> argparse.ArgumentParser:
    """Return a parser for ``--quick`` and ``--output``; a benchmark may add options of its own."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="check in a minute that it works")
    parser.add_argument("--output", type=Path, help=f"default {results.name}; --quick: none")
    return parser


def parse_args(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None, results: Path
) -> argparse.Namespace:
    """Return the arguments; ``output`` is where to write results, or None."""
    args = parser.parse_args(argv)
    args.output = args.output if args.quick or args.output else results
    return args
