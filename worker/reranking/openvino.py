"""Runs a converted cross encoder with OpenVINO."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from tokenizers import Encoding

from worker.embedding.backends.batches import TokenBatch, load_tokenizer, pack_batches, pad
from worker.embedding.backends.openvino import compile_network
from worker.reranking.card import CrossEncoderCard

BATCH_TOKENS: Final = 2048
"""Tokens in a batch, including padding: with all cores at one batch, more than an embedding process
takes at once."""


class OpenVinoCrossEncoder:
    """A `LoadedCrossEncoder`, compiled to run in up to ``threads`` threads."""

    def __init__(self, folder: Path, card: CrossEncoderCard, threads: int) -> None:
        self._card = card
        self._request = compile_network(folder, card.arithmetic, threads).create_infer_request()
        self._tokenizer = load_tokenizer(folder, card)

    def score(self, query: str, texts: Sequence[str]) -> list[float]:
        """See `LoadedCrossEncoder`."""
        encodings = self._tokenizer.encode_batch_fast([(query, text) for text in texts])
        scores = np.empty(len(texts), np.float32)
        for batch in pack_batches([len(encoding) for encoding in encodings], BATCH_TOKENS):
            inputs = token_batch([encodings[i] for i in batch], self._card)
            self._request.infer(inputs, share_inputs=True)
            scores[batch] = self._request.get_output_tensor(0).data.reshape(-1)
        found: list[float] = scores.tolist()
        return found


def token_batch(encodings: Sequence[Encoding], card: CrossEncoderCard) -> TokenBatch:
    """Return the tokens of a batch of pairs, as the network takes them."""
    inputs = pad(encodings, card.pad_id)
    if card.has_types:
        types = np.zeros_like(inputs["input_ids"])
        for row, encoding in enumerate(encodings):
            types[row, : len(encoding)] = encoding.type_ids
        inputs["token_type_ids"] = types
    return inputs
