"""Results of a benchmark: medians with their spread, beside targets."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks.machine import Machine

PRINTED_COLUMNS: Final = 120
"""Width of tables where there is no terminal."""


@dataclass(frozen=True)
class Summary:
    """Median, minimum and maximum of one value a round."""

    median: float
    min: float
    max: float
    rounds: tuple[float, ...]

    def __str__(self) -> str:
        if len(self.rounds) == 1:
            return _figure(self.median)
        return f"{_figure(self.median)} ({_figure(self.min)} - {_figure(self.max)})"


@dataclass(frozen=True)
class Target:
    """A target for our median: ``at_least`` or ``at_most``; with ``of_ratio`` for its ratio to
    stock's, with ``of_each`` for each of our values."""

    text: str
    at_least: float | None = None
    at_most: float | None = None
    of_ratio: bool = False
    of_each: bool = False

    def is_met_by(self, value: float) -> bool:
        return (self.at_least is None or value >= self.at_least) and (
            self.at_most is None or value <= self.at_most
        )


@dataclass(frozen=True)
class Row:
    """One measurement of both contenders; None where there is none."""

    name: str
    unit: str
    stock: Summary | None
    ours: Summary | None
    target: Target | None = None

    @property
    def ratio(self) -> float | None:
        """Our median divided by stock's."""
        if self.stock is None or self.ours is None or self.stock.median == 0:
            return None
        return self.ours.median / self.stock.median

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without a target or a value."""
        if self.target is None or self.ours is None:
            return None
        value = self.ratio if self.target.of_ratio else self.ours.median
        if value is None:
            return None
        values = self.ours.rounds if self.target.of_each else (value,)
        return all(map(self.target.is_met_by, values))


def summarise(values: Sequence[float]) -> Summary | None:
    """Return the summary of one value a round; None if there was no round."""
    if not values:
        return None
    return Summary(statistics.median(values), min(values), max(values), tuple(values))


def show(rows: Sequence[Row], machine: Machine, notes: Sequence[str]) -> None:
    """Print the table; the columns of stock arq only if something was compared with it."""
    compared = any(row.stock is not None for row in rows)
    headings = ["stock arq", "ours", "ours / stock"] if compared else ["ours"]
    table = Table(title="median (min - max) of the rounds", title_justify="left")
    for heading in ("", "unit", *headings, "target", ""):
        table.add_column(heading)
    for row in rows:
        ours = "-" if row.ours is None else str(row.ours)
        stock = "-" if row.stock is None else str(row.stock)
        ratio = "-" if row.ratio is None else _figure(row.ratio)
        table.add_row(
            row.name,
            row.unit,
            *([stock, ours, ratio] if compared else [ours]),
            "" if row.target is None else row.target.text,
            {None: "", True: "[green]met[/]", False: "[red]missed[/]"}[row.met],
        )
    console = Console()
    if not console.is_terminal:
        console = Console(width=PRINTED_COLUMNS)
    console.print(
        f"{machine.cpu}, {machine.cores} cores (load {machine.load:.1f} at the start), "
        f"Python {machine.python}, arq {machine.arq}, {machine.redis}, {machine.date}",
        highlight=False,
    )
    console.print(table)
    for note in notes:
        console.print(f"- {note}", highlight=False)


def write(path: Path, rows: Sequence[Row], machine: Machine, notes: Sequence[str]) -> None:
    """Write what `show` prints as JSON."""
    measurements: list[dict[str, Any]] = [
        {**msgspec.to_builtins(row), "ratio": row.ratio, "met": row.met} for row in rows
    ]
    answer = {
        "machine": msgspec.to_builtins(machine),
        "notes": list(notes),
        "measurements": measurements,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(answer)) + b"\n")


def _figure(value: float) -> str:
    """Return ``value`` with about three digits, or a count in full."""
    if isinstance(value, int):
        return f"{value:,}"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
