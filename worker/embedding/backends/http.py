"""Vectors from an endpoint that is compatible with OpenAI's ``POST /embeddings``."""

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import Final, Self

import httpx
import msgspec
import numpy as np
import numpy.typing as npt
import stamina

from ingestq.core.errors import (
    DocumentRejected,
    EmbedderUnavailable,
    InvalidQuery,
    ModelUnavailable,
    UsageError,
    encodable,
    public_url,
)
from worker.bisection import bisect_on_failure
from worker.embedding.backends.http_answers import (
    NotAnEndpoint,
    RequestFailed,
    RequestRefused,
    UnusableAnswer,
    endpoint_error,
    read_vectors,
)
from worker.embedding.config import HttpConfig
from worker.http_answers import FailedAnswer, retry_delay


def embeddings_url(url: str) -> httpx.URL:
    """Return where to send requests for the endpoint at ``url``. Raises UsageError if invalid."""
    try:
        parsed = httpx.URL(url.rstrip("/") + "/embeddings")
    except httpx.InvalidURL:
        parsed = httpx.URL()
    is_whole = parsed.scheme in ("http", "https") and parsed.host
    if not is_whole or parsed.query or parsed.fragment or url.rstrip("/").endswith("/embeddings"):
        raise UsageError(
            f"INGESTQ_EMBEDDINGS_URL {public_url(url)!r} is not the URL of an endpoint; write the "
            "part before /embeddings, such as http://HOST:8080/v1"
        )
    return parsed


def headers(api_key: str | None) -> dict[str, str]:
    """Return the headers of every request. Raises UsageError, without the key, if it is no key."""
    sent = {"Content-Type": "application/json"}
    if api_key is None:
        return sent
    if not (api_key.isascii() and api_key.isprintable() and " " not in api_key):
        raise UsageError("INGESTQ_EMBEDDINGS_API_KEY has characters that no key has")
    return sent | {"Authorization": f"Bearer {api_key}"}


Row = npt.NDArray[np.float32]

MAX_REQUEST_TEXTS: Final = 32
"""As many as text-embeddings-inference takes at once if nobody changes it."""
MAX_REQUEST_TOKENS: Final = 8192
"""Half of what text-embeddings-inference computes at once: seconds on a processor."""
CONNECT_SECONDS: Final = 10.0
PROBE: Final = "What is this text about?"
"""Every embedding model reads it: an endpoint that serves it is well."""


