"""Vectors from an endpoint: whatever it answers, a text gets its own vector or none.

`tests.embeddings_endpoint` answers over real HTTP, with the messages of real services.
"""

import asyncio
import math
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from email.utils import formatdate
from typing import Any, Final

import httpx
import numpy as np
import numpy.typing as npt
import pytest
import stamina
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.responses import Response

from ingestq.broker.queue.leases import Claim
from ingestq.core.documents import Document, Lane
from ingestq.core.errors import (
    BrokerUnavailable,
    DocumentRejected,
    EmbedderUnavailable,
    Failure,
    InvalidQuery,
    ModelUnavailable,
    StoreFull,
    UsageError,
    classify,
)
from ingestq.core.jobs import IngestBatch
from ingestq.core.service import cancel
from tests.embeddings_endpoint import (
    MAX_TEXTS,
    MAX_WORDS,
    Endpoint,
    answers,
    embeddings_endpoint,
    vector_of,
)
from tests.embeddings_endpoint.app import DIMENSION, MODEL
from tests.embeddings_endpoint.server import Fault
from tests.waiting import SECONDS, eventually
from worker.consumer.decision import (
    STORE_FULL_SECONDS,
    Nack,
    back_pressure_seconds,
    decide,
    outcome_of,
)
from worker.embedding.backends.http import MAX_REQUEST_TEXTS, PROBE, HttpBackend, embeddings_url
from worker.embedding.config import HttpConfig
from worker.http_answers import retry_after

RETRIES: Final = 3
"""How often a request is tried in tests, without waiting."""
TEXTS: Final = ["one", "two", "three", "four", "five"]
POISONS: Final[dict[str, Fault]] = {
    "too long": answers.of_tei(413, "`inputs` must have less than 512 tokens. Given: 900"),
    "context length": answers.of_openai(400, "This model's maximum context length is 512 tokens"),
    "unprocessable": answers.of_tei(422, "tokenizer error", "Tokenizer"),
    "computes no numbers": answers.no_numbers(),
    "kills the model": answers.of_tei(424, "CUDA out of memory", "Backend"),
    "crashes a worker": Response("Internal Server Error", 500),
    "breaks off": "drop",
    "not a number": "nan",
    "null": "null",
    "zero": "zero",
    "no vector": "short",
    "empty vector": "empty",
}


async def embedded(backend: HttpBackend, texts: Sequence[str]) -> npt.NDArray[np.float32]:
    """Return the vectors of ``texts``; raise the first rejection."""
    outcomes = await backend.embed_each(texts)
    for outcome in outcomes:
        if isinstance(outcome, DocumentRejected):
            raise outcome
    return np.stack([outcome for outcome in outcomes if isinstance(outcome, np.ndarray)])


@pytest.fixture(autouse=True)
def _at_once() -> Iterator[None]:
    with stamina.set_testing(True, attempts=RETRIES):
        yield


@pytest.fixture(scope="module")
def shared_endpoint() -> Iterator[Endpoint]:
    with embeddings_endpoint() as running:
        yield running


@pytest.fixture
def endpoint(shared_endpoint: Endpoint) -> Endpoint:
    shared_endpoint.forget()
    return shared_endpoint


@pytest.fixture
async def backend(endpoint: Endpoint) -> AsyncIterator[HttpBackend]:
    async with HttpBackend(HttpConfig(endpoint.url, MODEL)) as opened:
        yield opened


async def test_a_text_gets_its_own_vector_of_unit_length(backend: HttpBackend) -> None:
    assert await backend.describe() == DIMENSION

    vectors = await embedded(backend, TEXTS)

    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, [vector_of(text) for text in TEXTS], atol=1e-6)
    np.testing.assert_allclose(await backend.embed_query("one"), vector_of("one"), atol=1e-6)


async def test_requests_have_headers_and_fields_of_the_user(endpoint: Endpoint) -> None:
    config = HttpConfig(
        endpoint.url, MODEL, "a-key", headers={"X-Team": "birds"}, body={"input_type": "document"}
    )
    async with HttpBackend(config) as backend:
        await backend.describe()
    [asked] = endpoint.asked
    assert asked.headers["x-team"] == "birds"
    assert asked.headers["authorization"] == "Bearer a-key"
    assert asked.body["input_type"] == "document"
    assert asked.body["model"] == MODEL
    assert "birds" in config.secrets
    assert "birds" not in repr(config)


