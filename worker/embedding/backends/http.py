"""Backend for an endpoint that is compatible with OpenAI's ``POST /embeddings``."""

import asyncio
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Final, Self

import httpx
import msgspec
import numpy as np
import numpy.typing as npt
import stamina

from ingestq.core import metrics
from ingestq.core.errors import (
    DocumentRejected,
    EmbedderUnavailable,
    InvalidQuery,
    ModelUnavailable,
    UsageError,
    encodable,
)
from ingestq.core.metrics import PipelineStage, ServiceName
from ingestq.core.outages import note_answer
from ingestq.core.urls import public_url, without_secrets
from worker.bisection import bisect_on_failure
from worker.embedding.backends import truncated
from worker.embedding.backends.endpoint_answers import (
    NotAnEndpoint,
    RequestFailed,
    RequestRefused,
    UnusableAnswer,
    endpoint_error,
    read_usage,
    read_vectors,
)
from worker.embedding.backends.token_limiter import TokenLimiter
from worker.embedding.config import HttpConfig
from worker.http_answers import FailedAnswer, retry_delay


def embeddings_url(url: str) -> httpx.URL:
    """Return the URL that requests go to. Raises UsageError if ``url`` is no base URL."""
    try:
        parsed = httpx.URL(url.rstrip("/") + "/embeddings")
    except httpx.InvalidURL:
        parsed = httpx.URL()
    is_absolute = parsed.scheme in ("http", "https") and parsed.host
    has_more = parsed.query or parsed.fragment or url.rstrip("/").endswith("/embeddings")
    if not is_absolute or has_more:
        raise UsageError(
            f"INGESTQ_EMBEDDINGS_URL {public_url(url)!r} is not the URL of an endpoint; write the "
            "part before /embeddings, such as http://HOST:8080/v1"
        )
    return parsed


def headers(api_key: str | None) -> dict[str, str]:
    """Return the headers of every request. Raises UsageError, without the key, if it is invalid."""
    sent = {"Content-Type": "application/json"}
    if api_key is None:
        return sent
    if not (api_key.isascii() and api_key.isprintable() and " " not in api_key):
        raise UsageError(
            "INGESTQ_EMBEDDINGS_API_KEY contains characters that cannot be sent: use "
            "printable ASCII without spaces"
        )
    return sent | {"Authorization": f"Bearer {api_key}"}


Row = npt.NDArray[np.float32]

MAX_REQUEST_TEXTS: Final = 32
"""The limit of text-embeddings-inference by default."""
MAX_REQUEST_TOKENS: Final = 8192
"""Half of what text-embeddings-inference computes at once: seconds of work on a CPU."""
CONNECT_SECONDS: Final = 10.0
PROBE: Final = "What is this text about?"
"""A text that every embedding model accepts: an endpoint that embeds it is healthy."""


