"""Makes a model ready: finds the fastest backend that computes what sentence-transformers does, as
near as the class of precision asks.

Runs in a process of its own, once a model and machine: torch stays there.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
import torch
from sentence_transformers import SentenceTransformer

from broker.errors import IngestqError, ModelUnavailable, UsageError, in_one_line
from worker.embedding.backends.openvino import OpenVinoModel, supports_bfloat16
from worker.embedding.backends.torch import TorchModel, describe, fast_tokenizer, load
from worker.embedding.cache import (
    NETWORK,
    TOKENIZER,
    WEIGHTS,
    Arithmetic,
    Card,
    ModelCache,
    Proof,
    cache_key,
)
from worker.embedding.config import Backend, EmbeddingConfig, cores
from worker.embedding.convert import converted, save
from worker.embedding.models import Precision, find_model
from worker.embedding.probes import prove
from worker.embedding.quantize import quantized

LEAST: Final[dict[Arithmetic, Proof]] = {
    "float32": Proof(cosine_min=0.999, cosine_mean=0.999),
    "bfloat16": Proof(cosine_min=0.999, cosine_mean=0.999),
    "int8": Proof(cosine_min=0.95, cosine_mean=0.99),
}
"""What is further from the reference is not used."""


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


def _make(
    reference: SentenceTransformer, revision: str, config: EmbeddingConfig, folder: Path
) -> Card:
    """Fill an entry of the cache."""
    card = describe(reference, revision)
    fast_tokenizer(reference).save(str(folder / TOKENIZER))
    if config.backend is not Backend.OPENVINO:
        card = msgspec.structs.replace(card, gpus=torch.cuda.device_count())
    card = _fastest(reference, card, config, folder)
    if card.engine == "torch":
        for name in (NETWORK, WEIGHTS):  # of a candidate that failed
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
    """The card with the first candidate that proves itself, or with torch."""
    candidates = list(_candidates(card, config))
    if not candidates:
        return card
    try:
        network = converted(reference)
    except Exception as error:  # whatever a converter raises over a model it does not know
        return _with_rejected(card, [f"OpenVINO cannot run it ({in_one_line(error)})"])
    rejected: list[str] = []
    for arithmetic in candidates:
        name = f"OpenVINO in {arithmetic}"
        candidate = msgspec.structs.replace(card, engine="openvino", arithmetic=arithmetic)
        try:
            save(_network_in(arithmetic, network, folder, card), folder)
            proof = prove(OpenVinoModel(folder, candidate, cores()), TorchModel(reference))
        except IngestqError:
            raise
        except Exception as error:  # the same
            rejected.append(f"{name} cannot run it ({in_one_line(error)})")
            continue
        least = LEAST[arithmetic]
        if proof.cosine_min >= least.cosine_min and proof.cosine_mean >= least.cosine_mean:
            return _with_rejected(msgspec.structs.replace(candidate, proof=proof), rejected)
        rejected.append(
            f"{name} is too far off (cosine {proof.cosine_min:.4f}, mean {proof.cosine_mean:.4f})"
        )
    return _with_rejected(card, rejected)


def _candidates(card: Card, config: EmbeddingConfig) -> Iterator[Arithmetic]:
    """What to try, the fastest first."""
    if config.backend is Backend.TORCH or card.static or card.gpus:
        return
    if config.precision is Precision.FAST:
        yield "int8"  # what is exact is within the class too
    if supports_bfloat16():
        yield "bfloat16"
    yield "float32"


def _network_in(arithmetic: Arithmetic, network: Any, folder: Path, card: Card) -> Any:
    """The network to compute in ``arithmetic``; floating point is chosen when it is loaded."""
    return quantized(network, folder, card) if arithmetic == "int8" else network


def _with_rejected(card: Card, rejected: Sequence[str]) -> Card:
    return msgspec.structs.replace(card, rejected=tuple(rejected))