async def test_tokens_of_a_minute_are_limited(endpoint: Endpoint) -> None:
    text = "word " * 100
    async with HttpBackend(HttpConfig(endpoint.url, MODEL, tokens_per_minute=1_000)) as backend:
        await backend.describe()  # from now on, a text of 500 bytes has 100 tokens
        await embedded(backend, [text] * 10)
        waiting = asyncio.create_task(embedded(backend, [text] * 10))
        await backend.embed_query("a query does not wait")
        assert len(endpoint.asked) == 3
        waiting.cancel()
        with suppress(asyncio.CancelledError):
            await waiting


async def test_vectors_in_any_order_are_sorted_by_index(
    endpoint: Endpoint, backend: HttpBackend
) -> None:
    endpoint.shuffled = True

    vectors = await embedded(backend, TEXTS)

    np.testing.assert_allclose(vectors, [vector_of(text) for text in TEXTS], atol=1e-6)
    assert len(endpoint.asked) == 1


async def test_queries_and_documents_get_their_prompts(endpoint: Endpoint) -> None:
    config = HttpConfig(endpoint.url, MODEL, query_prompt="query: ", document_prompt="passage: ")
    async with HttpBackend(config) as backend:
        [document] = await embedded(backend, ["one"])
        query = await backend.embed_query("one")

    np.testing.assert_allclose(document, vector_of("passage: one"), atol=1e-6)
    np.testing.assert_allclose(query, vector_of("query: one"), atol=1e-6)


async def test_lone_surrogates_are_escaped(endpoint: Endpoint, backend: HttpBackend) -> None:
    await backend.embed_query("caf\udce9")

    assert endpoint.asked[-1].texts == ("caf\\udce9",)


async def test_the_key_is_sent_but_never_shown(endpoint: Endpoint) -> None:
    endpoint.api_key = "sk-right"
    config = HttpConfig(endpoint.url, MODEL, "sk-right")
    async with HttpBackend(config) as backend:
        assert await backend.describe() == DIMENSION
    assert "sk-right" not in repr(config)


@pytest.mark.parametrize("key", [None, "sk-wrong"])
async def test_a_refused_key_is_a_usage_error(endpoint: Endpoint, key: str | None) -> None:
    endpoint.api_key = "sk-right"
    async with HttpBackend(HttpConfig(endpoint.url, MODEL, key)) as backend:
        for ask in (backend.describe(), embedded(backend, TEXTS), backend.embed_query("q")):
            with pytest.raises(UsageError, match="INGESTQ_EMBEDDINGS_API_KEY") as refused:
                await ask
            assert "sk-wrong" not in str(refused.value)


async def test_an_invalid_key_is_refused_without_showing_it() -> None:
    with pytest.raises(UsageError, match="INGESTQ_EMBEDDINGS_API_KEY") as refused:
        HttpBackend(HttpConfig("http://host/v1", MODEL, "sk-secret\n"))
    assert "secret" not in str(refused.value)


async def test_a_model_that_is_not_served_is_an_error(endpoint: Endpoint) -> None:
    async with HttpBackend(HttpConfig(endpoint.url, "other")) as backend:
        with pytest.raises(ModelUnavailable, match=r"INGESTQ_MODEL.*`other` does not exist"):
            await backend.describe()


@pytest.mark.parametrize(
    "answer",
    [
        answers.of_a_proxy(404),
        answers.of_a_proxy(405),
        Response("<html>Welcome!</html>", 200),
        Response('{"hello": "world"}', 200),
        Response(status_code=301, headers={"Location": "https://elsewhere/v1/embeddings"}),
        answers.of_openai(400, "API key not valid. Please pass a valid API key."),
        answers.answered([]),
    ],
)
async def test_a_wrong_endpoint_is_found_at_the_start(
    endpoint: Endpoint, backend: HttpBackend, answer: Response
) -> None:
    endpoint.planned = [answer] * 2

    with pytest.raises(ModelUnavailable, match="INGESTQ_EMBEDDINGS_URL"):
        await backend.describe()
    assert len(endpoint.planned) == 1  # it was not retried


