"""Reference backend: sentence-transformers itself, for every model and device it supports."""

import math
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import torch
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding
from tokenizers import Tokenizer
from tqdm import tqdm

from worker.embedding.backends import Vectors
from worker.embedding.backends.gpus import claim_gpu
from worker.embedding.cache import Card
from worker.embedding.config import model_location

# A process that is killed cannot release semaphores, and tqdm would create one.
tqdm.set_lock(threading.RLock())

BATCH_TEXTS: Final = 16
"""On one core, larger batches are not faster."""
GPU_BATCH_TEXTS: Final = 256
STATIC_BATCH_TEXTS: Final = 2048
HUB_SECONDS: Final = 10.0
"""Time limit for asking the hub whether a model exists."""
UNLIMITED_TOKENS: Final = 10**6
"""Tokenizers without a limit name one beyond this."""
DOCUMENT_PROMPTS: Final = ("document", "passage", "corpus")
QUERY_PROMPTS: Final = ("query",)
"""Names of prompts; sentence-transformers uses the first that the model has."""

M = TypeVar("M")


def load(name: str, device: str = "cpu") -> SentenceTransformer:
    """Load a model from a folder, from the hub's cache on this machine, or from the hub.

    It computes in float32, whatever the precision of its stored weights. Raises OSError if it is
    not found.
    """
    return from_cache_or_hub(name, partial(SentenceTransformer, device=device)).float()


def from_cache_or_hub(name: str, load_model: Callable[..., M]) -> M:
    """Load the model ``name`` from a folder or the hub's cache, and else from the hub.

    ``load_model`` takes the location, and ``local_files_only``. Raises OSError if it is not found.
    The hub is asked first whether it answers: if it does not, the library would retry for every
    file that a model may have, which takes more than a minute.
    """
    location = model_location(name)
    try:
        return load_model(location, local_files_only=True)
    except OSError:
        if Path(location).is_dir():
            raise
    try:
        HfApi().model_info(location, timeout=HUB_SECONDS)
    except (HfHubHTTPError, HFValidationError):
        pass  # the hub answers; loading raises what is wrong with the name
    except Exception as error:
        raise OSError(
            f"no such folder, not in the cache, and the Hugging Face Hub does not answer: {error}"
        ) from error
    return load_model(location)


def is_static(model: SentenceTransformer) -> bool:
    """Return True if the model looks vectors up token by token instead of computing them."""
    return isinstance(model[0], StaticEmbedding)


def table_of(model: SentenceTransformer) -> Vectors:
    """Return a static model's vectors by token id; shape (tokens, dimension).

    Raises ValueError if the look-up is followed by anything but Normalize.
    """
    lookup = model[0]
    assert isinstance(lookup, StaticEmbedding), "the caller checked `is_static`"
    if not all(isinstance(module, Normalize) for module in list(model)[1:]):
        raise ValueError("the model changes the vectors that it looks up")
    table: Vectors = lookup.embedding.weight.detach().numpy()
    return table


def fast_tokenizer(model: SentenceTransformer | CrossEncoder) -> Tokenizer:
    """Return a copy of the model's tokenizer that neither truncates nor pads.

    Raises ValueError if it is not of the tokenizers library, or knows special tokens only. The
    library makes such a tokenizer if the vocabulary file is missing: all texts look the same to it.
    """
    tokenizer = model.tokenizer
    if not isinstance(tokenizer, Tokenizer):
        tokenizer = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(tokenizer, Tokenizer):
        raise ValueError("it has no fast tokenizer, which is needed to count the tokens of chunks")
    copy = Tokenizer.from_str(tokenizer.to_str())
    copy.no_padding()
    copy.no_truncation()
    special = {token.content for token in copy.get_added_tokens_decoder().values()}
    if copy.get_vocab().keys() <= special:
        raise ValueError("its tokenizer has an empty vocabulary: a file of it is missing")
    return copy


def describe(model: SentenceTransformer, revision: str) -> Card:
    """Return the card of a loaded model, with torch on the CPU as its engine."""
    dimension = model.get_embedding_dimension()
    assert dimension is not None, "every sentence-transformers model ends in a vector"
    tokenizer = fast_tokenizer(model)
    special = 0 if is_static(model) else tokenizer.num_special_tokens_to_add(is_pair=False)
    document_prompt = _prompt(model, DOCUMENT_PROMPTS)
    prompt_tokens = len(tokenizer.encode(document_prompt, add_special_tokens=False))
    limit = model.max_seq_length or math.inf
    max_length = int(limit) if limit < UNLIMITED_TOKENS else None
    return Card(
        revision=revision,
        dimension=dimension,
        longest=None if max_length is None else max_length - special - prompt_tokens,
        max_length=max_length,
        document_prompt=document_prompt,
        query_prompt=_prompt(model, QUERY_PROMPTS),
        pad_id=getattr(model.tokenizer, "pad_token_id", None) or 0,
        engine="torch",
        arithmetic="float32",
        static=is_static(model),
    )


def _prompt(model: SentenceTransformer, names: Sequence[str]) -> str:
    for name in names:
        if name in model.prompts:
            return model.prompts[name] or ""
    return model.prompts.get(model.default_prompt_name or "") or ""


class TorchModel:
    """A `LoadedModel` that sentence-transformers computes."""

    def __init__(self, model: SentenceTransformer) -> None:
        self._model = model
        self._batch_texts = BATCH_TEXTS
        if is_static(model):
            self._batch_texts = STATIC_BATCH_TEXTS
        elif model.device.type == "cuda":
            self._batch_texts = GPU_BATCH_TEXTS

    @classmethod
    def of(cls, name: str, card: Card, threads: int) -> "TorchModel":
        """Load the model ``name``, onto a GPU if the card says that there are some, or Apple's."""
        torch.set_num_threads(threads)
        if card.gpus:
            return cls(load(name, claim_gpu(card)))
        return cls(load(name, "mps" if torch.backends.mps.is_available() else "cpu"))

    def embed_documents(self, texts: Sequence[str]) -> Vectors:
        """See `LoadedModel`."""
        return self._model.encode_document(
            list(texts),
            batch_size=self._batch_texts,
            normalize_embeddings=True,
            show_progress_bar=False,
        )

    def embed_query(self, text: str) -> Vectors:
        """See `LoadedModel`."""
        return self._model.encode_query(text, normalize_embeddings=True, show_progress_bar=False)
