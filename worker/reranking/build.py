"""Builds a cross encoder's cache entry: finds the fastest engine that agrees with the reference.

Runs in a process of its own, because it imports torch.
"""

import warnings
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import torch
from sentence_transformers import CrossEncoder

from ingestq.core.errors import IngestqError, ModelUnavailable, in_one_line
from worker.embedding.backends.batches import load_tokenizer
from worker.embedding.backends.openvino import openvino
from worker.embedding.backends.torch import UNLIMITED_TOKENS, fast_tokenizer
from worker.embedding.build import arithmetics
from worker.embedding.cache import NETWORK, TOKENIZER, WEIGHTS, Arithmetic, ModelCache
from worker.embedding.config import Precision, cores, find_model
from worker.embedding.conversion import (
    CALIBRATION_TOKENS,
    calibration_texts,
    quantize,
    save,
)
from worker.embedding.probes import PROBES
from worker.reranking.card import CrossEncoderCard, cross_encoder_key
from worker.reranking.config import HUB_NAMESPACE, RerankerConfig
from worker.reranking.cross_encoder import LoadedCrossEncoder
from worker.reranking.openvino import OpenVinoCrossEncoder, token_batch
from worker.reranking.torch import TorchCrossEncoder, load_cross_encoder

LARGEST_DIFFERENCE: Final[dict[Arithmetic, float]] = {
    "int8": 0.10,
    "bfloat16": 0.02,
    "float32": 0.001,
}
"""How far a score may be from the reference, as a share of the range of the reference's scores: it
decides between two hits only if they are nearly as good."""
QUERY_CHARACTERS: Final = 60
"""Length of the queries to calibrate with, which are the beginnings of the texts."""
QUERIES: Final = ("weather", "Who writes down the weather on the lighthouse?")


class _PairModel(torch.nn.Module):
    """The model as a function of token batches, a form that the converter can trace."""

    def __init__(self, model: CrossEncoder) -> None:
        super().__init__()
        assert model.model is not None, "`_convert` checked it"
        self._network = model.model
        assert model.activation_fn is not None, "its constructor set it"
        self._activation = model.activation_fn

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        if token_type_ids is not None:
            inputs["token_type_ids"] = token_type_ids
        scores: torch.Tensor = self._activation(self._network(**inputs).logits)
        return scores


def build_cross_encoder(config: RerankerConfig) -> None:
    """Build and store the cache entry of ``config.model``.

    Raises ModelUnavailable if it cannot be loaded or is no cross encoder, and UsageError if the
    cache cannot be written.
    """
    try:
        reference = load_cross_encoder(config.model)
        files = find_model(config.model, HUB_NAMESPACE)
        if files is None:
            raise OSError("it was loaded, but its files are not in the cache of the hub")
        fill = partial(_fill_entry, reference, files.revision, config.precision)
        cache = ModelCache(config.cache_dir, CrossEncoderCard)
        cache.store(cross_encoder_key(files.revision, config.precision), fill)
    except IngestqError:
        raise
    except Exception as error:  # libraries raise anything over a damaged model
        raise ModelUnavailable(in_one_line(error)) from error


def _fill_entry(
    reference: CrossEncoder, revision: str, precision: Precision, folder: Path
) -> CrossEncoderCard:
    """Write the files of a cache entry into ``folder``; return its card."""
    fast_tokenizer(reference).save(str(folder / TOKENIZER))
    card = _describe(reference, revision)
    rejected: list[str] = []
    try:
        network = _convert(reference, card)
        for arithmetic in arithmetics(precision):
            save(_network_in(arithmetic, network, folder, card), folder)
            candidate = msgspec.structs.replace(card, engine="openvino", arithmetic=arithmetic)
            loaded = OpenVinoCrossEncoder(folder, candidate, cores())
            difference = _difference(loaded, TorchCrossEncoder(reference))
            if difference <= LARGEST_DIFFERENCE[candidate.arithmetic]:
                return msgspec.structs.replace(
                    candidate, difference=difference, rejected=tuple(rejected)
                )
            rejected.append(
                f"OpenVINO in {arithmetic} is too inaccurate (a score is off by {difference:.1%} "
                "of their range)"
            )
    except IngestqError:
        raise
    except Exception as error:  # converters raise anything over an unknown model
        rejected.append(f"OpenVINO cannot run it ({in_one_line(error)})")
    for name in (NETWORK, WEIGHTS):
        (folder / name).unlink(missing_ok=True)
    return msgspec.structs.replace(card, rejected=tuple(rejected))


def _describe(model: CrossEncoder, revision: str) -> CrossEncoderCard:
    """Return the card of a loaded model, with torch as its engine."""
    limit = model.max_seq_length
    return CrossEncoderCard(
        revision=revision,
        max_length=int(limit) if limit and limit < UNLIMITED_TOKENS else None,
        pad_id=getattr(model.tokenizer, "pad_token_id", None) or 0,
        engine="torch",
        arithmetic="float32",
        has_types="token_type_ids" in model.tokenizer.model_input_names,
    )


def _convert(model: CrossEncoder, card: CrossEncoderCard) -> Any:
    """Convert ``model`` to an ``openvino.Model``. Raises whatever OpenVINO raises."""
    if len(list(model)) != 1 or model.model is None:
        raise ValueError("it has more than one module")
    ones = torch.ones((2, 8), dtype=torch.long)
    example = {"input_ids": ones, "attention_mask": ones}
    if card.has_types:
        example["token_type_ids"] = torch.zeros_like(ones)
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from tracing; the caller checks the scores instead
        return openvino.convert_model(_PairModel(model).eval(), example_input=example)


def _network_in(arithmetic: Arithmetic, network: Any, folder: Path, card: CrossEncoderCard) -> Any:
    """Return the network for ``arithmetic``. Floating-point types are chosen at loading."""
    if arithmetic != "int8":
        return network
    tokenizer = load_tokenizer(folder, card)
    texts = list(calibration_texts(tokenizer, CALIBRATION_TOKENS))
    pairs = [(text[:QUERY_CHARACTERS], text) for text in texts]
    encodings = tokenizer.encode_batch_fast(pairs)
    return quantize(network, [token_batch([one], card) for one in encodings])


def _difference(model: LoadedCrossEncoder, reference: LoadedCrossEncoder) -> float:
    """Return the largest difference of scores, as a share of the range of the reference's.

    Raises ValueError if a score is not a finite number.
    """
    mine = np.array([model.score(query, PROBES) for query in QUERIES])
    theirs = np.array([reference.score(query, PROBES) for query in QUERIES])
    if not np.isfinite(mine).all():
        raise ValueError("its scores are not finite numbers")
    scale = max(float(np.ptp(theirs)), float(np.finfo(np.float32).eps))
    return float(np.abs(mine - theirs).max()) / scale
