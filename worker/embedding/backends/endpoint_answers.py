"""Reads an embeddings endpoint's answers: checked vectors, or the error that a table gives."""

import json
import re
from collections.abc import Iterable, Sequence
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
"""How long to wait before checking whether the account has credit again."""


class RequestRefused(IngestqError):
    """The endpoint refuses a request for good: the request, or a text in it, is too large."""


class NotAnEndpoint(EmbedderUnavailable):
    """The answer is not an embeddings endpoint's: the URL is wrong, or a proxy answered."""


class RequestFailed(EmbedderUnavailable):
    """The endpoint failed over a request: it is unhealthy, or one of the texts makes it fail."""


class UnusableAnswer(RequestFailed):
    """The endpoint answered with the wrong number of vectors, or with invalid ones."""


NO_CREDIT: Final = re.compile(
    "insufficient_quota|exceeded your current quota|billing|credit balance", re.IGNORECASE
)
"""OpenAI answers 429 both to a client that asks too often and to one without credit."""
BUSY: Final = frozenset({429, 503, 529})
RULES: Final = (
    AnswerRule({401, 403}, None, UsageError, "does not accept INGESTQ_EMBEDDINGS_API_KEY"),
    AnswerRule({402}, None, EmbedderUnavailable, "requires payment", NO_CREDIT_SECONDS),
    AnswerRule({429}, NO_CREDIT, EmbedderUnavailable, "requires payment", NO_CREDIT_SECONDS),
    AnswerRule(
        {404},
        ANY_REASON,
        ModelUnavailable,
        "does not serve the model; set INGESTQ_MODEL to one that it serves",
    ),
    # To too many texts, or to one that is too long, text-embeddings-inference answers 413, OpenAI,
    # vLLM and Ollama 400, and others 422. None of them says which text.
    AnswerRule({400, 422}, ANY_REASON, RequestRefused, "refuses the request"),
    AnswerRule({413}, None, RequestRefused, "refuses the request"),
    AnswerRule(BUSY, None, EmbedderUnavailable, "is overloaded or limits requests"),
    # text-embeddings-inference answers 424 if its model failed. Ollama and vLLM answer 500 to a
    # text for which the model computes no numbers: a 500 may concern this request only.
    AnswerRule({408, 424}, None, RequestFailed, "failed over the request"),
    AnswerRule(SERVER_ERRORS, None, RequestFailed, "failed over the request"),
    AnswerRule(
        ANY_STATUS,
        None,
        NotAnEndpoint,
        "does not answer like an embeddings endpoint; check INGESTQ_EMBEDDINGS_URL",
    ),
)
"""The first rule that applies decides."""


def endpoint_error(place: str, answer: FailedAnswer, secrets: Iterable[str] = ()) -> IngestqError:
    """Return the error for a failed answer of the endpoint at ``place``, or of a proxy.

    Its message does not show ``secrets``.
    """
    return to_error(RULES, _who(place), answer, _reason(answer.body), secrets)


def _reason(body: bytes) -> str | None:
    """Return the endpoint's error text; None if the body is no endpoint's error.

    OpenAI, vLLM and Ollama send ``{"error": {"message", "code"}}``; text-embeddings-inference,
    Cohere and older vLLM ``{"message"}``; services built with FastAPI ``{"detail"}``.
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
"""A shorter vector has no usable direction."""


class _Embedding(msgspec.Struct):
    embedding: list[float]
    index: int


class _EmbeddingsAnswer(msgspec.Struct):
    data: list[_Embedding]


_decoder: Final = msgspec.json.Decoder(_EmbeddingsAnswer)


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    total_tokens: int | None = None


class _UsageAnswer(msgspec.Struct):
    usage: _Usage | None = None


_usage_decoder: Final = msgspec.json.Decoder(_UsageAnswer)


def read_usage(body: bytes) -> int | None:
    """Return how many tokens the request had, as the answer says; None if it does not."""
    try:
        usage = _usage_decoder.decode(body).usage
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    if usage is None:
        return None
    return usage.prompt_tokens if usage.total_tokens is None else usage.total_tokens


def read_vectors(
    body: bytes, texts: int, dimension: int | None, place: str
) -> npt.NDArray[np.float32]:
    """Return the vectors of ``texts`` texts in the order of the request; shape (texts, dimension).

    If ``dimension`` is None, the first vector decides it. Raises ModelUnavailable if a vector has
    another dimension, UnusableAnswer unless there is one usable vector for each text, and
    NotAnEndpoint if the body is not an embeddings endpoint's.
    """
    entries = sorted(_entries(body, place), key=lambda entry: entry.index)
    if [entry.index for entry in entries] != list(range(texts)):
        raise UnusableAnswer(
            f"{_who(place)} answered {texts} texts with {len(entries)} vectors, or wrong indexes"
        )
    vectors = [entry.embedding for entry in entries]
    _check_dimension(vectors, dimension, place)
    wide = np.array(vectors, dtype=np.float64)
    with np.errstate(over="ignore"):
        lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    good = np.isfinite(lengths) & (lengths > SMALLEST_LENGTH)
    if not good.all():
        bad = texts - np.count_nonzero(good)
        raise UnusableAnswer(
            f"{_who(place)} answered with vectors without a direction: {bad} of {texts}"
        )
    return np.asarray(wide / lengths, dtype=np.float32)


def _entries(body: bytes, place: str) -> list[_Embedding]:
    try:
        return _decoder.decode(body).data
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        if _has_data(body):  # the model computed no numbers: they are sent as null or NaN
            raise UnusableAnswer(f"{_who(place)} answered with invalid vectors: {error}") from error
        raise NotAnEndpoint(
            f"{_who(place)} does not answer like an embeddings endpoint ({error}); set "
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
            raise UnusableAnswer(f"{_who(place)} answered with an empty vector")
        dimension = len(vector) if dimension is None else dimension
        if len(vector) != dimension:
            raise ModelUnavailable(
                f"{_who(place)} now answers with vectors of {len(vector)} dimensions, the "
                f"collection has {dimension}; make it serve the model of INGESTQ_MODEL again, or "
                "rebuild the collection with `ingestq reindex`"
            )


def _who(place: str) -> str:
    return f"the embeddings endpoint at {place}"
