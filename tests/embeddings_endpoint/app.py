"""How the endpoint answers a request without a fault."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from starlette.responses import Response

from tests.embeddings_endpoint.answers import of_openai, of_tei

MAX_TEXTS: Final = 32
MAX_WORDS: Final = 512
"""A word is a token."""
MODEL: Final = "test/model"
DIMENSION: Final = 8


def vector_of(text: str, dimension: int = DIMENSION) -> npt.NDArray[np.float32]:
    """Return the endpoint's vector of ``text``, of unit length."""
    vector = _raw(text, dimension)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def entries(texts: Sequence[str], dimension: int = DIMENSION) -> list[dict[str, Any]]:
    """Return the vectors as the endpoint sends them, not of unit length."""
    return [
        {"object": "embedding", "index": i, "embedding": _raw(text, dimension).tolist()}
        for i, text in enumerate(texts)
    ]


def refusal(request: dict[str, Any]) -> Response | None:
    """Return the error answer to an invalid request, or None."""
    if request.get("encoding_format", "float") != "float":
        return of_openai(400, "Invalid value for 'encoding_format'. Supported values: ['float'].")
    if request["model"] != MODEL:
        return of_openai(404, f"The model `{request['model']}` does not exist.")
    texts = request["input"]
    if len(texts) > MAX_TEXTS:
        return of_tei(413, f"batch size {len(texts)} > maximum allowed batch size {MAX_TEXTS}")
    words = max(len(text.split()) for text in texts)
    if words > MAX_WORDS:
        return of_tei(
            413,
            f"Input validation error: `inputs` must have less than {MAX_WORDS} tokens. "
            f"Given: {words}",
        )
    if "" in texts:
        return of_tei(400, "`inputs` cannot be empty", "Empty")
    return None


def body_of(answer: list[dict[str, Any]], tokens: int) -> bytes:
    """Return the answer's body. NaN is written as Python writes it, which is no JSON."""
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return json.dumps({"object": "list", "data": answer, "model": MODEL, "usage": usage}).encode()


def _raw(text: str, dimension: int) -> npt.NDArray[np.float64]:
    seed = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())
    return 3.0 * np.random.default_rng(seed).standard_normal(dimension)
