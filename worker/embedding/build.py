"""Makes a model ready: finds the fastest backend that computes what sentence-transformers does."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from ingestq.core.errors import IngestqError, ModelUnavailable, UsageError, in_one_line
from worker.embedding.backends import LoadedModel
from worker.embedding.backends.openvino import OpenVinoModel, supports_bfloat16
from worker.embedding.backends.static import StaticModel
from worker.embedding.backends.torch import TorchModel, describe, fast_tokenizer, load, table_of
from worker.embedding.cache import (
    NETWORK,
    TABLE,
    TOKENIZER,
    WEIGHTS,
    Arithmetic,
    Card,
    ModelCache,
    Proof,
    cache_key,
)
from worker.embedding.config import Backend, EmbeddingConfig, Precision, cores, find_model
from worker.embedding.conversion import converted, quantized, save

SENTENCE: Final = "The keeper of the lighthouse writes the weather of each hour into a thick book. "
PROBES: Final = (
    "a",
    "No.",
    "ALL CAPITALS, Some Capitals, naïve façade — “quotes” …",
    SENTENCE,
    SENTENCE * 3,
    "def area(radius: float) -> float:\n    return math.pi * radius**2  # square metres\n",
    "| year | harvest |\n|---|---|\n| 1931 | 12.5 t |\n| 1932 | 9.75 t |\n",
    "Der Leuchtturmwärter schreibt jede Stunde das Wetter in ein dickes Buch.",
    "Смотритель маяка записывает погоду каждого часа.",
    "灯台守は毎時間の天気を厚い本に書き込む。",
    "حارس المنارة يكتب حالة الطقس كل ساعة في كتاب سميك.",
    "🌊🗼📖",
    " ".join(f"{n} {n * n} {n * n * n}" for n in range(12)),
    SENTENCE * 10,
    "Of wind, tide and cloud. " * 30,
    SENTENCE * 40,
)
"""Of one character up to more than most models read; of several scripts, code and numbers. Those of
other lengths share a batch."""


def prove(model: LoadedModel, reference: LoadedModel) -> Proof:
    """Compare the vectors of the probes, as documents and as queries.

    Raises ValueError if ``model`` gives no vectors of that size, or no numbers.
    """
    documents = model.embed_documents(PROBES), reference.embed_documents(PROBES)
    queries = [(model.embed_query(text), reference.embed_query(text)) for text in PROBES]
    mine = np.vstack([documents[0], *(row for row, _ in queries)])
    theirs = np.vstack([documents[1], *(row for _, row in queries)])
    cosines = np.einsum("ij,ij->i", mine, theirs)
    if not np.isfinite(cosines).all():
        raise ValueError("it gives vectors that are no numbers")
    return Proof(float(cosines.min()), float(cosines.mean()))


LEAST: Final[dict[Arithmetic, Proof]] = {
    "float32": Proof(cosine_min=0.999, cosine_mean=0.999),
    "bfloat16": Proof(cosine_min=0.999, cosine_mean=0.999),
    "int8": Proof(cosine_min=0.95, cosine_mean=0.99),
}
"""How near the reference an arithmetic has to come."""


def build(config: EmbeddingConfig) -> None:
    """Store what ``config.model`` needs in the cache.

    Raises ModelUnavailable if it cannot be loaded, or not as ``config`` wants it, and UsageError if
    the cache cannot be written.
    """
    try:
        reference = load(config.model)
        files = find_model(config.model)
        if files is None:
            raise OSError("it was loaded, but is not where it should be kept")
        key = cache_key(files.revision, config.backend, config.precision)
        make = partial(_make, reference, files.revision, config)
        ModelCache(config.cache_dir).store(key, make)
    except IngestqError:
        raise
    except Exception as error:  # a folder may hold anything
        raise ModelUnavailable(in_one_line(error)) from error


@dataclass(frozen=True)
class Candidate:
    """A way to compute a model, which is to prove itself. ``write`` puts into a folder what
    ``load`` needs; vectors that are further from the reference than ``least`` are not used."""

    name: str
    card: Card
    least: Proof
    write: Callable[[], None]
    load: Callable[[], LoadedModel]


def _make(
    reference: SentenceTransformer, revision: str, config: EmbeddingConfig, folder: Path
) -> Card:
    """Fill an entry of the cache."""
    card = describe(reference, revision)
    fast_tokenizer(reference).save(str(folder / TOKENIZER))
    if config.backend is not Backend.OPENVINO and not card.static:
        card = msgspec.structs.replace(card, gpus=torch.cuda.device_count())
    card = _fastest(reference, card, config, folder)
    if card.engine == "torch":
        for name in (NETWORK, WEIGHTS, TABLE):  # of a candidate that failed
            (folder / name).unlink(missing_ok=True)
        if config.backend is Backend.OPENVINO:
            reasons = "; ".join(card.rejected) or "its vectors are only looked up"
            raise UsageError(
                f"INGESTQ_BACKEND is 'openvino', and {config.model!r} needs 'torch' or 'auto': "
                + reasons
            )
    return card


def _fastest(
    reference: SentenceTransformer, card: Card, config: EmbeddingConfig, folder: Path
) -> Card:
    """Return the card of the first candidate that proves itself, else of torch."""
    try:
        candidates = list(_candidates(reference, card, config, folder))
    except Exception as error:  # whatever a converter raises over a model it does not know
        return _with_rejected(card, [f"OpenVINO cannot run it ({in_one_line(error)})"])
    rejected: list[str] = []
    for candidate in candidates:
        try:
            candidate.write()
            proof = prove(candidate.load(), TorchModel(reference))
        except IngestqError:
            raise
        except Exception as error:  # the same
            rejected.append(f"{candidate.name} cannot run it ({in_one_line(error)})")
            continue
        least = candidate.least
        if proof.cosine_min >= least.cosine_min and proof.cosine_mean >= least.cosine_mean:
            return _with_rejected(msgspec.structs.replace(candidate.card, proof=proof), rejected)
        rejected.append(
            f"{candidate.name} is too far off "
            f"(cosine {proof.cosine_min:.4f}, mean {proof.cosine_mean:.4f})"
        )
    return _with_rejected(card, rejected)


def _candidates(
    reference: SentenceTransformer, card: Card, config: EmbeddingConfig, folder: Path
) -> Iterator[Candidate]:
    """Yield what to try, the fastest first. Raises whatever a converter raises."""
    if config.backend is Backend.TORCH or card.gpus:
        return
    if card.static:
        if config.backend is not Backend.OPENVINO:
            yield _table(reference, card, folder)
        return
    network = converted(reference)
    for arithmetic in _arithmetics(config.precision):
        yield _openvino(network, card, arithmetic, folder)


def _arithmetics(precision: Precision) -> Iterator[Arithmetic]:
    """Yield the arithmetics in which OpenVINO may compute, the fastest first."""
    if precision is Precision.FAST:
        yield "int8"  # what is exact is within the class too
    if supports_bfloat16():
        yield "bfloat16"
    yield "float32"


def _table(reference: SentenceTransformer, card: Card, folder: Path) -> Candidate:
    card = msgspec.structs.replace(card, engine="table")

    def write() -> None:
        np.save(folder / TABLE, table_of(reference))

    return Candidate(
        "a table", card, LEAST[card.arithmetic], write, partial(StaticModel, folder, card)
    )


def _openvino(network: Any, card: Card, arithmetic: Arithmetic, folder: Path) -> Candidate:
    card = msgspec.structs.replace(card, engine="openvino", arithmetic=arithmetic)

    def write() -> None:
        save(_network_in(arithmetic, network, folder, card), folder)

    return Candidate(
        f"OpenVINO in {arithmetic}",
        card,
        LEAST[arithmetic],
        write,
        partial(OpenVinoModel, folder, card, cores()),
    )


def _network_in(arithmetic: Arithmetic, network: Any, folder: Path, card: Card) -> Any:
    """Return the network for ``arithmetic``; floating point is chosen when it is loaded."""
    return quantized(network, folder, card) if arithmetic == "int8" else network


def _with_rejected(card: Card, rejected: Sequence[str]) -> Card:
    return msgspec.structs.replace(card, rejected=tuple(rejected))
