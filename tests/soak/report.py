"""The report of a soak, for people and for programs."""

import os
import subprocess
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from benchmarks.machine import Machine
from tests.soak.growth import Growth
from tests.soak.plan import Plan
from tests.soak.soak import Outcome

REPOSITORY: Final = Path(__file__).parents[2]
HOUR: Final = 3600.0
LINE_CHARACTERS: Final = 100
SHORTEST_SERIES: Final = 12
"""A program that lives for a minute at least has so many samples, and is listed."""


@dataclass(frozen=True)
class Report:
    """A soak that has ended."""

    plan: Plan
    outcome: Outcome
    machine: Machine
    commit: str
    load_at_end: float

    def write(self, path: Path) -> None:
        """Write the report to ``path``, which ends with .json, and beside it as Markdown."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(msgspec.json.format(msgspec.json.encode(self._as_json())) + b"\n")
        path.with_suffix(".md").write_text(self.text(), encoding="utf-8")

    def _as_json(self) -> dict[str, Any]:
        return {
            "seed": self.plan.seed,
            "planned_seconds": self.plan.seconds,
            "commit": self.commit,
            "machine": msgspec.to_builtins(self.machine),
            "load_at_end": self.load_at_end,
            **msgspec.to_builtins(self.outcome),
            "plan": {
                stream.value: [str(event) for event in events]
                for stream, events in self.plan.streams.items()
            },
        }

    def text(self) -> str:
        """Return the report as Markdown."""
        return "\n".join([*self._head(), *self._growth(), ""])

    def _head(self) -> Iterator[str]:
        plan, outcome, machine = self.plan, self.outcome, self.machine
        yield f"# Soak, seed {plan.seed}"
        yield ""
        yield from _paragraph(
            f"Passed: {'no' if outcome.problems else 'yes'}.",
            f"It was planned for {plan.seconds:.0f} s, and everything was compared after",
            f"{outcome.seconds:.0f} s.",
            f"Repeat it with `SOAK_SEED={plan.seed} SOAK_HOURS={plan.seconds / HOUR:.4g} make",
            "soak`.",
        )
        yield from _paragraph(
            f"Commit {self.commit}, {machine.date}, Python {machine.python}, {machine.redis},",
            f"{machine.cpu} with {machine.cores} cores. The load average of the machine was",
            f"{machine.load:.1f} at the start and {self.load_at_end:.1f} at the end.",
        )
        if (totals := outcome.totals) is not None:
            yield from _paragraph(
                f"Documents accepted: {totals.accepted}, finished: {totals.finished}, waiting:",
                f"{totals.waiting}, dead letters: {totals.dead}. Dead letters that were requeued,",
                f"because processes were killed over the document: {outcome.requeued}. Documents",
                f"in the folders and sent to the API in the end: {outcome.documents}.",
            )
        yield from _table(("event", "times"), outcome.events.items())
        yield from _table(("program", "starts"), outcome.restarts.items())
        for problem in outcome.problems:
            yield from ("## Problem", "", "```", problem, "```", "")

    def _growth(self) -> Iterator[str]:
        yield "A program that is started again begins a new row; those that lived for less than a"
        yield "minute are in the JSON file only."
        yield ""
        shown = [row for row in self.outcome.growth if row.samples >= SHORTEST_SERIES]
        columns = ("what", "samples", "start", "end", "peak", "slope per hour")
        yield from _table(columns, map(_cells, shown))


def _paragraph(*words: str) -> Iterator[str]:
    yield from textwrap.wrap(" ".join(words), LINE_CHARACTERS, break_on_hyphens=False)
    yield ""


def _cells(row: Growth) -> Sequence[object]:
    return row.name, row.samples, row.start, row.end, row.peak, row.per_hour


def _table(columns: Sequence[str], rows: Any) -> Iterator[str]:
    yield f"| {' | '.join(columns)} |"
    yield "|---" * len(columns) + "|"
    for row in rows:
        yield f"| {' | '.join(map(str, row))} |"
    yield ""


def commit() -> str:
    """Return the commit that is checked out, and whether files differ from it."""
    asked = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    ran = subprocess.run(asked, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    return ran.stdout.strip() or "unknown"


def load() -> float:
    return round(os.getloadavg()[0], 1)
