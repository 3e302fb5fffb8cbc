"""A sentence-transformers model as one OpenVINO network: transformer, pooling and what follows."""

import warnings
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer

from worker.embedding.backends.discreet import openvino
from worker.embedding.cache import NETWORK


class _Whole(torch.nn.Module):
    """The model as a function of a batch of tokens, which is what a converter can follow."""

    def __init__(self, model: SentenceTransformer) -> None:
        super().__init__()
        self._model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        features = {"input_ids": input_ids, "attention_mask": attention_mask}
        vectors: torch.Tensor = self._model(features)["sentence_embedding"]
        return vectors


def converted(model: SentenceTransformer) -> Any:
    """The ``openvino.Model`` of ``model``: from ``input_ids`` and ``attention_mask``, each of shape
    (texts, tokens), to vectors. Raises whatever a converter raises over a model it does not know.
    """
    ones = torch.ones((2, 8), dtype=torch.long)
    example = {"input_ids": ones, "attention_mask": ones}
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tracing: whether it went well, the probes tell
        return openvino.convert_model(_Whole(model).eval(), example_input=example)


def save(network: Any, folder: Path) -> None:
    """Write ``network`` into ``folder``, its weights as exact as they are."""
    openvino.save_model(network, folder / NETWORK, compress_to_fp16=False)