async def test_a_wrong_path_is_found_at_the_start(endpoint: Endpoint) -> None:
    async with HttpBackend(HttpConfig(endpoint.url.removesuffix("/v1"), MODEL)) as backend:
        with pytest.raises(ModelUnavailable, match=r"INGESTQ_EMBEDDINGS_URL.*404 page not found"):
            await backend.describe()


@pytest.mark.parametrize("answer", [answers.of_a_proxy(404), Response("<html>", 200)])
async def test_a_proxys_answer_is_retried_later(
    endpoint: Endpoint, backend: HttpBackend, answer: Response
) -> None:
    await backend.describe()
    endpoint.planned = [answer]

    with pytest.raises(EmbedderUnavailable, match="INGESTQ_EMBEDDINGS_URL"):
        await embedded(backend, TEXTS)


async def test_an_unreachable_endpoint_is_retried_later() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    async with HttpBackend(HttpConfig(f"http://127.0.0.1:{port}/v1", MODEL)) as backend:
        for ask in (backend.describe(), embedded(backend, TEXTS), backend.embed_query("q")):
            with pytest.raises(EmbedderUnavailable, match="start it or set INGESTQ_EMB") as away:
                await ask
            assert classify(away.value) is Failure.UNAVAILABLE


@pytest.mark.parametrize(
    "fault",
    [
        answers.of_tei(429, "Model is overloaded", "Overloaded"),
        answers.of_tei(424, "Inference failed", "Backend"),
        answers.of_openai(500, "The server had an error"),
        answers.of_a_proxy(502),
        answers.of_a_proxy(503),
        "drop",
    ],
)
async def test_a_passing_failure_is_retried_at_once(
    endpoint: Endpoint, backend: HttpBackend, fault: Fault
) -> None:
    endpoint.planned = [fault] * (RETRIES - 1)

    vectors = await embedded(backend, TEXTS)

    np.testing.assert_allclose(vectors, [vector_of(text) for text in TEXTS], atol=1e-6)
    assert [asked.texts for asked in endpoint.asked] == [tuple(TEXTS)] * RETRIES


@pytest.mark.parametrize(
    "fault",
    [
        answers.of_tei(429, "Model is overloaded", "Overloaded"),
        answers.of_tei(424, "Inference failed", "Backend"),
        answers.of_openai(500, "The server had an error"),
        answers.of_a_proxy(503),
        "drop",
        "nan",
        "short",
    ],
)
@pytest.mark.parametrize("texts", [["one"], TEXTS])
async def test_a_failing_endpoint_rejects_no_document(
    endpoint: Endpoint, backend: HttpBackend, texts: list[str], fault: Fault
) -> None:
    endpoint.poison = dict.fromkeys([*texts, PROBE], fault)

    with pytest.raises(EmbedderUnavailable) as away:
        await embedded(backend, texts)

    assert classify(away.value) is Failure.UNAVAILABLE
    assert back_pressure_seconds(away.value) == 0
    assert len(endpoint.asked) <= RETRIES + 1  # it is not asked for each text


async def test_an_endpoint_that_refuses_every_text_rejects_no_document(
    endpoint: Endpoint, backend: HttpBackend
) -> None:
    await backend.describe()
    refuses = answers.of_openai(400, "Invalid model name passed in")
    endpoint.poison = dict.fromkeys([*TEXTS, PROBE], refuses)

    with pytest.raises(ModelUnavailable, match="Invalid model name passed in"):
        await embedded(backend, TEXTS)


async def test_a_request_that_hangs_times_out(endpoint: Endpoint) -> None:
    endpoint.poison = {"one": "hang", PROBE: "hang"}
    config = HttpConfig(endpoint.url, MODEL, answer_seconds=0.1)
    async with HttpBackend(config) as backend:
        with pytest.raises(EmbedderUnavailable, match=r"did not answer within 0\.1 s"):
            await embedded(backend, ["one"])


