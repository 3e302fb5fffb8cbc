"""Fast backend on GPUs: runs the model in sentence-transformers, batch by batch.

A GPU computes small models faster than sentence-transformers hands it texts and takes vectors from
it. Here, texts are tokenized and padded as for OpenVINO, and all vectors are fetched at once.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch

from worker.embedding.backends import CachedModel, Vectors, unit_length
from worker.embedding.backends.batches import load_tokenizer, pack_batches, pad
from worker.embedding.backends.gpus import claim_gpu
from worker.embedding.backends.torch import load
from worker.embedding.cache import Arithmetic, Card

BATCH_TOKENS: Final = 32_768
"""Tokens in a batch, including padding."""
KINDS: Final[dict[Arithmetic, torch.dtype]] = {
    "float16": torch.float16,
    "float32": torch.float32,
}


class CudaModel(CachedModel):
    """The model ``name`` on ``device``, computed in the card's arithmetic."""

    def __init__(self, name: str, folder: Path, card: Card, device: str) -> None:
        super().__init__(card)
        self._device = torch.device(device)
        self._model = load(name).to(KINDS[card.arithmetic]).to(self._device).eval()
        self._tokenizer = load_tokenizer(folder, card)

    @classmethod
    def of(cls, name: str, folder: Path, card: Card) -> "CudaModel":
        """Load the model onto a GPU that has room for this process."""
        return cls(name, folder, card, claim_gpu(card))

    def _embed(self, texts: Sequence[str]) -> Vectors:
        encodings = self._tokenizer.encode_batch_fast(texts)
        batches = list(pack_batches([len(encoding) for encoding in encodings], BATCH_TOKENS))
        rows = torch.empty((len(texts), self._card.dimension), device=self._device)
        with torch.inference_mode():
            for batch in batches:
                inputs = pad([encodings[i] for i in batch], self._card.pad_id)
                features = {
                    name: torch.from_numpy(part).to(self._device) for name, part in inputs.items()
                }
                rows[batch] = self._model(features)["sentence_embedding"].float()
        vectors: Vectors = rows.cpu().numpy()
        return unit_length(vectors)
