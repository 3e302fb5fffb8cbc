"""Builds a model's cache entry: finds the fastest engine that agrees with sentence-transformers.

Runs in a process of its own, because it imports torch.
"""

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
from worker.embedding.backends.cuda import KINDS, CudaModel
from worker.embedding.backends.gpus import processes_on
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
from worker.embedding.conversion import calibration, convert, quantize, save
from worker.embedding.probes import PROBES


def compare(model: LoadedModel, reference: LoadedModel) -> Proof:
    """Compare the two models' vectors of `PROBES`, as documents and as queries.

    Raises ValueError if the vectors of ``model`` have another dimension or are not finite.
    """
    documents = model.embed_documents(PROBES), reference.embed_documents(PROBES)
    queries = [(model.embed_query(text), reference.embed_query(text)) for text in PROBES]
    mine = np.vstack([documents[0], *(row for row, _ in queries)])
    theirs = np.vstack([documents[1], *(row for _, row in queries)])
    cosines = np.einsum("ij,ij->i", mine, theirs)
    if not np.isfinite(cosines).all():
        raise ValueError("its vectors are not finite numbers")
    return Proof(float(cosines.min()), float(cosines.mean()))


REQUIRED: Final[dict[Arithmetic, Proof]] = {
    "float32": Proof(cosine_min=0.999, cosine_mean=0.999),
    "float16": Proof(cosine_min=0.999, cosine_mean=0.999),
    "bfloat16": Proof(cosine_min=0.999, cosine_mean=0.999),
    "int8": Proof(cosine_min=0.95, cosine_mean=0.99),
}
"""How near to the reference each arithmetic has to be."""


def build(config: EmbeddingConfig) -> None:
    """Build and store the cache entry of ``config.model``.

    Raises ModelUnavailable if the model cannot be loaded, and UsageError if the configured backend
    cannot compute it, or the cache cannot be written.
    """
    try:
        reference = load(config.model)
        files = find_model(config.model)
        if files is None:
            raise OSError("it was loaded, but its files are not in the cache of the hub")
        key = cache_key(files.revision, config.backend, config.precision)
        fill = partial(_fill_entry, reference, files.revision, config)
        ModelCache(config.cache_dir, Card).store(key, fill)
    except IngestqError:
        raise
    except Exception as error:  # libraries raise anything over a damaged model
        raise ModelUnavailable(in_one_line(error)) from error


@dataclass(frozen=True)
class Candidate:
    """An engine that may compute the model, if its vectors are near enough to the reference.

    ``write`` writes the files that ``load`` needs; ``required`` is how near its vectors have to be.
    """

    name: str
    card: Card
    required: Proof
    write: Callable[[], None]
    load: Callable[[], LoadedModel]


def _fill_entry(
    reference: SentenceTransformer, revision: str, config: EmbeddingConfig, folder: Path
) -> Card:
    """Write the files of a cache entry into ``folder``; return its card."""
    card = describe(reference, revision)
    fast_tokenizer(reference).save(str(folder / TOKENIZER))
    if config.backend is not Backend.OPENVINO and not card.static:
        card = _with_gpus(card, reference)
    card = _fastest(reference, card, config, folder)
    if card.engine == "torch":
        for name in (NETWORK, WEIGHTS, TABLE):  # left by a candidate that was rejected
            (folder / name).unlink(missing_ok=True)
        if config.backend is Backend.OPENVINO:
            reasons = "; ".join(card.rejected) or "it is a static model"
            raise UsageError(
                f"INGESTQ_BACKEND is 'openvino', but {config.model!r} needs 'torch' or 'auto': "
                + reasons
            )
    return card


def _with_gpus(card: Card, reference: SentenceTransformer) -> Card:
    """Return the card with the GPUs of this machine, if there are any."""
    gpus = torch.cuda.device_count()
    if not gpus:
        return card
    weights = sum(weight.nbytes for weight in reference.state_dict().values())
    return msgspec.structs.replace(card, gpus=gpus, gpu_processes=processes_on(gpus, weights))


