"""Models that were made ready once, on disk: what is known of each, and what its children load.

An entry is a folder whose name is made of everything that decides what is in it; it holds
``card.json``, the tokenizer and, for OpenVINO, the converted model, or the table of a static one.
It appears in one step, complete, and its files are compared with their digests before they are
believed.
"""

import hashlib
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final, Literal

import msgspec
from filelock import FileLock
from msgspec import Struct

from ingestq.core.errors import UsageError
from worker.embedding.config import Backend, Precision

FORMAT: Final = 2
"""Raise it when entries are made in another way, or hold something else."""
CARD: Final = "card.json"
TOKENIZER: Final = "tokenizer.json"
NETWORK: Final = "model.xml"
WEIGHTS: Final = "model.bin"
TABLE: Final = "table.npy"
UNFINISHED: Final = ".unfinished"

PROCESSOR_FEATURES: Final = frozenset(
    {"amx_bf16", "amx_int8", "avx2", "avx512_bf16", "avx512_vnni", "avx512f", "avx_vnni", "asimd"}
)
"""What decides which arithmetic is fast, and what it rounds to; as Linux names it."""
NVIDIA: Final = Path("/dev/nvidiactl")

Arithmetic = Literal["float32", "bfloat16", "int8"]


class Proof(Struct, frozen=True):
    """How near an engine's vectors of the probe texts are to those of sentence-transformers."""

    cosine_min: float
    cosine_mean: float


class Card(Struct, frozen=True, kw_only=True):
    """What is known of a model, and which engine computes it best here.

    ``longest`` is the most tokens of a text that the model reads, special tokens and
    ``document_prompt`` not counted; None if there is no limit. ``max_length`` is the same for the
    tokenizer, everything counted. ``pad_id`` fills up shorter texts of a batch. ``gpus`` is how
    many GPUs torch can use; ``static`` says that a vector is looked up, not computed. ``rejected``
    says why faster engines were not taken, ``files`` has the digests of the entry's other files.
    """

    revision: str
    dimension: int
    longest: int | None
    max_length: int | None
    document_prompt: str
    query_prompt: str
    pad_id: int
    engine: Literal["openvino", "table", "torch"]
    arithmetic: Arithmetic
    gpus: int = 0
    static: bool = False
    proof: Proof | None = None
    rejected: tuple[str, ...] = ()
    files: dict[str, str] = {}


class CacheKey(Struct, frozen=True):
    """Everything that decides what is in an entry."""

    revision: str
    backend: Backend
    precision: Precision
    processor: str
    nvidia: bool
    versions: tuple[str, ...]
    format: int = FORMAT

    @property
    def digest(self) -> str:
        """The name of the entry."""
        return hashlib.blake2b(msgspec.msgpack.encode(self), digest_size=12).hexdigest()


@dataclass(frozen=True)
class CacheEntry:
    """An entry of the cache that was found complete."""

    folder: Path
    card: Card


class ModelCache:
    """The entries in ``folder``, which is made when the first is stored."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load(self, key: CacheKey) -> CacheEntry | None:
        """Return the entry of ``key``; None if there is none, or if it is damaged."""
        folder = self._folder / key.digest
        try:
            card = msgspec.json.decode((folder / CARD).read_bytes(), type=Card)
            if all(_digest(folder / name) == digest for name, digest in card.files.items()):
                return CacheEntry(folder, card)
        except (OSError, msgspec.DecodeError):
            pass
        return None

    def store(self, key: CacheKey, make: Callable[[Path], Card]) -> CacheEntry:
        """Return the entry of ``key``; make it if there is none.

        ``make`` is called with an empty folder to fill, unless another process stores the entry
        meanwhile.

        Raises UsageError if the cache cannot be written, and what ``make`` raises.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self._folder / f"{key.digest}.lock"):
                return self.load(key) or self._make(key, make)
        except OSError as error:
            raise UsageError(
                f"the model cannot be kept in {self._folder}: {error.strerror or error}; set "
                "INGESTQ_CACHE_DIR to a folder that can be written"
            ) from error

    def _make(self, key: CacheKey, make: Callable[[Path], Card]) -> CacheEntry:
        unfinished = self._folder / (key.digest + UNFINISHED)
        _remove(unfinished)  # of a process that was killed
        unfinished.mkdir()
        try:
            card = make(unfinished)
            files = {path.name: _digest(path) for path in unfinished.iterdir()}
            card = msgspec.structs.replace(card, files=files)
            (unfinished / CARD).write_bytes(msgspec.json.encode(card))
            folder = self._folder / key.digest
            _remove(folder)  # damaged, else it would have been loaded
            unfinished.rename(folder)
        finally:
            _remove(unfinished)
        return CacheEntry(folder, card)


def cache_key(revision: str, backend: Backend, precision: Precision) -> CacheKey:
    """Return the key of a model's entry on this machine, with what is installed now."""
    libraries = ["openvino", "sentence-transformers", "tokenizers"]
    if precision is Precision.FAST:
        libraries.append("nncf")
    return CacheKey(
        revision=revision,
        backend=backend,
        precision=precision,
        processor=_processor(),
        nvidia=NVIDIA.exists(),
        versions=tuple(_version(library) for library in libraries),
    )


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:  # whoever needs it says so
        return ""


@cache
def _processor() -> str:
    """Return the kind of processor, as far as it decides how to compute.

    Outside Linux only the architecture is known.
    """
    features: frozenset[str] = frozenset()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("flags", "Features"):
                features = PROCESSOR_FEATURES.intersection(value.split())
                break
    except OSError:
        pass
    return " ".join([platform.machine(), *sorted(features)])


def _remove(path: Path) -> None:
    """Remove what is at ``path``, if there is anything."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
