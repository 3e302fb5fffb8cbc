"""What runs in an embedding process. It loads the model once, when it starts."""

from collections.abc import Sequence
from dataclasses import dataclass

from ingestq.core.errors import ModelUnavailable, in_one_line
from worker.embedding.backends import LoadedModel, Vectors
from worker.embedding.cache import CacheEntry
from worker.process_pool import become_child


@dataclass(frozen=True)
class EmbeddingProcessConfig:
    """The model to load, which the cache's ``entry`` describes, and the threads it may use."""

    model: str
    entry: CacheEntry
    threads: int


_model: LoadedModel
_load_error: str | None = None


def initialize(config: EmbeddingProcessConfig) -> None:
    """Load the model. A failure is kept and raised by the first task, where it can be read."""
    global _model, _load_error
    become_child()
    try:
        _model = _load(config)
    except Exception as error:
        _load_error = in_one_line(error)


def _load(config: EmbeddingProcessConfig) -> LoadedModel:
    # Imported here, because each takes time and memory, and only one is needed.
    folder, card = config.entry.folder, config.entry.card
    match card.engine:
        case "openvino":
            from worker.embedding.backends.openvino import OpenVinoModel

            return OpenVinoModel(folder, card, config.threads)
        case "table":
            from worker.embedding.backends.static import StaticModel

            return StaticModel(folder, card)
        case "torch":
            from worker.embedding.backends.torch import TorchModel

            return TorchModel.of(config.model, card, config.threads)


def embed_documents(texts: Sequence[str]) -> Vectors:
    """Embed chunks of documents; shape (texts, dimension). Raises ModelUnavailable."""
    _check_loaded()
    return _model.embed_documents(texts)


def embed_query(text: str) -> Vectors:
    """Embed what somebody searches for; shape (dimension,). Raises ModelUnavailable."""
    _check_loaded()
    return _model.embed_query(text)


def _check_loaded() -> None:
    if _load_error is not None:
        raise ModelUnavailable(f"the model cannot be loaded: {_load_error}")
