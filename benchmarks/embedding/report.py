"""The results of the embedding benchmark: tables, JSON and a plot."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks.embedding.figures import Conditions, Figure, ceiling_of, figures, summary_of
from benchmarks.embedding.flops import FORMULA
from benchmarks.embedding.measures import INGESTQ, RAW, Bench
from benchmarks.embedding.plot import CEILING, OTHERS, OURS, Bar, write_bars
from benchmarks.embedding.rivals import SENTENCE_TRANSFORMERS
from benchmarks.machine import Machine
from benchmarks.report import PRINTED_COLUMNS, Summary


@dataclass(frozen=True)
class Rate:
    """Chunks/s of a contender; ``of_reference`` is its median divided by that of
    sentence-transformers, ``of_ceiling`` divided by that of all embedding processes alone.
    ``cpu_ms`` is the CPU time of its own processes for a chunk, on which other load has
    less influence."""

    name: str
    value: Summary
    cpu_ms: Summary
    of_reference: float | None
    of_ceiling: float | None


@dataclass(frozen=True)
class Report:
    """Everything that was measured."""

    machine: Machine
    versions: Mapping[str, str]
    notes: Sequence[str]
    rates: Sequence[Rate]
    figures: Sequence[Figure]
    missing: Mapping[str, str]


def report(bench: Bench, conditions: Conditions) -> Report:
    """Return a report of what ``bench`` measured."""
    return Report(
        machine=conditions.machine,
        versions=bench.versions,
        notes=_notes(bench),
        rates=_rates(bench, conditions.cores),
        figures=figures(bench, conditions),
        missing=bench.missing,
    )


def _rates(bench: Bench, cores: int) -> list[Rate]:
    values = {name: summary_of(rates) for name, rates in bench.rates.items()}
    reference = values.get(SENTENCE_TRANSFORMERS)
    ceiling = values.get(ceiling_of(cores))

    def ratio(value: Summary, other: Summary | None) -> float | None:
        return None if other is None else value.median / other.median

    return [
        Rate(
            name,
            value,
            summary_of(bench.cpu_ms[name]),
            ratio(value, reference),
            ratio(value, ceiling),
        )
        for name, value in values.items()
    ]


def _notes(bench: Bench) -> list[str]:
    corpus = bench.corpus
    return [
        f"{len(corpus.documents)} documents, {len(corpus.chunks)} chunks of "
        f"{mean(corpus.tokens):.0f} tokens on average (limit 256, special tokens included): the "
        "language reference of this Python and docstrings of its library, cut by ingestq.",
        f"Qdrant is {bench.qdrant.kind}; the same for all.",
        "Raw ceiling: the pool's children alone, on batches of equal length that are always at "
        "hand. One child has one core's threads while the others are idle.",
        "ingestq: a worker as `ingestq worker` opens it, with the model loaded; files queued as "
        "`ingestq add` does. Timed from the claim of the first job to the end of the last: reading "
        "files, cutting, sparse vectors, the ledger and every write included.",
        "The others have the texts of the chunks in memory and a loaded model; timed until the "
        "last chunk is stored. Each round has another part of the chunks, so all have the same.",
        f"Work: {FORMULA}, without padding.",
        f"{len(bench.queries)} queries, each a sentence out of a chunk; searches are exact. "
        "ingestq's vectors are those that were stored.",
        "CPU: of a contender's own processes, without Redis and Qdrant.",
        "Memory: proportional set size when all is indexed; what processes share counts once.",
        "Static model: words with random vectors, on generated prose.",
        *(f"{name} did not take part: {why}" for name, why in bench.missing.items()),
    ]


def show(result: Report) -> None:
    """Print both tables."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=PRINTED_COLUMNS)
    machine = result.machine
    console.print(
        f"{machine.cpu}, {machine.cores} cores (load {machine.load:.1f} at the start), "
        f"Python {machine.python}, {machine.redis}, {machine.date}",
        ", ".join(f"{name} {version}" for name, version in result.versions.items()),
        sep="\n",
        highlight=False,
    )
    rates = Table(title="median (min - max) of the rounds", title_justify="left")
    for heading in ("", "chunks/s", f"/ {SENTENCE_TRANSFORMERS}", f"/ {RAW}", "CPU ms a chunk"):
        rates.add_column(heading)
    for rate in result.rates:
        ratios = (rate.of_reference, rate.of_ceiling)
        compared = [f"{ratio:.2f}" if ratio else "-" for ratio in ratios]
        rates.add_row(rate.name, str(rate.value), *compared, str(rate.cpu_ms))
    for name in result.missing:
        rates.add_row(name, "not installed")
    others = Table()
    for heading in ("", "unit", ""):
        others.add_column(heading)
    for figure in result.figures:
        others.add_row(figure.name, figure.unit, _value(figure))
    console.print(rates, others, sep="\n")
    for note in result.notes:
        console.print(f"- {note}", highlight=False)


def write(path: Path, result: Report) -> None:
    """Write everything that `show` prints as JSON, and the rates as SVG beside it."""
    answer: dict[str, Any] = msgspec.to_builtins(result)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(answer)) + b"\n")
    bars = [
        Bar(
            rate.name,
            rate.value,
            CEILING if rate.name.startswith(RAW) else OURS if INGESTQ in rate.name else OTHERS,
            "" if rate.of_reference is None else f"{rate.of_reference:.2f} x",
        )
        for rate in result.rates
    ]
    machine = result.machine
    write_bars(
        path.with_suffix(".svg"),
        "Chunks indexed a second",
        f"all-MiniLM-L6-v2 on {machine.cores} cores; x: compared with {SENTENCE_TRANSFORMERS}",
        bars,
        f"{machine.cpu}, {machine.date}; median and spread of the rounds "
        f"({len(bars[0].value.rounds)})",
    )


def _value(figure: Figure) -> str:
    """Return a value as text; a share or a cosine with four digits, as 0.996 is not 1.000."""
    if figure.unit == "" and figure.value.max <= 1.5:
        return f"{figure.value.median:.4f}"
    return str(figure.value)