def _fastest(
    reference: SentenceTransformer, card: Card, config: EmbeddingConfig, folder: Path
) -> Card:
    """Return the card with the first candidate that is near enough, or with torch."""
    try:
        candidates = list(_candidates(reference, card, config, folder))
    except Exception as error:  # converters raise anything over an unknown model
        return _with_rejected(card, [f"OpenVINO cannot run it ({in_one_line(error)})"])
    rejected: list[str] = []
    for candidate in candidates:
        try:
            candidate.write()
            proof = compare(candidate.load(), TorchModel(reference))
        except IngestqError:
            raise
        except Exception as error:  # as above
            rejected.append(f"{candidate.name} cannot run it ({in_one_line(error)})")
            continue
        required = candidate.required
        if proof.cosine_min >= required.cosine_min and proof.cosine_mean >= required.cosine_mean:
            return _with_rejected(msgspec.structs.replace(candidate.card, proof=proof), rejected)
        rejected.append(
            f"{candidate.name} is too inaccurate "
            f"(cosine {proof.cosine_min:.4f}, mean {proof.cosine_mean:.4f})"
        )
    return _with_rejected(card, rejected)


def _candidates(
    reference: SentenceTransformer, card: Card, config: EmbeddingConfig, folder: Path
) -> Iterator[Candidate]:
    """Yield the candidates, the fastest first. Raises whatever a converter raises."""
    if config.backend is Backend.TORCH:
        return
    if card.gpus:
        for arithmetic in KINDS:
            yield _cuda_candidate(config.model, card, arithmetic, folder)
        return
    if card.static:
        if config.backend is not Backend.OPENVINO:
            yield _table_candidate(reference, card, folder)
        return
    network = convert(reference)
    for arithmetic in arithmetics(config.precision):
        yield _openvino_candidate(network, card, arithmetic, folder)


def arithmetics(precision: Precision) -> Iterator[Arithmetic]:
    """Yield the arithmetics in which OpenVINO may compute, the fastest first."""
    if precision is Precision.FAST:
        yield "int8"  # the exact ones that follow satisfy this class too
    if supports_bfloat16():
        yield "bfloat16"
    yield "float32"


def _table_candidate(reference: SentenceTransformer, card: Card, folder: Path) -> Candidate:
    card = msgspec.structs.replace(card, engine="table")

    def write() -> None:
        np.save(folder / TABLE, table_of(reference))

    return Candidate(
        "a table", card, REQUIRED[card.arithmetic], write, partial(StaticModel, folder, card)
    )


def _cuda_candidate(model: str, card: Card, arithmetic: Arithmetic, folder: Path) -> Candidate:
    card = msgspec.structs.replace(card, engine="cuda", arithmetic=arithmetic)
    return Candidate(
        f"a GPU in {arithmetic}",
        card,
        REQUIRED[arithmetic],
        write=lambda: None,
        load=lambda: CudaModel(model, folder, card, "cuda:0"),
    )


def _openvino_candidate(
    network: Any, card: Card, arithmetic: Arithmetic, folder: Path
) -> Candidate:
    card = msgspec.structs.replace(card, engine="openvino", arithmetic=arithmetic)

    def write() -> None:
        save(_network_in(arithmetic, network, folder, card), folder)

    return Candidate(
        f"OpenVINO in {arithmetic}",
        card,
        REQUIRED[arithmetic],
        write,
        partial(OpenVinoModel, folder, card, cores()),
    )


def _network_in(arithmetic: Arithmetic, network: Any, folder: Path, card: Card) -> Any:
    """Return the network for ``arithmetic``. Floating-point types are chosen at loading."""
    return quantize(network, calibration(folder, card)) if arithmetic == "int8" else network


def _with_rejected(card: Card, rejected: Sequence[str]) -> Card:
    return msgspec.structs.replace(card, rejected=tuple(rejected))
