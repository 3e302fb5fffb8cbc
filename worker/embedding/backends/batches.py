"""Batches of tokenized texts, as the fast backends compute them."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding, Tokenizer

from worker.embedding.cache import TOKENIZER, EntryCard

LENGTH_STEP: Final = 8
"""Batches are padded to a multiple of this. Fewer different shapes are a tenth faster, because
OpenVINO prepares each shape once."""

TokenBatch = dict[str, npt.NDArray[np.int64]]
"""``input_ids`` and ``attention_mask``, each of shape (texts, tokens)."""


def load_tokenizer(folder: Path, card: EntryCard) -> Tokenizer:
    """Load the tokenizer of a cache entry; it truncates at the model's limit."""
    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    if card.max_length is not None:
        tokenizer.enable_truncation(card.max_length)
    return tokenizer


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


def pad(encodings: Sequence[Encoding], pad_id: int) -> TokenBatch:
    """Return the tokens of a batch, with the shorter texts padded."""
    longest = max(1, *(len(encoding) for encoding in encodings))
    shape = (len(encodings), -(-longest // LENGTH_STEP) * LENGTH_STEP)
    ids = np.full(shape, pad_id, np.int64)
    mask = np.zeros(shape, np.int64)
    for row, encoding in enumerate(encodings):
        ids[row, : len(encoding)] = encoding.ids
        mask[row, : len(encoding)] = 1
    return {"input_ids": ids, "attention_mask": mask}
