"""Fast backend on CPUs: runs a converted model with OpenVINO."""

import importlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from tokenizers import Encoding, Tokenizer

from worker.embedding.backends import CachedModel, Vectors, unit_length
from worker.embedding.cache import NETWORK, TOKENIZER, Card

# OpenVINO then finds no telemetry module, and sends nothing.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

openvino: Any = importlib.import_module("openvino")

BATCH_TOKENS: Final = 1024
"""Tokens in a batch, including padding. With one thread, neither smaller nor larger batches are
faster."""
LENGTH_STEP: Final = 8
"""Batches are padded to a multiple of this. Fewer different shapes are a tenth faster, because
OpenVINO prepares each shape once."""


def supports_bfloat16() -> bool:
    """Return True if this CPU computes bfloat16 in hardware (AVX512-BF16 or AMX)."""
    capabilities: list[str] = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "BF16" in capabilities


class OpenVinoModel(CachedModel):
    """A converted model, compiled to run in up to ``threads`` threads."""

    def __init__(self, folder: Path, card: Card, threads: int) -> None:
        super().__init__(card)
        bfloat16 = card.arithmetic != "float32" and supports_bfloat16()
        compiled = openvino.Core().compile_model(
            folder / NETWORK,
            "CPU",
            {
                "INFERENCE_NUM_THREADS": threads,
                # Pinned, all processes would share the first core.
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
        for batch in pack_batches([len(encoding) for encoding in encodings], BATCH_TOKENS):
            inputs = _pad([encodings[i] for i in batch], self._card.pad_id)
            self._request.infer(inputs, share_inputs=True)
            rows[batch] = self._request.get_output_tensor(0).data
        return unit_length(rows)


def pack_batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Yield batches, as indices of texts, of at most ``budget`` tokens including padding.

    Texts of similar length share a batch. A text that exceeds the budget is alone in its batch.
    """
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and lengths[index] * (len(batch) + 1) > budget:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _pad(encodings: Sequence[Encoding], pad_id: int) -> dict[str, Any]:
    longest = max(1, *(len(encoding) for encoding in encodings))
    shape = (len(encodings), -(-longest // LENGTH_STEP) * LENGTH_STEP)
    ids = np.full(shape, pad_id, np.int64)
    mask = np.zeros(shape, np.int64)
    for row, encoding in enumerate(encodings):
        ids[row, : len(encoding)] = encoding.ids
        mask[row, : len(encoding)] = 1
    return {"input_ids": ids, "attention_mask": mask}
