"""What is asked for: which model, computed how, in how many processes."""

import os
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

from worker.embedding.models import DEFAULT_MODEL, Precision

ANSWER_SECONDS: Final = 120.0
"""Ollama may have to load the model first."""
PATIENCE_SECONDS: Final = 20.0
"""How long a request is repeated in place."""


def cores() -> int:
    """Processor cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Backend(StrEnum):
    """What computes the vectors.

    ``auto`` is the endpoint if there is one, else the fastest that proved itself with the model.
    """

    AUTO = "auto"
    OPENVINO = "openvino"
    TORCH = "torch"
    HTTP = "http"


@dataclass(frozen=True)
class HttpConfig:
    """Which ``model`` to ask at ``url``, which ends before ``/embeddings``.

    The prompts are put before each text: many models want to know what is a question. Up to
    ``concurrency`` requests are to be under way at once; one may take ``answer_seconds``, and is
    repeated for ``patience_seconds``.
    """

    url: str
    model: str
    api_key: str | None = field(default=None, repr=False)
    query_prompt: str = ""
    document_prompt: str = ""
    concurrency: int = 4
    answer_seconds: float = ANSWER_SECONDS
    patience_seconds: float = PATIENCE_SECONDS


@dataclass(frozen=True)
class EmbeddingConfig:
    """Which model to run in how many processes, and what it is to be given.

    With an ``endpoint`` the model is not run here, but asked there. ``cache_dir`` keeps models that
    were made ready. ``pool_size`` processes embed; on GPUs, one for each. ``preparers`` processes
    read, parse and cut documents of up to ``max_document_bytes``, for a ``hybrid`` collection or
    for one without sparse vectors. Chunks have up to ``chunk_tokens``; without it, as many as the
    model reads well.
    """

    cache_dir: Path
    model: str = DEFAULT_MODEL
    endpoint: HttpConfig | None = None
    backend: Backend = Backend.AUTO
    precision: Precision = Precision.EXACT
    pool_size: int = 1
    preparers: int = 1
    max_document_bytes: int = 64 * 1024 * 1024
    hybrid: bool = True
    chunk_tokens: int | None = None
