"""Fast backend on CPUs: runs a converted model with OpenVINO."""

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from worker.embedding.backends import CachedModel, Vectors, unit_length
from worker.embedding.backends.batches import load_tokenizer, pack_batches, pad
from worker.embedding.cache import NETWORK, Arithmetic, Card

# OpenVINO then finds no telemetry module, and sends nothing.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

openvino: Any = importlib.import_module("openvino")

BATCH_TOKENS: Final = 1024
"""Tokens in a batch, including padding. With one thread, neither smaller nor larger batches are
faster."""


def supports_bfloat16() -> bool:
    """Return True if this CPU computes bfloat16 in hardware (AVX512-BF16 or AMX)."""
    capabilities: list[str] = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "BF16" in capabilities


def compile_network(folder: Path, arithmetic: Arithmetic, threads: int) -> Any:
    """Compile the network of a cache entry to run in up to ``threads`` threads."""
    bfloat16 = arithmetic != "float32" and supports_bfloat16()
    return openvino.Core().compile_model(
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


class OpenVinoModel(CachedModel):
    """A converted model, compiled to run in up to ``threads`` threads."""

    def __init__(self, folder: Path, card: Card, threads: int) -> None:
        super().__init__(card)
        self._request = compile_network(folder, card.arithmetic, threads).create_infer_request()
        self._tokenizer = load_tokenizer(folder, card)

    def _embed(self, texts: Sequence[str]) -> Vectors:
        encodings = self._tokenizer.encode_batch_fast(texts)
        rows = np.empty((len(texts), self._card.dimension), np.float32)
        for batch in pack_batches([len(encoding) for encoding in encodings], BATCH_TOKENS):
            inputs = pad([encodings[i] for i in batch], self._card.pad_id)
            self._request.infer(inputs, share_inputs=True)
            rows[batch] = self._request.get_output_tensor(0).data
        return unit_length(rows)