class PatientForOne(HttpBackend):
    """Waits long for the answer to one text, which comes, but not for that to several."""

    async def _answer(self, texts: Sequence[str]) -> httpx.Response:
        seconds = SECONDS if len(texts) == 1 else 0.1
        self._config = replace(self._config, answer_seconds=seconds)
        return await super()._answer(texts)


async def test_a_request_that_times_out_is_halved(endpoint: Endpoint) -> None:
    endpoint.slow_texts = 2
    async with PatientForOne(HttpConfig(endpoint.url, MODEL)) as backend:
        vectors = await embedded(backend, ["one", "two"])

    np.testing.assert_allclose(vectors, [vector_of("one"), vector_of("two")], atol=1e-6)


async def test_a_short_retry_after_is_waited_for(endpoint: Endpoint) -> None:
    endpoint.planned = [answers.too_often(retry_after_ms="1500", retry_after="1")]
    with stamina.set_testing(False):
        async with HttpBackend(HttpConfig(endpoint.url, MODEL, patience_seconds=60)) as backend:
            await embedded(backend, ["one"])

    first, second = endpoint.asked
    # Without the header it would be retried within 1.2 s.
    assert second.at - first.at >= 1.5


def date_in(seconds: float) -> str:
    return formatdate(1_700_000_000 + seconds, usegmt=True)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry_after": "120"}, 120),
        ({"retry_after": "90.5"}, 90.5),
        ({"retry_after": date_in(120), "date": date_in(0)}, 120),
        ({"retry_after_ms": "60000", "retry_after": "61"}, 60),
        ({"retry_after": "1000000"}, 3600),
    ],
)
async def test_a_long_retry_after_pauses_the_worker(
    endpoint: Endpoint, backend: HttpBackend, headers: dict[str, str], seconds: float
) -> None:
    endpoint.planned = [answers.too_often(**headers)]

    with pytest.raises(EmbedderUnavailable, match="Rate limit reached") as away:
        await embedded(backend, TEXTS)

    assert back_pressure_seconds(away.value) == seconds
    assert len(endpoint.asked) == 1


@pytest.mark.parametrize("value", ["soon", "nan", "-5", "0", date_in(0), "Tue, 99 Foo 2000"])
async def test_an_invalid_retry_after_is_ignored(
    endpoint: Endpoint, backend: HttpBackend, value: str
) -> None:
    endpoint.planned = [answers.too_often(retry_after=value)]

    assert retry_after({"retry-after": value}) is None  # it is retried with back-off
    assert len(await embedded(backend, TEXTS)) == len(TEXTS)


async def test_an_account_without_credit_pauses_the_worker(
    endpoint: Endpoint, backend: HttpBackend
) -> None:
    endpoint.planned = [answers.unpaid()]

    with pytest.raises(EmbedderUnavailable, match="requires payment") as away:
        await embedded(backend, TEXTS)

    assert back_pressure_seconds(away.value) == STORE_FULL_SECONDS
    assert len(endpoint.asked) == 1


@pytest.mark.parametrize("poison", POISONS.values(), ids=POISONS.keys())
@pytest.mark.parametrize("place", range(len(TEXTS)))
async def test_a_bad_text_is_rejected_alone(
    endpoint: Endpoint, backend: HttpBackend, place: int, poison: Fault
) -> None:
    endpoint.poison = {TEXTS[place]: poison}

    outcomes = await backend.embed_each(TEXTS)

    for i, (text, outcome) in enumerate(zip(TEXTS, outcomes, strict=True)):
        if i == place:
            assert isinstance(outcome, DocumentRejected)
        else:
            assert isinstance(outcome, np.ndarray)
            np.testing.assert_allclose(outcome, vector_of(text), atol=1e-6)
    with pytest.raises(DocumentRejected):
        await embedded(backend, TEXTS)


async def test_a_rejection_shows_the_reason_of_the_endpoint(backend: HttpBackend) -> None:
    text = "word " * (MAX_WORDS + 1)

    with pytest.raises(DocumentRejected, match=r"2565 characters.*less than 512 tokens.*513"):
        await embedded(backend, ["one", text, "two"])
    with pytest.raises(InvalidQuery, match="less than 512 tokens"):
        await backend.embed_query(text)


