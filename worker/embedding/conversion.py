"""Converts a sentence-transformers model to an OpenVINO network, and quantizes it to 8 bits."""

import importlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer

from ingestq.core.errors import UsageError
from worker.embedding.backends.batches import TokenBatch, load_tokenizer
from worker.embedding.backends.openvino import openvino
from worker.embedding.cache import NETWORK, Card


class _SentenceModel(torch.nn.Module):
    """The model as a function of token batches, a form that the converter can trace."""

    def __init__(self, model: SentenceTransformer) -> None:
        super().__init__()
        self._model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        features = {"input_ids": input_ids, "attention_mask": attention_mask}
        vectors: torch.Tensor = self._model(features)["sentence_embedding"]
        return vectors


def convert(model: SentenceTransformer) -> Any:
    """Convert ``model`` to an ``openvino.Model``.

    It maps ``input_ids`` and ``attention_mask``, each of shape (texts, tokens), to vectors. Raises
    whatever OpenVINO raises over an unknown model.
    """
    ones = torch.ones((2, 8), dtype=torch.long)
    example = {"input_ids": ones, "attention_mask": ones}
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from tracing; the caller checks the vectors instead
        return openvino.convert_model(_SentenceModel(model).eval(), example_input=example)


def save(network: Any, folder: Path) -> None:
    """Write ``network`` into ``folder``, without rounding its weights."""
    openvino.save_model(network, folder / NETWORK, compress_to_fp16=False)


CALIBRATION: Final = Path(__file__).with_name("calibration.txt")
"""Passages, separated by blank lines."""
CALIBRATION_TOKENS: Final = 254
"""The longest text to calibrate with, without special tokens: as long as a chunk of the default
model. Longer texts would only take more time."""
SMOOTHING: Final = 0.85
"""SmoothQuant's alpha: how much of the activations' range moves to the weights. Little changes
between 0.7 and 0.95; at 0.5, or without SmoothQuant, searches agree less with exact ones."""
FLOAT_PRODUCTS: Final = 2
"""How many of the matrix products that lead back from the wide middle of a layer stay in floating
point. Those of the first two layers cause more than half of the error and cost a twelfth of the
speed. If they are quantized too, searches with the default model lose one in 80 of the exact
hits."""


def quantize(network: Any, inputs: Sequence[TokenBatch]) -> Any:
    """Return a copy of the ``openvino.Model`` ``network`` in 8-bit integers.

    ``inputs`` are what it is calibrated with. Raises UsageError if nncf is not installed, and
    whatever nncf raises over a network that it cannot quantize.
    """
    # The import of `openvino` above has also disabled the telemetry of nncf.
    assert isinstance(network, openvino.Model)
    with redirect_stdout(io.StringIO()):  # nncf prints its progress there
        nncf = _nncf()
        return nncf.quantize(
            network.clone(),
            nncf.Dataset(inputs),
            model_type=nncf.ModelType.TRANSFORMER,
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(inputs),
            ignored_scope=nncf.IgnoredScope(names=_narrowing_products(network)[:FLOAT_PRODUCTS]),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(matmul=SMOOTHING)
            ),
        )


def calibration(folder: Path, card: Card) -> list[TokenBatch]:
    """Return the inputs to calibrate a model with: its tokenizer is in ``folder``."""
    tokenizer = load_tokenizer(folder, card)
    longest = min(card.longest or CALIBRATION_TOKENS, CALIBRATION_TOKENS)
    texts = [card.document_prompt + text for text in calibration_texts(tokenizer, longest)]
    return [_input(encoding.ids) for encoding in tokenizer.encode_batch_fast(texts)]


def _nncf() -> Any:
    """Import nncf, and silence its log. Raises UsageError if it is not installed."""
    try:
        nncf = importlib.import_module("nncf")
    except ImportError as error:
        raise UsageError(
            "INGESTQ_PRECISION=fast needs nncf: pip install 'ingestq[fast]'"
        ) from error
    nncf.set_log_level(logging.CRITICAL)
    return nncf


def _narrowing_products(network: Any) -> list[str]:
    """Return the names of the matrix products that make rows shorter, in the network's order."""
    names = []
    for operation in network.get_ordered_ops():
        if operation.get_type_name() == "MatMul":
            taken = operation.input(0).get_partial_shape()[-1]
            given = operation.output(0).get_partial_shape()[-1]
            if taken.is_static and given.is_static and given.get_length() < taken.get_length():
                names.append(operation.get_friendly_name())
    return names


def calibration_texts(tokenizer: Tokenizer, longest: int) -> Iterator[str]:
    """Yield calibration texts: each passage alone, and passages joined to ``longest`` tokens.

    They stand for short chunks and queries, and for the usual full chunks.
    """
    passages = CALIBRATION.read_text(encoding="utf-8").strip().split("\n\n")
    encodings = tokenizer.encode_batch_fast(passages, add_special_tokens=False)
    joined, size = "", 0
    for passage, encoding in zip(passages, encodings, strict=True):
        yield passage
        if joined and size + len(encoding) > longest:
            yield joined
            joined, size = "", 0
        joined += passage + "\n\n"
        size += len(encoding)
    yield joined


def _input(tokens: list[int]) -> TokenBatch:
    """Return one text as a batch of its own, because padding must not affect the calibration."""
    ids = np.array([tokens], np.int64)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}
