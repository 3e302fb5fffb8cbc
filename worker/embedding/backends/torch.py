"""The reference backend: sentence-transformers itself, any model it can load."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from sentence_transformers import SentenceTransformer

from worker.embedding.models import ModelInfo, files_revision, model_location

MAX_CHUNK_TOKENS: Final = 512
"""Models that read more get chunks of this size: a larger chunk answers no question better."""
BATCH_CHUNKS: Final = 16
"""At one thread larger batches are not faster."""


HUB_SECONDS: Final = 10.0
"""How long the hub may take to say whether it knows a model."""


def _load(location: str) -> SentenceTransformer:
    """Load a model from a folder, from the hub's cache on this machine, or from the hub.

    Raises OSError if it is nowhere. The hub is first asked whether it is there at all: without it
    the library would try again for each file it could want, a minute and more.
    """
    try:
        return SentenceTransformer(location, local_files_only=True)
    except OSError:
        if Path(location).is_dir():
            raise
    try:
        HfApi().model_info(location, timeout=HUB_SECONDS)
    except (HfHubHTTPError, HFValidationError):
        pass  # it answers; loading says what is wrong with the name
    except Exception as error:
        raise OSError(
            f"no such folder, not in the cache, and the Hugging Face hub does not answer: {error}"
        ) from error
    return SentenceTransformer(location)


class TorchBackend:
    """A loaded model. Vectors are float32 of unit length, one row a text.

    Chunks are to have up to ``chunk_tokens``; without it, as many as the model reads well. Raises
    ValueError if the model does not read so many.
    """

    def __init__(self, name: str, threads: int, chunk_tokens: int | None) -> None:
        torch.set_num_threads(threads)
        self._model = _load(model_location(name))
        self._name = name
        longest = (self._model.max_seq_length or sys.maxsize) - self._special_tokens()
        if chunk_tokens is not None and chunk_tokens > longest:
            raise ValueError(
                f"it reads up to {longest} tokens, and INGESTQ_CHUNK_TOKENS is {chunk_tokens}"
            )
        self._chunk_tokens = chunk_tokens or min(longest, MAX_CHUNK_TOKENS - self._special_tokens())

    def info(self) -> ModelInfo:
        """What the pipeline has to know of the model."""
        dimension = self._model.get_embedding_dimension()
        assert dimension is not None, "every sentence-transformers model ends in a vector"
        return ModelInfo(self._name, self._revision(), dimension, self._chunk_tokens)

    def tokenizer_json(self) -> str:
        """The model's tokenizer, in the format of the tokenizers library."""
        return str(self._model.tokenizer.backend_tokenizer.to_str())

    def embed_documents(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Embed chunks of documents; shape (texts, dimension)."""
        return self._model.encode_document(
            list(texts),
            batch_size=BATCH_CHUNKS,
            normalize_embeddings=True,
            show_progress_bar=False,
        )

    def embed_query(self, text: str) -> npt.NDArray[np.float32]:
        """Embed what somebody searches for; shape (dimension,)."""
        return self._model.encode_query(text, normalize_embeddings=True, show_progress_bar=False)

    def _special_tokens(self) -> int:
        return int(self._model.tokenizer.num_special_tokens_to_add())

    def _revision(self) -> str:
        location = Path(model_location(self._name))
        if location.is_dir():
            return files_revision(location)
        # The commit on the hub, which transformers keeps in the configuration.
        transformer: Any = self._model[0]
        return str(getattr(transformer.auto_model.config, "_commit_hash", None) or "unknown")