async def test_an_empty_text_is_rejected_alone(backend: HttpBackend) -> None:
    first, second = await backend.embed_each(["one", ""])

    assert isinstance(first, np.ndarray)
    assert isinstance(second, DocumentRejected)


async def test_a_request_with_too_many_texts_is_halved(
    endpoint: Endpoint, backend: HttpBackend
) -> None:
    texts = [f"text {i}" for i in range(MAX_TEXTS + 1)]

    vectors = await embedded(backend, texts)

    np.testing.assert_allclose(vectors, [vector_of(text) for text in texts], atol=1e-6)
    assert [len(asked.texts) for asked in endpoint.asked] == [33, 16, 17]


async def test_a_full_request_is_sent_once(endpoint: Endpoint, backend: HttpBackend) -> None:
    await embedded(backend, [f"text {i}" for i in range(MAX_REQUEST_TEXTS)])

    assert len(endpoint.asked) == 1


async def test_a_text_is_not_rejected_after_one_failure(
    endpoint: Endpoint, backend: HttpBackend
) -> None:
    endpoint.planned = [answers.no_numbers()] * RETRIES

    [vector] = await embedded(backend, ["one"])

    np.testing.assert_allclose(vector, vector_of("one"), atol=1e-6)


async def test_a_changed_dimension_stops_the_worker(
    endpoint: Endpoint, backend: HttpBackend
) -> None:
    await backend.describe()
    endpoint.dimension = 16

    for ask in (embedded(backend, TEXTS), backend.embed_query("q")):
        with pytest.raises(ModelUnavailable, match="16 dimensions, the collection has 8") as wrong:
            await ask
        assert classify(wrong.value) is Failure.FATAL


async def test_mixed_dimensions_stop_the_worker(endpoint: Endpoint, backend: HttpBackend) -> None:
    data = [{"index": 0, "embedding": [1.0, 2.0]}, {"index": 1, "embedding": [1.0]}]
    endpoint.planned = [answers.answered(data)]

    with pytest.raises(ModelUnavailable, match="1 dimensions, the collection has 2"):
        await embedded(backend, ["one", "two"])


@pytest.mark.parametrize(
    "data",
    [
        [{"index": 0, "embedding": [1.0]}, {"index": 0, "embedding": [1.0]}],
        [{"index": 1, "embedding": [1.0]}, {"index": 2, "embedding": [1.0]}],
        [{"index": i, "embedding": [1.0]} for i in range(3)],
        [{"embedding": [1.0]}, {"embedding": [2.0]}],
        [{"index": 0, "embedding": "AAAAAA=="}, {"index": 1, "embedding": "AAAAAA=="}],
        [{"index": 0, "embedding": [1e300]}, {"index": 1, "embedding": [1e300]}],
        "data",
        None,
    ],
)
async def test_invalid_vectors_are_an_error(
    endpoint: Endpoint, backend: HttpBackend, data: Any
) -> None:
    endpoint.poison = dict.fromkeys(["one", "two", PROBE], answers.answered(data))

    with pytest.raises(EmbedderUnavailable):
        await embedded(backend, ["one", "two"])


async def test_the_backend_works_after_a_cancellation(
    endpoint: Endpoint, backend: HttpBackend
) -> None:
    endpoint.planned = ["hang"]
    asking = asyncio.create_task(embedded(backend, TEXTS))

    async def asked() -> int:
        return len(endpoint.asked)

    await eventually(asked)
    await cancel(asking)
    assert asking.cancelled()
    assert len(await embedded(backend, TEXTS)) == len(TEXTS)


async def test_closing_twice_is_fine(backend: HttpBackend) -> None:
    await backend.stop()
    await backend.stop()


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        ("http://host:8080/v1", "http://host:8080/v1/embeddings"),
        (
            "https://api.cohere.ai/compatibility/v1/",
            "https://api.cohere.ai/compatibility/v1/embeddings",
        ),
        ("http://[::1]:80", "http://[::1]/embeddings"),
    ],
)
def test_the_url_ends_before_embeddings(url: str, asked: str) -> None:
    assert str(embeddings_url(url)) == asked