class HttpBackend:
    """A model behind an endpoint. Vectors are float32 of unit length, one row for each text.

    Use it as an asynchronous context manager. A text is rejected only if the endpoint embeds
    another text at the same time. Every method raises EmbedderUnavailable if a later try may
    succeed, and UsageError or ModelUnavailable if no request can. The constructor raises UsageError
    if the URL or the key is invalid.
    """

    def __init__(self, config: HttpConfig) -> None:
        self.slots = config.concurrency
        self.batch_texts = MAX_REQUEST_TEXTS
        self.batch_tokens = MAX_REQUEST_TOKENS
        self._config = config
        self._url = embeddings_url(config.url)
        self.place = public_url(str(self._url))
        self._dimension: int | None = None
        self._client = httpx.AsyncClient(
            headers=headers(config.api_key) | config.headers,
            # _answer limits the time of the answer as a whole.
            timeout=httpx.Timeout(None, connect=CONNECT_SECONDS),
            limits=httpx.Limits(max_keepalive_connections=config.concurrency),
            follow_redirects=False,  # the key would be sent along, and a POST may become a GET
        )
        self._limiter = TokenLimiter(config.tokens_per_minute)
        self._retrying = stamina.AsyncRetryingCaller(
            attempts=None, timeout=config.patience_seconds, wait_initial=0.2, wait_max=5.0
        ).on(self._when_to_retry)

    async def __aenter__(self) -> Self:
        """Return self, without sending a request."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Close the connections. Stopping twice, or before the first request, is fine."""
        await self._client.aclose()

    async def describe(self) -> int:
        """Return the dimension of the vectors that it answers, before they are truncated.

        Raises ModelUnavailable if the answer is not a vector.
        """
        try:
            await self._ask([PROBE])
        except (RequestRefused, NotAnEndpoint, UnusableAnswer) as error:
            raise _wrong_setup(error) from error
        assert self._dimension is not None, "an answer sets it"
        return self._dimension

    async def embed_each(self, texts: Sequence[str]) -> list[Row | DocumentRejected]:
        """Embed chunks of documents; return the vector of each, or why it was rejected."""
        began = time.perf_counter()
        sent = [encodable(self._config.document_prompt + text) for text in texts]
        await self._limiter.wait_for(sent)
        outcomes = await self._each(sent)
        seconds = time.perf_counter() - began
        metrics.observe(metrics.STAGE_SECONDS, seconds, PipelineStage.EMBED.value)
        return outcomes

    async def embed_query(self, text: str) -> Row:
        """Embed a search query; shape (dimension,). Raises InvalidQuery if it is refused."""
        # Not limited: somebody waits for it, and it is short.
        [outcome] = await self._each([encodable(self._config.query_prompt + text)])
        if isinstance(outcome, DocumentRejected):
            raise InvalidQuery(f"the query cannot be embedded: {outcome}") from outcome
        return outcome

    async def _each(self, texts: Sequence[str]) -> list[Row | DocumentRejected]:
        """Embed all texts in one request, and bisect if it is refused.

        Bisection is needed because the endpoint does not say which text it refuses. Raises at the
        first error of the endpoint itself, without asking for the rest.
        """
        outcomes: list[Row | DocumentRejected] = []
        async for _, outcome in bisect_on_failure(texts, self._ask_for, _may_be_one_text):
            if isinstance(outcome, Exception) and not isinstance(outcome, DocumentRejected):
                raise outcome
            outcomes.append(outcome)
        return outcomes

    async def _ask_for(self, texts: Sequence[str]) -> Sequence[Row | DocumentRejected]:
        """Return the vectors of ``texts``; for a single text, the reason if it was rejected.

        Raises RequestRefused or RequestFailed if one of several texts may be the cause.
        """
        try:
            return list(await self._retrying(self._ask, texts))
        except RequestRefused as error:
            if len(texts) > 1:
                raise
            await self._check_serving()
            return [_rejected(texts[0], error)]
        except RequestFailed:
            await self._check_serving()  # a text may crash it every time
            if len(texts) > 1:
                raise
            return [await self._last_try(texts[0])]

    async def _last_try(self, text: str) -> Row | DocumentRejected:
        """Ask once more for a text over which the endpoint failed while it served another one."""
        try:
            [row] = await self._retrying(self._ask, [text])
        except (RequestRefused, RequestFailed) as error:
            await self._check_serving()
            return _rejected(text, error)
        return np.asarray(row)

    async def _check_serving(self) -> None:
        """Raise unless the endpoint embeds `PROBE`, a text that is known to be good.

        Without this check an endpoint that lost its model would dead-letter all documents. Never
        raises RequestRefused or RequestFailed, because no document's text is to blame.
        """
        try:
            await self._ask([PROBE])
        except RequestRefused as error:
            raise _wrong_setup(error) from error
        except RequestFailed as error:
            raise EmbedderUnavailable(str(error), error.retry_after) from error

    async def _ask(self, texts: Sequence[str]) -> Row:
        try:
            return await self._vectors_of(texts)
        except Exception as error:
            metrics.count_error(ServiceName.EMBEDDINGS, error)
            raise

    async def _vectors_of(self, texts: Sequence[str]) -> Row:
        response = await self._answer(texts)
        if response.status_code != httpx.codes.OK:
            answer = FailedAnswer(response.status_code, response.headers, response.content)
            raise endpoint_error(self.place, answer, self._config.secrets)
        note_answer(EmbedderUnavailable)
        vectors = read_vectors(response.content, len(texts), self._dimension, self.place)
        if (tokens := read_usage(response.content)) is not None:
            self._limiter.note(texts, tokens)
            metrics.count(metrics.ENDPOINT_TOKENS, amount=tokens)
        self._dimension = vectors.shape[1]
        return truncated(vectors, self._config.dimensions)

    async def _answer(self, texts: Sequence[str]) -> httpx.Response:
        request: dict[str, object] = {
            **self._config.body,
            "model": self._config.model,
            "input": texts,
            "encoding_format": "float",
        }
        if self._config.asks_for_dimensions and self._config.dimensions is not None:
            request["dimensions"] = self._config.dimensions
        seconds = self._config.answer_seconds
        try:
            async with asyncio.timeout(seconds):
                return await self._client.post(self._url, content=msgspec.json.encode(request))
        except TimeoutError as error:
            raise RequestFailed(f"{self._who} did not answer within {seconds:g} s") from error
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as error:
            raise EmbedderUnavailable(
                f"{self._who} does not answer ({self._detail(error)}); start it or set "
                "INGESTQ_EMBEDDINGS_URL"
            ) from error
        except httpx.TransportError as error:  # also of a server that a text crashed
            raise RequestFailed(
                f"{self._who} closed the connection ({self._detail(error)})"
            ) from error
        except httpx.RequestError as error:  # a Content-Encoding that does not match the content
            raise NotAnEndpoint(
                f"{self._who} sent an answer that cannot be decoded: {self._detail(error)}"
            ) from error

    @property
    def _who(self) -> str:
        return f"the embeddings endpoint at {self.place}"

    def _detail(self, error: Exception) -> str:
        return without_secrets(str(error), self._config.secrets) or type(error).__name__

    def _when_to_retry(self, error: Exception) -> bool | float:
        """Return when to repeat a failed request; see `retry_delay`."""
        if not isinstance(error, EmbedderUnavailable) or isinstance(
            error, NotAnEndpoint | UnusableAnswer
        ):
            return False
        return retry_delay(error, self._config.patience_seconds)


def _may_be_one_text(error: Exception) -> bool:
    return isinstance(error, RequestRefused | RequestFailed)


def _rejected(text: str, error: Exception) -> DocumentRejected:
    return DocumentRejected(f"a text of {len(text)} characters cannot be embedded: {error}")


def _wrong_setup(error: Exception) -> ModelUnavailable:
    return ModelUnavailable(
        f"{error}. The text was a short test: check INGESTQ_EMBEDDINGS_URL and INGESTQ_MODEL"
    )
