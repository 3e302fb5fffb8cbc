"""An embeddings endpoint's answers: vectors, checked, or an error: one table says which."""

import json
import re
from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from ingestq.core.errors import EmbedderUnavailable, IngestqError, ModelUnavailable, UsageError
from worker.http_answers import (
    ANY_REASON,
    ANY_STATUS,
    SERVER_ERRORS,
    AnswerRule,
    FailedAnswer,
    to_error,
)

NO_CREDIT_SECONDS: Final = 30.0
"""How soon to look whether somebody paid for more."""


class RequestRefused(IngestqError):
    """The endpoint refuses a request for good: it is too large, or a text in it is."""


class NotAnEndpoint(EmbedderUnavailable):
    """What answers is no embeddings endpoint: a wrong URL, or a proxy before it."""


class RequestFailed(EmbedderUnavailable):
    """The endpoint failed over a request. It may be ill, or one of the texts makes it so."""


class UnusableAnswer(RequestFailed):
    """The endpoint answered with fewer vectors than texts, or with numbers that are none."""


NO_CREDIT: Final = re.compile(
    "insufficient_quota|exceeded your current quota|billing|credit balance", re.IGNORECASE
)
"""OpenAI answers 429 both to who asks too often and to who has not paid."""
BUSY: Final = frozenset({429, 503, 529})
RULES: Final = (
    AnswerRule({401, 403}, None, UsageError, "refuses INGESTQ_EMBEDDINGS_API_KEY"),
    AnswerRule({402}, None, EmbedderUnavailable, "wants to be paid", NO_CREDIT_SECONDS),
    AnswerRule({429}, NO_CREDIT, EmbedderUnavailable, "wants to be paid", NO_CREDIT_SECONDS),
    AnswerRule(
        {404},
        ANY_REASON,
        ModelUnavailable,
        "does not serve the model; set INGESTQ_MODEL to one it has",
    ),
    # text-embeddings-inference says 413 to too many texts and to one that is too long, OpenAI, vLLM
    # and Ollama say 400, others 422. None says which text it is about.
    AnswerRule({400, 422}, ANY_REASON, RequestRefused, "refuses a request"),
    AnswerRule({413}, None, RequestRefused, "refuses a request"),
    AnswerRule(BUSY, None, EmbedderUnavailable, "asks to be left alone for a while"),
    # 424 is text-embeddings-inference whose model failed. With 500 Ollama and vLLM answer to a text
    # for which the model computes no numbers, whenever it is asked: it may be this request only.
    AnswerRule({408, 424}, None, RequestFailed, "fails over a request"),
    AnswerRule(SERVER_ERRORS, None, RequestFailed, "fails over a request"),
    AnswerRule(
        ANY_STATUS,
        None,
        NotAnEndpoint,
        "does not answer as an embeddings endpoint does (INGESTQ_EMBEDDINGS_URL)",
    ),
)
"""The first rule that applies counts."""


def endpoint_error(place: str, answer: FailedAnswer) -> IngestqError:
    """Return the error that an answer of the endpoint at ``place``, or of a proxy, stands for."""
    return to_error(RULES, f"the embeddings endpoint at {place}", answer, _reason(answer.body))


def _reason(body: bytes) -> str | None:
    """Return the error in the form of OpenAI or a compatible endpoint; None if a proxy answered.

    ``{"error": {"message", "code"}}`` is OpenAI's, vLLM's and Ollama's, ``{"message"}`` that of
    text-embeddings-inference, Cohere and older vLLM, ``{"detail"}`` of what is made with FastAPI.
    """
    try:
        answer = json.loads(body)
    except ValueError:
        return None
    if not isinstance(answer, dict):
        return None
    error = answer.get("error") or answer
    if not isinstance(error, dict):
        return str(error)
    text = error.get("message") or error.get("detail")
    if text is None:
        return None
    code = error.get("code")
    return f"{text} ({code})" if isinstance(code, str) else str(text)


SMALLEST_LENGTH: Final = float(np.finfo(np.float32).tiny)
"""A vector that is shorter points nowhere."""


class _Embedding(msgspec.Struct):
    embedding: list[float]
    index: int


class _EmbeddingsAnswer(msgspec.Struct):
    data: list[_Embedding]


_decoder: Final = msgspec.json.Decoder(_EmbeddingsAnswer)


def read_vectors(
    body: bytes, texts: int, dimension: int | None, place: str
) -> npt.NDArray[np.float32]:
    """Read the vectors of ``texts`` texts in the order of the request; shape (texts, dimension).

    Without a ``dimension``, that of the first counts. Raises ModelUnavailable if any has another
    one, Unusable if there is not one good vector for each text, and NotAnEndpoint if this is no
    answer of an embeddings endpoint.
    """
    entries = sorted(_entries(body, place), key=lambda entry: entry.index)
    if [entry.index for entry in entries] != list(range(texts)):
        raise UnusableAnswer(
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
        raise UnusableAnswer(f"{_who(place)} answers vectors without a direction: {bad} of {texts}")
    return np.asarray(wide / lengths, dtype=np.float32)


def _entries(body: bytes, place: str) -> list[_Embedding]:
    try:
        return _decoder.decode(body).data
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        if _has_data(body):  # a model that computed no numbers: they arrive as null or NaN
            raise UnusableAnswer(f"{_who(place)} answers vectors that are none: {error}") from error
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
            raise UnusableAnswer(f"{_who(place)} answers a vector without numbers")
        dimension = dimension or len(vector)
        if len(vector) != dimension:
            raise ModelUnavailable(
                f"{_who(place)} now answers vectors of {len(vector)} dimensions, the collection "
                f"has {dimension}; let it serve the model that INGESTQ_MODEL names again, or build "
                "another collection with 'ingestq reindex'"
            )


def _who(place: str) -> str:
    return f"the embeddings endpoint at {place}"