class HttpBackend:
    """A model behind an endpoint. Vectors are float32 of unit length, one row a text.

    Use it as an asynchronous context manager. No text is rejected for what the endpoint answers
    unless it serves another one at the same time. Everything raises EmbedderUnavailable if trying
    again later may help, and UsageError or ModelUnavailable if no request would succeed. Raises
    UsageError at once if the URL or the key cannot be sent.
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
            headers=headers(config.api_key),
            # The answer as a whole is timed, see _answer.
            timeout=httpx.Timeout(None, connect=CONNECT_SECONDS),
            limits=httpx.Limits(max_keepalive_connections=config.concurrency),
            follow_redirects=False,  # the key would go along, and a POST may become a GET
        )
        self._retrying = stamina.AsyncRetryingCaller(
            attempts=None, timeout=config.patience_seconds, wait_initial=0.2, wait_max=5.0
        ).on(self._when_to_retry)

    async def __aenter__(self) -> Self:
        """Return itself. Nothing is asked yet: see `describe`."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Close the connections. Stopping twice, or before anything was asked, is fine."""
        await self._client.aclose()

    async def describe(self) -> int:
        """Ask for one vector, and return how many dimensions it has.

        Raises ModelUnavailable if the endpoint, or what is there instead, makes none.
        """
        try:
            vectors = await self._ask([PROBE])
        except (RequestRefused, NotAnEndpoint, UnusableAnswer) as error:
            raise _wrong_setup(error) from error
        return int(vectors.shape[1])

    async def embed_each(self, texts: Sequence[str]) -> list[Row | DocumentRejected]:
        """Embed chunks of documents in one request: the vector of each, or why it has none."""
        return await self._each([encodable(self._config.document_prompt + text) for text in texts])

    async def embed_query(self, text: str) -> Row:
        """Embed what somebody searches for; shape (dimension,). Raises WrongQuestion if refused."""
        [outcome] = await self._each([encodable(self._config.query_prompt + text)])
        if isinstance(outcome, DocumentRejected):
            raise InvalidQuery(f"the question cannot be embedded: {outcome}") from outcome
        return outcome

    async def _each(self, texts: Sequence[str]) -> list[Row | DocumentRejected]:
        """Ask for all at once, then for halves: the endpoint does not say which text it is about.

        Raises what is wrong with the endpoint; then the rest is not asked for.
        """
        outcomes: list[Row | DocumentRejected] = []
        async for _, outcome in bisect_on_failure(texts, self._ask_for, _may_be_one_text):
            if isinstance(outcome, Exception) and not isinstance(outcome, DocumentRejected):
                raise outcome
            outcomes.append(outcome)
        return outcomes

    async def _ask_for(self, texts: Sequence[str]) -> Sequence[Row | DocumentRejected]:
        """Ask for the vectors of ``texts``, or say why the only one has none.

        Raises Refused or Failing if one of several texts may be the reason.
        """
        try:
            return list(await self._retrying(self._ask, texts))
        except RequestRefused as error:
            if len(texts) > 1:
                raise
            await self._check_serving()
            return [_rejected(texts[0], error)]
        except RequestFailed:
            await self._check_serving()  # a text may bring it down each time that it is asked
            if len(texts) > 1:
                raise
            return [await self._last_try(texts[0])]

    async def _last_try(self, text: str) -> Row | DocumentRejected:
        """Ask for the vector of a text over which the endpoint failed, while it served another."""
        try:
            [row] = await self._retrying(self._ask, [text])
        except (RequestRefused, RequestFailed) as error:
            await self._check_serving()
            return _rejected(text, error)
        return np.asarray(row)

    async def _check_serving(self) -> None:
        """Raise what is wrong with the endpoint, unless it serves a text that is known to be good.

        Otherwise one that lost its model would make dead letters of all documents. Never raises
        Refused or Failing: no text is to blame.
        """
        try:
            await self._ask([PROBE])
        except RequestRefused as error:
            raise _wrong_setup(error) from error
        except RequestFailed as error:
            raise EmbedderUnavailable(str(error), error.retry_after) from error

    async def _ask(self, texts: Sequence[str]) -> Row:
        response = await self._answer(texts)
        if response.status_code != httpx.codes.OK:
            answer = FailedAnswer(response.status_code, response.headers, response.content)
            raise endpoint_error(self.place, answer)
        vectors = read_vectors(response.content, len(texts), self._dimension, self.place)
        self._dimension = vectors.shape[1]
        return vectors

    async def _answer(self, texts: Sequence[str]) -> httpx.Response:
        request = {"model": self._config.model, "input": texts, "encoding_format": "float"}
        seconds = self._config.answer_seconds
        try:
            async with asyncio.timeout(seconds):
                return await self._client.post(self._url, content=msgspec.json.encode(request))
        except TimeoutError as error:
            raise RequestFailed(f"{self._who} has not answered within {seconds:g} s") from error
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as error:
            raise EmbedderUnavailable(
                f"{self._who} does not answer ({_detail(error)}); start it or set "
                "INGESTQ_EMBEDDINGS_URL"
            ) from error
        except httpx.TransportError as error:  # also what a server does that dies of a text
            raise RequestFailed(f"{self._who} broke off ({_detail(error)})") from error
        except httpx.RequestError as error:  # content encoded in another way than it says
            raise NotAnEndpoint(f"{self._who} answers what cannot be read: {error}") from error

    @property
    def _who(self) -> str:
        return f"the embeddings endpoint at {self.place}"

    def _when_to_retry(self, error: Exception) -> bool | float:
        """Return when to repeat a request in place; see `retry_delay`."""
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
        f"{error}. This was a short text: see INGESTQ_EMBEDDINGS_URL and INGESTQ_MODEL"
    )


def _detail(error: Exception) -> str:
    return str(error) or type(error).__name__
