"""Conversion to OpenVINO: a sentence-transformers model as one network, and its 8-bit form."""

import importlib
import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer

from ingestq.core.errors import UsageError
from worker.embedding.backends.openvino import openvino
from worker.embedding.cache import NETWORK, TOKENIZER, Card


class _SentenceModel(torch.nn.Module):
    """The model as a function of a batch of tokens, which is what a converter can follow."""

    def __init__(self, model: SentenceTransformer) -> None:
        super().__init__()
        self._model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        features = {"input_ids": input_ids, "attention_mask": attention_mask}
        vectors: torch.Tensor = self._model(features)["sentence_embedding"]
        return vectors


def converted(model: SentenceTransformer) -> Any:
    """Convert ``model`` to an ``openvino.Model``.

    It maps ``input_ids`` and ``attention_mask``, each of shape (texts, tokens), to vectors. Raises
    whatever a converter raises over a model it does not know.
    """
    ones = torch.ones((2, 8), dtype=torch.long)
    example = {"input_ids": ones, "attention_mask": ones}
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tracing: whether it went well, the probes tell
        return openvino.convert_model(_SentenceModel(model).eval(), example_input=example)


def save(network: Any, folder: Path) -> None:
    """Write ``network`` into ``folder``, its weights as exact as they are."""
    openvino.save_model(network, folder / NETWORK, compress_to_fp16=False)


CALIBRATION: Final = Path(__file__).with_name("calibration.txt")
"""Passages with a blank line between them."""
CALIBRATION_TOKENS: Final = 254
"""The longest text to calibrate with, special tokens not counted: what a chunk of the default model
may have. Longer ones would take longer, and hold nothing that others do not."""
SMOOTHING: Final = 0.85
"""SmoothQuant's alpha: how much of the activations' range the weights take over. Between 0.7 and
0.95 little changes; with 0.5, or without it, searches agree less with exact ones."""
LEFT_OUT: Final = 2
"""Products that stay in floating point, of those that lead back from the wide middle of a layer.
Those of the first two layers make more than half of the error, and cost a twelfth of the speed;
with the default model, searches lose one in 80 of what exact ones find if they are not left out."""


def quantized(network: Any, folder: Path, card: Card) -> Any:
    """Return a copy of the ``openvino.Model`` ``network`` in 8-bit integers.

    ``folder`` holds its tokenizer; ``card`` says how long texts may be. Raises UsageError if nncf
    is not installed, and whatever nncf raises over a network that it cannot quantize.
    """
    assert isinstance(network, openvino.Model), "whose module keeps nncf from telling Intel, too"
    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    if card.max_length is not None:
        tokenizer.enable_truncation(card.max_length)
    longest = min(card.longest or CALIBRATION_TOKENS, CALIBRATION_TOKENS)
    texts = [card.document_prompt + text for text in _texts(tokenizer, longest)]
    inputs = [_input(encoding.ids) for encoding in tokenizer.encode_batch_fast(texts)]
    with redirect_stdout(io.StringIO()):  # there it tells how far it is
        nncf = _nncf()
        return nncf.quantize(
            network.clone(),
            nncf.Dataset(inputs),
            model_type=nncf.ModelType.TRANSFORMER,
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(inputs),
            ignored_scope=nncf.IgnoredScope(names=_narrowing(network)[:LEFT_OUT]),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(matmul=SMOOTHING)
            ),
        )


def _nncf() -> Any:
    """Import the library, after `discreet`: it finds no telemetry module and stays quiet."""
    try:
        nncf = importlib.import_module("nncf")
    except ImportError as error:
        raise UsageError(
            "INGESTQ_PRECISION=fast needs nncf: pip install 'ingestq[fast]'"
        ) from error
    nncf.set_log_level(logging.CRITICAL)
    return nncf


def _narrowing(network: Any) -> list[str]:
    """Return the names of the matrix products that shorten rows, in the network's order."""
    names = []
    for operation in network.get_ordered_ops():
        if operation.get_type_name() == "MatMul":
            taken = operation.input(0).get_partial_shape()[-1]
            given = operation.output(0).get_partial_shape()[-1]
            if taken.is_static and given.is_static and given.get_length() < taken.get_length():
                names.append(operation.get_friendly_name())
    return names


def _texts(tokenizer: Tokenizer, longest: int) -> Iterator[str]:
    """Yield each passage by itself, as short chunks and queries are, and many joined to ``longest``
    tokens, as most chunks are."""
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


def _input(tokens: list[int]) -> dict[str, Any]:
    """Return one text as input of the network, alone: padding is nothing to calibrate with."""
    ids = np.array([tokens], np.int64)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}
