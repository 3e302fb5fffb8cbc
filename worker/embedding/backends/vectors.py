"""Vectors out of the body of an endpoint's answer: checked, in order, of unit length.

Reading 32 vectors of 1,536 dimensions takes 2.4 ms, most of it in one call that does not give up
the interpreter's lock: in a thread it would hold up the event loop just the same.
"""

import json
from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from broker.errors import ModelUnavailable
from worker.embedding.backends.endpoint_answers import NotAnEndpoint, Unusable

SMALLEST_LENGTH: Final = float(np.finfo(np.float32).tiny)
"""A vector that is shorter points nowhere."""


class _Entry(msgspec.Struct):
    embedding: list[float]
    index: int


class _Answer(msgspec.Struct):
    data: list[_Entry]


_decoder: Final = msgspec.json.Decoder(_Answer)


def read_vectors(
    body: bytes, texts: int, dimension: int | None, place: str
) -> npt.NDArray[np.float32]:
    """The vectors of ``texts`` texts in the order of the request; shape (texts, dimension).

    Without a ``dimension``, that of the first counts. Raises ModelUnavailable if any has another
    one, Unusable if there is not one good vector for each text, and NotAnEndpoint if this is no
    answer of an embeddings endpoint.
    """
    entries = sorted(_entries(body, place), key=lambda entry: entry.index)
    if [entry.index for entry in entries] != list(range(texts)):
        raise Unusable(
            f"{_who(place)} answers {len(entries)} vectors to {texts} texts, or mixed up"
        )
    vectors = [entry.embedding for entry in entries]
    _check_dimension(vectors, dimension, place)
    wide = np.array(vectors, dtype=np.float64)
    with np.errstate(over="ignore"):
        lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    good = np.isfinite(lengths) & (lengths > SMALLEST_LENGTH)
    if not good.all():
        bad = texts - np.count_nonzero(good)
        raise Unusable(f"{_who(place)} answers vectors without a direction: {bad} of {texts}")
    return np.asarray(wide / lengths, dtype=np.float32)


def _entries(body: bytes, place: str) -> list[_Entry]:
    try:
        return _decoder.decode(body).data
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        if _has_data(body):  # a model that computed no numbers: they arrive as null or NaN
            raise Unusable(f"{_who(place)} answers vectors that are none: {error}") from error
        raise NotAnEndpoint(
            f"{_who(place)} does not answer as an embeddings endpoint does ({error}); set "
            "INGESTQ_EMBEDDINGS_URL to the part of its URL before /embeddings"
        ) from error


def _has_data(body: bytes) -> bool:
    try:
        return isinstance(json.loads(body)["data"], list)
    except (ValueError, KeyError, TypeError):
        return False


def _check_dimension(vectors: Sequence[Sequence[float]], dimension: int | None, place: str) -> None:
    for vector in vectors:
        if not vector:
            raise Unusable(f"{_who(place)} answers a vector without numbers")
        dimension = dimension or len(vector)
        if len(vector) != dimension:
            raise ModelUnavailable(
                f"{_who(place)} now answers vectors of {len(vector)} dimensions, the collection "
                f"has {dimension}; let it serve the model that INGESTQ_MODEL names again, or build "
                "another collection with 'ingestq reindex'"
            )


def _who(place: str) -> str:
    return f"the embeddings endpoint at {place}"