@pytest.mark.parametrize(
    "url",
    [
        *("", "host:8080/v1", "ftp://host/v1", "http://", "http:///v1", "http://host:port/v1"),
        *("http://host/v1/embeddings", "http://host/v1?api-version=1", "http://host/v1#x"),
    ],
)
def test_an_invalid_url_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="INGESTQ_EMBEDDINGS_URL"):
        embeddings_url(url)


@pytest.mark.parametrize(
    "url", ["ftp://me:secret@host", "https://host/v1?key=secret", "//me:secret@host"]
)
def test_an_invalid_url_is_refused_without_showing_secrets(url: str) -> None:
    with pytest.raises(UsageError) as refused:
        embeddings_url(url)
    assert "secret" not in str(refused.value)


async def test_a_redirect_is_shown_without_secrets(
    endpoint: Endpoint, backend: HttpBackend
) -> None:
    location = {"Location": "https://me:secret@sso.example/login?token=secret"}
    endpoint.planned = [Response(status_code=302, headers=location)]

    with pytest.raises(ModelUnavailable, match=r"https://sso\.example/login") as error:
        await backend.describe()
    assert "secret" not in str(error.value)


async def test_a_password_in_the_url_is_sent_but_never_shown(endpoint: Endpoint) -> None:
    url = endpoint.url.replace("http://", "http://user:secret@")
    async with HttpBackend(HttpConfig(url, "other")) as backend:
        with pytest.raises(ModelUnavailable) as error:
            await backend.describe()
    assert endpoint.asked[0].headers["authorization"].startswith("Basic ")
    assert "secret" not in str(error.value)


def test_an_unavailable_endpoint_costs_no_try() -> None:
    claim = Claim(
        *("job", 1, b"", Lane.BULK, "", 1, 4, 0, frozenset()),
        is_poison=False,
        aborted=False,
        collection="documents",
    )

    batch = IngestBatch(
        "s", (Document(collection="documents", doc_id="d", version=1, source="d", text="t"),)
    )

    decision = decide(claim, batch, outcome_of(EmbedderUnavailable("away", 7)), now_ms=1)

    assert isinstance(decision, Nack)
    assert not decision.counts_as_try
    assert decision.back_pressure_seconds == 7
    assert decision.delay_seconds > 0


def test_errors_pause_a_worker_only_with_a_time() -> None:
    assert back_pressure_seconds(EmbedderUnavailable("away", 7)) == 7
    assert back_pressure_seconds(EmbedderUnavailable("away")) == 0
    assert back_pressure_seconds(BrokerUnavailable("away")) == 0
    assert back_pressure_seconds(StoreFull("full")) == STORE_FULL_SECONDS
    assert back_pressure_seconds(ValueError()) == 0


faults = st.none() | st.sampled_from(list(POISONS.values()))


@settings(deadline=None, max_examples=20)
@given(fates=st.lists(faults, min_size=1, max_size=MAX_TEXTS + 8), shuffled=st.booleans())
def test_other_texts_get_their_vectors_whatever_is_refused(
    shared_endpoint: Endpoint, fates: list[Fault | None], shuffled: bool
) -> None:
    texts = [f"text {i}" for i in range(len(fates))]
    shared_endpoint.forget()
    shared_endpoint.shuffled = shuffled
    shared_endpoint.poison = {
        text: fate for text, fate in zip(texts, fates, strict=True) if fate is not None
    }

    async def embed() -> list[Any]:
        async with HttpBackend(HttpConfig(shared_endpoint.url, MODEL)) as backend:
            return list(await backend.embed_each(texts))

    outcomes = asyncio.run(embed())

    assert [isinstance(o, DocumentRejected) for o in outcomes] == [f is not None for f in fates]
    for text, fate, outcome in zip(texts, fates, outcomes, strict=True):
        if fate is None:
            np.testing.assert_allclose(outcome, vector_of(text), atol=1e-6)
            assert math.isclose(float(np.linalg.norm(outcome)), 1, abs_tol=1e-6)
