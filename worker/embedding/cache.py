"""The model cache on disk: prepared models, each with a card that describes it.

An entry is a folder, named by a digest of everything that decides its content. It holds
``card.json``, the tokenizer and, for OpenVINO, the converted model, or the table of a static one.
An entry appears complete, in one step, and its files are checked against their digests before use.
"""

import hashlib
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final, Generic, Literal, TypeVar

import msgspec
from filelock import FileLock
from msgspec import Struct

from ingestq.core.errors import UsageError
from worker.embedding.config import Backend, Precision, file_digest

FORMAT: Final = 3
"""Raise it when entries are built in another way or hold something else."""
CARD: Final = "card.json"
TOKENIZER: Final = "tokenizer.json"
NETWORK: Final = "model.xml"
WEIGHTS: Final = "model.bin"
TABLE: Final = "table.npy"
UNFINISHED: Final = ".unfinished"

PROCESSOR_FEATURES: Final = frozenset(
    {"amx_bf16", "amx_int8", "avx2", "avx512_bf16", "avx512_vnni", "avx512f", "avx_vnni", "asimd"}
)
"""CPU features, in Linux's names, that decide which arithmetic is fast and how it rounds."""
NVIDIA: Final = Path("/dev/nvidiactl")

Arithmetic = Literal["float32", "float16", "bfloat16", "int8"]


class Proof(Struct, frozen=True):
    """How near an engine's vectors of test texts are to those of sentence-transformers."""

    cosine_min: float
    cosine_mean: float


class EntryCard(Struct, frozen=True, kw_only=True):
    """What every prepared model has.

    ``max_length`` is the most tokens that it reads, with special tokens and prompts: the tokenizer
    truncates there; None if there is no limit. ``pad_id`` pads shorter texts of a batch.
    ``rejected`` has the reasons why faster engines than ``engine`` are not used, ``files`` the
    digests of the entry's other files.
    """

    revision: str
    max_length: int | None
    pad_id: int
    engine: Literal["cuda", "openvino", "table", "torch"]
    arithmetic: Arithmetic
    rejected: tuple[str, ...] = ()
    files: dict[str, str] = {}


class Card(EntryCard, frozen=True, kw_only=True):
    """A prepared embedding model: its properties, and the fastest engine that computes it here.

    ``longest`` is the most tokens of a text that the model reads, without special tokens and
    ``document_prompt``; None if there is no limit. ``gpus`` is the number of GPUs that torch can
    use, which ``gpu_processes`` share. ``static`` models look vectors up instead of computing them.
    """

    dimension: int
    longest: int | None
    document_prompt: str
    query_prompt: str
    gpus: int = 0
    gpu_processes: int = 0
    static: bool = False
    proof: Proof | None = None


C = TypeVar("C", bound=EntryCard)


class CacheKey(Struct, frozen=True):
    """Everything that decides the content of an entry."""

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
class CacheEntry(Generic[C]):
    """A complete entry of the cache."""

    folder: Path
    card: C


class ModelCache(Generic[C]):
    """The cache in ``folder``, which is created when the first entry is stored.

    It reads entries with cards of the class ``card``.
    """

    def __init__(self, folder: Path, card: type[C]) -> None:
        self._folder = folder
        self._card = card

    def load(self, key: CacheKey) -> CacheEntry[C] | None:
        """Return the entry of ``key``; None if it is missing or damaged."""
        folder = self._folder / key.digest
        try:
            card = msgspec.json.decode((folder / CARD).read_bytes(), type=self._card)
            if all(_digest(folder / name) == digest for name, digest in card.files.items()):
                return CacheEntry(folder, card)
        except (OSError, msgspec.DecodeError):
            pass
        return None

    def store(self, key: CacheKey, build: Callable[[Path], C]) -> CacheEntry[C]:
        """Return the entry of ``key``; build it if it is missing or damaged.

        ``build`` is called with an empty folder to fill, unless another process stores the entry
        meanwhile.

        Raises UsageError if the cache cannot be written, and what ``build`` raises.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self._folder / f"{key.digest}.lock"):
                return self.load(key) or self._build(key, build)
        except OSError as error:
            raise UsageError(
                f"the model cannot be kept in {self._folder}: {error.strerror or error}; set "
                "INGESTQ_CACHE_DIR to a folder that is writable"
            ) from error

    def _build(self, key: CacheKey, build: Callable[[Path], C]) -> CacheEntry[C]:
        unfinished = self._folder / (key.digest + UNFINISHED)
        _remove(unfinished)  # left by a process that was killed
        unfinished.mkdir()
        try:
            card = build(unfinished)
            files = {path.name: _digest(path) for path in unfinished.iterdir()}
            card = msgspec.structs.replace(card, files=files)
            (unfinished / CARD).write_bytes(msgspec.json.encode(card))
            folder = self._folder / key.digest
            _remove(folder)  # damaged, or `load` would have returned it
            unfinished.rename(folder)
        finally:
            _remove(unfinished)
        return CacheEntry(folder, card)


def cache_key(revision: str, backend: Backend, precision: Precision) -> CacheKey:
    """Return the key of a model's entry for this machine and the installed packages."""
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
    except PackageNotFoundError:  # the code that needs it raises a better error
        return ""


@cache
def _processor() -> str:
    """Return the CPU's architecture and, on Linux, its features among `PROCESSOR_FEATURES`."""
    features: frozenset[str] = frozenset()
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        for line in text.splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("flags", "Features"):
                features = PROCESSOR_FEATURES.intersection(value.split())
                break
    except OSError:
        pass
    return " ".join([platform.machine(), *sorted(features)])


def _remove(path: Path) -> None:
    """Delete the file or folder at ``path``, if there is one."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _digest(path: Path) -> str:
    return file_digest(path, 16).hex()
