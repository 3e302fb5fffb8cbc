"""The reference: sentence-transformers itself, for every cross encoder that it supports."""

from collections.abc import Sequence
from functools import partial
from typing import Final

import torch
from sentence_transformers import CrossEncoder

from worker.embedding.backends.torch import from_cache_or_hub

BATCH_TEXTS: Final = 16
HEADS: Final = ("ForSequenceClassification", "ForCausalLM")
"""Ends of the names of architectures that give scores. To others, transformers adds random weights
that do."""


def load_cross_encoder(name: str) -> CrossEncoder:
    """Load a cross encoder. Raises OSError if it is not found, ValueError if it is none."""
    model: CrossEncoder = from_cache_or_hub(name, partial(CrossEncoder, device="cpu")).float()
    config = getattr(model.model, "config", None)
    architectures = getattr(config, "architectures", None) or ["a model without an architecture"]
    if len(list(model)) == 1 and not architectures[0].endswith(HEADS):
        raise ValueError(f"{architectures[0]} is not a cross encoder")
    if model.num_labels != 1:
        raise ValueError(
            f"it gives {model.num_labels} scores to a text, but a reranker gives only one"
        )
    return model


class TorchCrossEncoder:
    """A `LoadedCrossEncoder` that sentence-transformers computes."""

    def __init__(self, model: CrossEncoder) -> None:
        self._model = model

    @classmethod
    def of(cls, name: str, threads: int) -> "TorchCrossEncoder":
        """Load the model ``name``."""
        torch.set_num_threads(threads)
        return cls(load_cross_encoder(name))

    def score(self, query: str, texts: Sequence[str]) -> list[float]:
        """See `LoadedCrossEncoder`."""
        pairs = [(query, text) for text in texts]
        scores = self._model.predict(pairs, batch_size=BATCH_TEXTS, show_progress_bar=False)
        found: list[float] = scores.reshape(-1).tolist()
        return found
