"""Measure how long it takes to rerank the hits of a search: ``python -m benchmarks.reranking``.

The cross encoder has the shape of ms-marco-MiniLM-L6-v2 (6 layers, 384 dimensions) and random
weights, which take the same time; how well it ranks, and whether 8-bit integers are accurate enough
for it, only trained weights can say, so no arithmetic is refused here. Scores 50 texts for a query
as a search does, in a process of its own, in turns with each arithmetic and length, and prints
medians.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final
from unittest.mock import patch

from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer

from benchmarks.prose import Prose
from worker.embedding.config import DEFAULT_MODEL, Precision, cores
from worker.reranking.config import DEFAULT_CANDIDATES, RerankerConfig
from worker.reranking.cross_encoder import CrossEncoderProcess

SEED: Final = 20261127
QUERY: Final = "what does a night on the island cost"
TARGET_MS: Final = 300


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--tokens", type=int, nargs="+", default=[64, 128, 192])
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as made:
        asyncio.run(_measure(Path(made), args.tokens, args.rounds))


async def _measure(folder: Path, lengths: Sequence[int], rounds: int) -> None:
    tokenizer = _write_model(folder / "model")
    texts = {length: _texts(tokenizer, length) for length in lengths}
    seconds: dict[tuple[Precision, int], list[float]] = {
        (precision, length): [] for precision in Precision for length in lengths
    }
    async with AsyncExitStack() as stack:
        scorers: dict[Precision, CrossEncoderProcess] = {}
        for precision in Precision:
            config = RerankerConfig(folder / "cache", str(folder / "model"), precision=precision)
            await asyncio.to_thread(_build, config)
            scorers[precision] = CrossEncoderProcess(config)
            stack.push_async_callback(scorers[precision].stop)
            await scorers[precision].prepare()
        for _ in range(1 + rounds):  # the first is for warming up
            for (precision, length), measured in seconds.items():
                begun = time.perf_counter()
                await scorers[precision].score(QUERY, texts[length])
                measured.append(time.perf_counter() - begun)
    table = Table("precision", "tokens with the query", "median ms", "fastest ms", "target ms")
    for (precision, length), measured in seconds.items():
        milliseconds = [1000 * each for each in measured[1:]]
        median = statistics.median(milliseconds)
        figures = (f"{median:.0f}", f"{min(milliseconds):.0f}", f"{TARGET_MS}")
        table.add_row(precision, str(length), *figures)
    console = Console()
    console.print(table)
    console.print(f"{DEFAULT_CANDIDATES} texts, {cores()} cores, medians of {rounds}")


def _build(config: RerankerConfig) -> None:
    from worker.reranking import build

    with patch.dict(build.LARGEST_DIFFERENCE, dict.fromkeys(build.LARGEST_DIFFERENCE, 1.0)):
        build.build_cross_encoder(config)


def _write_model(folder: Path) -> Tokenizer:
    """Write a cross encoder with the tokenizer of the default model; return that."""
    import torch
    from sentence_transformers import CrossEncoder
    from transformers import BertConfig, BertForSequenceClassification

    from worker.embedding.backends.torch import load

    torch.manual_seed(SEED)
    tokenizer = load(DEFAULT_MODEL).tokenizer
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=1536,
    )
    config.num_labels = 1
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CrossEncoder(str(folder), device="cpu", max_length=512).save_pretrained(str(folder))
    plain: Tokenizer = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    plain.no_truncation()
    plain.no_padding()
    return plain


def _texts(tokenizer: Tokenizer, tokens: int) -> list[str]:
    """Return prose that has ``tokens`` tokens together with the query and the special tokens."""
    prose = Prose(SEED)
    used = len(tokenizer.encode(QUERY, "").ids)
    texts = []
    for _ in range(DEFAULT_CANDIDATES):
        text = prose.text(8 * tokens, markdown=False)
        encoded = tokenizer.encode(text, add_special_tokens=False)
        texts.append(text[: encoded.offsets[tokens - used - 1][1]])
    return texts


if __name__ == "__main__":
    main()
