"""The table of the index benchmark: its rows, their targets, and how to read them."""

from collections.abc import Iterator, Sequence
from statistics import median
from typing import Final

from benchmarks.index.bench import Bench
from benchmarks.index.rebuild import SMALLER_CHUNK_TOKENS
from benchmarks.index.reruns import EDITED_SHARE, LARGE
from benchmarks.report import Row, Target, summarise

LOCAL_MODE_RATE: Final = 119
"""Documents of one chunk a second with the client's local mode, before the bundled engine."""
SINGLE_DOCUMENT_RATE: Final = 67
"""The same with a server, when each document had its own requests."""
FASTER: Final = 5
FLAT: Final = 1.2


def rows(bench: Bench) -> list[Row]:
    """Return the table, with its targets."""
    return [
        *_reruns(bench),
        *_edits(bench),
        *_rebuild(bench),
        *_throughput(bench),
        *_growth(bench),
        *_searches(bench),
        *_memory(bench),
    ]


def _row(bench: Bench, name: str, unit: str, key: str, target: Target | None = None) -> Row:
    return Row(name, unit, None, summarise(bench.samples[key]), target)


def _reruns(bench: Bench) -> Iterator[Row]:
    ratio, edited_ratio = Target("100 x", at_least=100), Target("30 x", at_least=30)
    edited = f"rerun with {EDITED_SHARE:.0%} edited"
    yield _row(bench, f"first run of {bench.plan.files} files", "s", "first")
    yield _row(bench, "first run: embedded", "chunks", "first chunks")
    yield _row(bench, "unchanged rerun", "s", "unchanged")
    yield _row(bench, "first run / unchanged rerun", "x", "unchanged ratio", ratio)
    yield _row(bench, edited, "s", "edited")
    yield _row(bench, "edited rerun: embedded", "chunks", "edited chunks")
    yield _row(bench, "first run / edited rerun", "x", "edited ratio", edited_ratio)
    yield _row(bench, "unchanged, the whole command", "s", "command")


def _edits(bench: Bench) -> Iterator[Row]:
    few = Target("at most 3 each", at_most=3, of_each=True)
    for suffix, kind in LARGE.items():
        name = f"{bench.plan.large_characters / 1e6:g} MB {kind}"
        edited = f"{name}, paragraph edited"
        yield _row(bench, f"{name}, first run: embedded", "chunks", f"large chunks{suffix}")
        yield _row(bench, f"{edited}: embedded", "chunks", f"large edited{suffix}", few)
        yield _row(bench, f"{edited}: run", "s", f"large seconds{suffix}")


def _rebuild(bench: Bench) -> Iterator[Row]:
    none = Target("none", at_most=0)
    yield _row(bench, "searches during a rebuild", "", "searches")
    yield _row(bench, "of them failed", "", "failed", none)
    yield _row(bench, "of them incomplete", "", "incomplete", none)


def _throughput(bench: Bench) -> Iterator[Row]:
    plan = bench.plan
    before = LOCAL_MODE_RATE if bench.server is None else SINGLE_DOCUMENT_RATE
    faster = Target(f"{FASTER} x {before}", at_least=FASTER * before)
    static = Target("3,000", at_least=3_000) if bench.server is None else None
    deletion = f"deletion of {plan.deleted_files:,} of {plan.one_chunk_files:,} files"
    share = "end to end / raw ceiling"
    yield _row(bench, "files of one chunk", "documents/s", "one chunk", faster)
    yield _row(bench, deletion, "s", "deletion", Target("< 30 s", at_most=30))
    yield _row(bench, "static model", "chunks/s", "static", static)
    yield _row(
        bench,
        "static model: event loop late, p99",
        "ms",
        "static lag",
        Target("< 50 ms", at_most=50),
    )
    yield _row(bench, "raw ceiling", "chunks/s", "ceiling")
    yield _row(bench, "end to end", "chunks/s", "end to end")
    yield _row(bench, share, "x", "share of ceiling", Target("0.93", at_least=0.93))


def _growth(bench: Bench) -> Iterator[Row]:
    rates = []
    for size in bench.plan.sizes:
        key = f"rate at {size}"
        yield _row(bench, f"into an index of {size:,}", "documents/s", key)
        rates.append(median(bench.samples[key]))
    flat = Target(f"at most {FLAT:g}", at_most=FLAT)
    yield Row("fastest / slowest of these", "x", None, summarise([max(rates) / min(rates)]), flat)


def _searches(bench: Bench) -> Iterator[Row]:
    for size in bench.plan.search_sizes:
        name = f"hybrid search during a run, {size:,} chunks"
        p99 = Target("< 100 ms", at_most=100)
        yield _row(bench, f"{name}: searches", "", f"searches at {size}")
        yield _row(bench, f"{name}: p50", "ms", f"p50 at {size}")
        yield _row(bench, f"{name}: p99", "ms", f"p99 at {size}", p99)


def _memory(bench: Bench) -> Iterator[Row]:
    for size in bench.plan.sizes:
        name = f"memory with {size:,} chunks"
        yield _row(bench, f"{name}: worker", "MiB", f"worker memory at {size}")
        yield _row(bench, f"{name}: its children", "MiB", f"child memory at {size}")
        if bench.server is None:
            yield _row(bench, f"{name}: engine", "MiB", f"engine memory at {size}")


def notes(bench: Bench) -> Sequence[str]:
    """Return how to read the table."""
    settings = bench.settings
    where = "the bundled one" if bench.server is None else "a server"
    return (
        f"Qdrant is {where}; {settings.pool_size} processes embed with {settings.model}.",
        "Runs are timed from the first look at the folder to the summary, with the model loaded; "
        "the whole command contains loading it.",
        "After each run the index was equal to the folder, and new sentences were found in it.",
        f"The rebuild cuts chunks of {SMALLER_CHUNK_TOKENS} tokens. Each search asked the alias "
        "for chunks by a vector, and for the ids of all documents.",
        "Documents, and searches during a run, are measured with a static model, whose vectors "
        "cost nothing, so that the index is what limits them. Documents a second are counted from "
        "the claim of the first job to the end of the last.",
        f"The target for files of one chunk is {FASTER} times the rate before requests were "
        f"grouped: {LOCAL_MODE_RATE} with the client's local mode, {SINGLE_DOCUMENT_RATE} with a "
        "server.",
        "Memory is the proportional set size at the end of each addition to an index of that size.",
    )
