"""Figures of the rounds other than chunks a second."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.embedding.agreement import TOP
from benchmarks.embedding.corpus import MODEL_DIR
from benchmarks.embedding.flops import Shape
from benchmarks.embedding.ingestions import IngestResult
from benchmarks.embedding.measures import INGESTQ, RAW, Bench
from benchmarks.embedding.rivals import SENTENCE_TRANSFORMERS
from benchmarks.machine import Machine
from benchmarks.report import Summary, summarise


@dataclass(frozen=True)
class Figure:
    """One measurement."""

    name: str
    unit: str
    value: Summary


@dataclass(frozen=True)
class Conditions:
    """The conditions of the measurements. ``products`` has GFLOP/s of matrix products by type and
    threads; ``others`` is the share of the processors that other processes had during the rounds.
    """

    machine: Machine
    cores: int
    products: Mapping[str, Mapping[str, float]]
    others: float


def figures(bench: Bench, conditions: Conditions) -> list[Figure]:
    """Return all figures in the order in which they are printed."""
    return [
        figure_of("processors taken by others", "", [conditions.others]),
        *_work(bench, conditions),
        *(figure for name in bench.ingested for figure in _worker(name, bench.ingested[name])),
        *_agreements(bench),
        *_static(bench),
    ]


def _work(bench: Bench, conditions: Conditions) -> list[Figure]:
    """Return the rates in tokens and in operations, and the machine's own rate."""
    cores, products = conditions.cores, conditions.products
    chunks, tokens = len(bench.corpus.chunks), sum(bench.corpus.tokens)
    gflop = Shape.of(MODEL_DIR).gflop(bench.corpus.tokens)
    one, all_cores = f"{RAW}, children: 1", ceiling_of(cores)
    figures = [
        figure_of("chunks", "", [chunks]),
        figure_of("tokens a chunk, mean", "", [tokens / chunks]),
        figure_of("work a chunk, mean", "GFLOP", [gflop / chunks]),
    ]
    for name in (all_cores, INGESTQ, SENTENCE_TRANSFORMERS):
        rates = bench.rates[name]
        figures += [
            figure_of(f"{name}: tokens", "tokens/s", [rate * tokens / chunks for rate in rates]),
            figure_of(f"{name}: work", "GFLOP/s", [rate * gflop / chunks for rate in rates]),
        ]
    figures += [
        figure_of(f"matrix products, {kind}, threads: {threads}", "GFLOP/s", [rate])
        for kind, by_threads in products.items()
        for threads, rate in by_threads.items()
    ]
    ceiling = summary_of(bench.rates[all_cores]).median
    for kind, by_threads in products.items():
        share = ceiling * gflop / chunks / by_threads[str(cores)]
        figures.append(figure_of(f"{RAW}: of {kind} matrix products", "", [share]))
    if cores > 1:
        each = ceiling / cores / summary_of(bench.rates[one]).median
        figures.append(figure_of(f"a child of {cores} / a child alone", "", [each]))
    return figures


def _worker(name: str, rounds: Sequence[IngestResult]) -> list[Figure]:
    """Return a worker's event loop lag, memory and CPU time."""

    def figure(what: str, unit: str, value: Callable[[IngestResult], float]) -> Figure:
        return figure_of(f"{name}: {what}", unit, list(map(value, rounds)))

    figures = [
        figure("event loop late, p50", "ms", lambda r: r.lag.p50),
        figure("event loop late, p99", "ms", lambda r: r.lag.p99),
        figure("event loop late, longest", "ms", lambda r: r.lag.max),
        figure("memory (PSS) of the worker", "MiB", lambda r: r.memory.parent),
        figure("memory (PSS) of its children", "MiB", lambda r: r.memory.children),
        figure("CPU of the worker", "ms a chunk", lambda r: 1e3 * r.worker_cpu / r.chunks),
        figure("CPU of its children", "ms a chunk", lambda r: 1e3 * r.children_cpu / r.chunks),
    ]
    if all(r.qdrant_cpu is not None for r in rounds):
        figures.append(
            figure("CPU of Qdrant", "ms a chunk", lambda r: 1e3 * (r.qdrant_cpu or 0) / r.chunks)
        )
    return figures


def _agreements(bench: Bench) -> list[Figure]:
    figures = []
    for name, found in bench.agreements.items():
        figures += [
            figure_of(f"{name}: cosine with float32, lowest", "", [found.cosine_min]),
            figure_of(f"{name}: cosine with float32, mean", "", [found.cosine_mean]),
            figure_of(f"{name}: of the reference's top {TOP} found", "", [found.found]),
            figure_of(f"{name}: known item in the top {TOP}", "", [found.known]),
        ]
    if bench.agreements:
        known = next(iter(bench.agreements.values())).known_by_reference
        figures.append(figure_of(f"reference: known item in the top {TOP}", "", [known]))
    return figures


def _static(bench: Bench) -> list[Figure]:
    rates = [done.rate for done in bench.static]
    figures = [figure_of("static model: chunks", "chunks/s", rates)] if rates else []
    return figures + (_worker("static model", bench.static) if rates else [])


def ceiling_of(cores: int) -> str:
    """Return the name of the contender that all are compared with."""
    return f"{RAW}, children: {cores}"


def figure_of(name: str, unit: str, values: Sequence[float]) -> Figure:
    """Return a figure with one value a round."""
    return Figure(name, unit, summary_of(values))


def summary_of(values: Sequence[float]) -> Summary:
    """Return the summary of one value a round."""
    summary = summarise(values)
    assert summary is not None, "a contender that takes part has rounds"
    return summary
