"""What runs in a child of the pool. The model is loaded once a child, when it starts."""

import logging
import multiprocessing
import os
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from broker.contract import Document
from broker.errors import ModelUnavailable
from worker.embedding.models import ModelInfo
from worker.points import QueryVectors
from worker.prepare import Prepared, Unprepared, prepare

if TYPE_CHECKING:
    from worker.chunk import Chunker
    from worker.embedding.backends.torch import TorchBackend
    from worker.sparse import SparseEncoder

_backend: "TorchBackend"
_chunker: "Chunker"
_sparse: "SparseEncoder"
_hybrid: bool
_load_error: str | None = None


def initialize(model: str, threads: int, hybrid: bool, chunk_tokens: int | None) -> None:
    """Load the model. A failure is kept and raised by the first task, where it can be read.

    Documents are prepared for a ``hybrid`` collection, or for one without sparse vectors.
    """
    global _backend, _chunker, _sparse, _hybrid, _load_error
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ["TQDM_DISABLE"] = "1"
    logging.disable(logging.WARNING)  # what goes wrong is raised; the libraries only chat
    # A child that is stopped cannot give semaphores back; joblib and tqdm would make some.
    os.environ["JOBLIB_MULTIPROCESSING"] = "0"
    # Imported here, because only children may load them.
    from tqdm import tqdm

    from worker.chunk import Chunker
    from worker.embedding.backends.torch import TorchBackend
    from worker.sparse import SparseEncoder

    tqdm.set_lock(threading.RLock())
    try:
        _sparse, _hybrid = SparseEncoder(), hybrid
        _backend = TorchBackend(model, threads, chunk_tokens)
        _chunker = Chunker(_backend.tokenizer_json(), _backend.info().max_tokens)
    except Exception as error:
        _load_error = f"{type(error).__name__}: {str(error).splitlines()[0]}"


def describe() -> ModelInfo:
    """Say what was loaded. Raises ModelUnavailable if nothing was."""
    _check_loaded()
    return _backend.info()


def prepare_document(
    document: Document, known_hash: str | None, max_bytes: int
) -> Prepared | Unprepared:
    """See `worker.prepare.prepare`."""
    _check_loaded()
    return prepare(document, known_hash, max_bytes, _chunker, _sparse.document if _hybrid else None)


def embed_documents(texts: Sequence[str]) -> npt.NDArray[np.float32]:
    """Embed chunks of documents; shape (texts, dimension)."""
    _check_loaded()
    return _backend.embed_documents(texts)


def embed_query(text: str) -> QueryVectors:
    """Embed what somebody searches for."""
    _check_loaded()
    return QueryVectors(_backend.embed_query(text).tolist(), _sparse.query(text))


def _check_loaded() -> None:
    if _load_error is not None:
        raise ModelUnavailable(_load_error)


def _exit_with_parent() -> None:
    """End this process when its parent is gone, however it went: nobody else would."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "runs in a child only"
    parent.join()
    os._exit(1)
