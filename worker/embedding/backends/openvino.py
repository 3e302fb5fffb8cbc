"""The fast backend on processors: the whole model, converted once, in the arithmetic it is good
at."""

import importlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from tokenizers import Encoding, Tokenizer

from worker.embedding.backends import CachedModel, Vectors, unit_length
from worker.embedding.cache import NETWORK, TOKENIZER, Card

sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

openvino: Any = importlib.import_module("openvino")

BATCH_TOKENS: Final = 1024
"""Tokens, padding counted, that are computed at once: with one thread neither fewer nor more are
faster."""
LENGTH_STEP: Final = 8
"""Batches are as long as a multiple of this: what was prepared for a shape is used again more
often, a tenth faster."""


def supports_bfloat16() -> bool:
    """Return whether this processor computes bfloat16 in hardware (AVX512-BF16 or AMX)."""
    capabilities: list[str] = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "BF16" in capabilities


class OpenVinoModel(CachedModel):
    """A network of the cache, compiled for up to so many ``threads``."""

    def __init__(self, folder: Path, card: Card, threads: int) -> None:
        super().__init__(card)
        bfloat16 = card.arithmetic != "float32" and supports_bfloat16()
        compiled = openvino.Core().compile_model(
            folder / NETWORK,
            "CPU",
            {
                "INFERENCE_NUM_THREADS": threads,
                # Pinned, all children would share the first core.
                "ENABLE_CPU_PINNING": False,
                "INFERENCE_PRECISION_HINT": "bf16" if bfloat16 else "f32",
                "NUM_STREAMS": 1,
            },
        )
        self._request = compiled.create_infer_request()
        self._tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
        if card.max_length is not None:
            self._tokenizer.enable_truncation(card.max_length)

    def _embed(self, texts: Sequence[str]) -> Vectors:
        encodings = self._tokenizer.encode_batch_fast(texts)
        rows = np.empty((len(texts), self._card.dimension), np.float32)
        for batch in packed([len(encoding) for encoding in encodings], BATCH_TOKENS):
            inputs = _padded([encodings[i] for i in batch], self._card.pad_id)
            self._request.infer(inputs, share_inputs=True)
            rows[batch] = self._request.get_output_tensor(0).data
        return unit_length(rows)


def packed(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Yield indices of texts in batches of at most ``budget`` tokens, padding counted.

    Texts of about the same length come together. A text above the budget comes alone.
    """
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and lengths[index] * (len(batch) + 1) > budget:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _padded(encodings: Sequence[Encoding], pad_id: int) -> dict[str, Any]:
    longest = max(1, *(len(encoding) for encoding in encodings))
    shape = (len(encodings), -(-longest // LENGTH_STEP) * LENGTH_STEP)
    ids = np.full(shape, pad_id, np.int64)
    mask = np.zeros(shape, np.int64)
    for row, encoding in enumerate(encodings):
        ids[row, : len(encoding)] = encoding.ids
        mask[row, : len(encoding)] = 1
    return {"input_ids": ids, "attention_mask": mask}
