"""Measure embedding on the GPUs of this machine: ``python -m benchmarks.gpu``.

Embeds generated prose through the batcher, as a worker does, with sentence-transformers in one
process for each GPU, and with the backend for GPUs in one process and in more. Nothing is parsed or
stored. Takes two or three minutes.
"""

import asyncio
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer

from benchmarks.prose import Prose
from ingestq.core.documents import Lane
from worker.embedding.backends import Vectors
from worker.embedding.batcher import Batcher
from worker.embedding.cache import TOKENIZER, CacheEntry, Card
from worker.embedding.config import DEFAULT_MODEL, EmbeddingConfig
from worker.embedding.preparation import prepare_model
from worker.embedding.processes import EmbeddingProcesses
from worker.text.parts import SizedText

SEED: Final = 7
SENTENCES: Final = 8
"""In a text: about as many tokens as the default model reads."""
TEXTS: Final = 8192
DOCUMENTS: Final = 8
"""Documents that are embedded at the same time, slice by slice."""
SLICE: Final = 256
WARM_UPS: Final = 8


def variants(best: Card) -> Iterator[Card]:
    """Yield sentence-transformers itself, then the backend for GPUs in more and more processes."""
    alone = msgspec.structs.replace(best, gpu_processes=best.gpus)
    yield msgspec.structs.replace(alone, engine="torch", arithmetic="float32")
    for processes in sorted({best.gpus, 2 * best.gpus, best.gpu_processes}):
        yield msgspec.structs.replace(best, gpu_processes=processes)


async def embed(processes: EmbeddingProcesses, texts: Sequence[SizedText]) -> tuple[float, Vectors]:
    """Return texts a second, and the vectors."""
    batch = [text.text for text in texts[: processes.batch_texts]]
    for _ in range(WARM_UPS):  # until each process has loaded the model
        await asyncio.gather(*(processes.embed_each(batch) for _ in range(2 * processes.slots)))
    slices = [range(start, min(start + SLICE, len(texts))) for start in range(0, len(texts), SLICE)]
    found: dict[int, Vectors] = {}
    async with Batcher(processes) as batcher:

        async def document(number: int) -> None:
            for part in range(number, len(slices), DOCUMENTS):
                found[part] = await batcher.embed(Lane.BULK, [texts[i] for i in slices[part]])

        started = time.perf_counter()
        await asyncio.gather(*map(document, range(DOCUMENTS)))
        seconds = time.perf_counter() - started
    rows = np.vstack([found[part] for part in range(len(slices))])
    return len(texts) / seconds, rows


async def main() -> None:
    """Measure, and print the table."""
    model = sys.argv[1] if sys.argv[1:] else DEFAULT_MODEL
    with tempfile.TemporaryDirectory(prefix="ingestq-bench-") as folder:
        config = EmbeddingConfig(Path(folder), model)
        entry = await prepare_model(config)
        if entry.card.engine != "cuda":
            reasons = "; ".join(entry.card.rejected)
            sys.exit(f"the model runs on {entry.card.engine}, not on a GPU. {reasons}")
        prose, tokenizer = Prose(SEED), Tokenizer.from_file(str(entry.folder / TOKENIZER))
        written = [" ".join(prose.sentence() for _ in range(SENTENCES)) for _ in range(TEXTS)]
        tokens = tokenizer.encode_batch(written, add_special_tokens=False)
        texts = [SizedText(t, len(e.ids)) for t, e in zip(written, tokens, strict=True)]
        table = Table(title=f"{TEXTS:,} texts of {_mean_tokens(texts):.0f} tokens")
        for heading in ("engine", "arithmetic", "processes", "texts/s", "least cosine"):
            table.add_column(heading)
        reference: Vectors | None = None
        for card in variants(entry.card):
            processes = EmbeddingProcesses(config, CacheEntry(entry.folder, card))
            try:
                rate, rows = await embed(processes, texts)
            finally:
                await processes.stop()
            reference = rows if reference is None else reference
            cosine = np.einsum("ij,ij->i", rows, reference).min()
            table.add_row(
                card.engine,
                card.arithmetic,
                str(card.gpu_processes),
                f"{rate:,.0f}",
                f"{cosine:.6f}",
            )
    Console().print(table)


def _mean_tokens(texts: Sequence[SizedText]) -> float:
    return sum(text.tokens for text in texts) / len(texts)


if __name__ == "__main__":
    asyncio.run(main())
