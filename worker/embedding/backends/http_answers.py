"""An embeddings endpoint's answers: vectors, checked, or an error: one table says which."""

import json
import math
import re
from collections.abc import Container, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from ingestq.core.errors import EmbedderUnavailable, IngestqError, ModelUnavailable, UsageError

NO_CREDIT_SECONDS: Final = 30.0
"""How soon to look whether somebody paid for more."""
LONGEST_PAUSE_SECONDS: Final = 3600.0
"""An endpoint may name a time that is days away; it is asked again sooner, in case it changed."""


class Refused(IngestqError):
    """The endpoint refuses a request for good: it is too large, or a text in it is."""


class NotAnEndpoint(EmbedderUnavailable):
    """What answers is no embeddings endpoint: a wrong URL, or a proxy before it."""


class Failing(EmbedderUnavailable):
    """The endpoint failed over a request. It may be ill, or one of the texts makes it so."""


class Unusable(Failing):
    """The endpoint answered with fewer vectors than texts, or with numbers that are none."""


class Meaning(NamedTuple):
    """What answers with one of ``statuses`` mean, if the endpoint ``said`` so (None: whoever).

    ``pause_seconds`` is how long to leave it alone if it names no time itself.
    """

    statuses: Container[int]
    said: re.Pattern[str] | None
    error: type[IngestqError]
    words: str
    pause_seconds: float | None = None


ANYTHING: Final = re.compile("")
NO_CREDIT: Final = re.compile(
    "insufficient_quota|exceeded your current quota|billing|credit balance", re.IGNORECASE
)
"""OpenAI answers 429 both to who asks too often and to who has not paid."""
BUSY: Final = frozenset({429, 503, 529})
SERVER_ERRORS: Final = range(500, 600)
MEANINGS: Final = (
    Meaning({401, 403}, None, UsageError, "refuses INGESTQ_EMBEDDINGS_API_KEY"),
    Meaning({402}, None, EmbedderUnavailable, "wants to be paid", NO_CREDIT_SECONDS),
    Meaning({429}, NO_CREDIT, EmbedderUnavailable, "wants to be paid", NO_CREDIT_SECONDS),
    Meaning(
        {404},
        ANYTHING,
        ModelUnavailable,
        "does not serve the model; set INGESTQ_MODEL to one it has",
    ),
    # text-embeddings-inference says 413 to too many texts and to one that is too long, OpenAI, vLLM
    # and Ollama say 400, others 422. None says which text it is about.
    Meaning({400, 422}, ANYTHING, Refused, "refuses a request"),
    Meaning({413}, None, Refused, "refuses a request"),
    Meaning(BUSY, None, EmbedderUnavailable, "asks to be left alone for a while"),
    # 424 is text-embeddings-inference whose model failed. With 500 Ollama and vLLM answer to a text
    # for which the model computes no numbers, whenever it is asked: it may be this request only.
    Meaning({408, 424}, None, Failing, "fails over a request"),
    Meaning(SERVER_ERRORS, None, Failing, "fails over a request"),
    Meaning(
        range(1000),
        None,
        NotAnEndpoint,
        "does not answer as an embeddings endpoint does (INGESTQ_EMBEDDINGS_URL)",
    ),
)
"""The one place that knows which answers may pass; the first that fits is meant."""


def meaning(place: str, status: int, headers: Mapping[str, str], body: bytes) -> IngestqError:
    """The error that an answer of the endpoint, or of a proxy before it, stands for."""
    said = _said(body)
    reason = headers.get("location", body.decode(errors="replace")) if said is None else said
    rule = next(
        rule
        for rule in MEANINGS
        if status in rule.statuses
        and (rule.said is None or (said is not None and rule.said.search(said)))
    )
    text = f"the embeddings endpoint at {place} {rule.words}: {status} {reason[:300]}".rstrip()
    if issubclass(rule.error, EmbedderUnavailable):
        named = retry_after(headers)
        return rule.error(text, rule.pause_seconds if named is None else named)
    return rule.error(text)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """For how many seconds the endpoint asks to be left alone, or None if it does not say.

    A date is compared with the clock of the endpoint, where that is known.
    """
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) * unit
        except KeyError:
            continue
        except ValueError:
            seconds = _seconds_until(headers[name], headers.get("date"))
        if math.isfinite(seconds) and seconds > 0:
            return min(seconds, LONGEST_PAUSE_SECONDS)
    return None


def _seconds_until(then: str, now: str | None) -> float:
    """The seconds between two HTTP dates; not a number if they are none."""
    try:
        begin = datetime.now(UTC) if now is None else parsedate_to_datetime(now)
        return (parsedate_to_datetime(then) - begin).total_seconds()
    except (ValueError, TypeError):  # a date without a time zone cannot be compared
        return math.nan


def _said(body: bytes) -> str | None:
    """The error in the form of OpenAI, or of who is compatible with it; None: a proxy answered.

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
