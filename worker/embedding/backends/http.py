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
)
from worker.embedding.backends.http_answers import (
    Failing,
    NotAnEndpoint,
    Refused,
    Unusable,
    meaning,
    read_vectors,
)
from worker.embedding.config import HttpConfig


def embeddings_url(url: str) -> httpx.URL:
    """Where to send requests for the endpoint at ``url``. Raises UsageError if that is no URL."""
    try:
        parsed = httpx.URL(url.rstrip("/") + "/embeddings")
    except httpx.InvalidURL:
        parsed = httpx.URL()
    is_whole = parsed.scheme in ("http", "https") and parsed.host
    if not is_whole or parsed.query or parsed.fragment or url.rstrip("/").endswith("/embeddings"):
        raise UsageError(
            f"INGESTQ_EMBEDDINGS_URL {url!r} is not the URL of an endpoint; write the part before "
            "/embeddings, such as http://HOST:8080/v1"
        )
    return parsed


def headers(api_key: str | None) -> dict[str, str]:
    """What comes with every request. Raises UsageError if that is no key; it shows none of it."""
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
        self.place = str(self._url.copy_with(username=None, password=None))
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
        ).on(self._retry_after)

    async def __aenter__(self) -> Self:
        """Nothing is asked yet: see `describe`."""
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
        """Ask for one vector; how many dimensions it has.

        Raises ModelUnavailable if the endpoint, or what is there instead, makes none.
        """
        try:
            vectors = await self._ask([PROBE])
        except (Refused, NotAnEndpoint, Unusable) as error:
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
        """Ask for all at once, then for halves: nobody says which text it was about."""
        try:
            return list(await self._retrying(self._ask, texts))
        except Refused as error:
            if len(texts) == 1:
                await self._check_serving()
                return [_rejected(texts[0], error)]
        except Failing:
            await self._check_serving()  # a text may bring it down each time that it is asked
            if len(texts) == 1:
                return [await self._last_try(texts[0])]
        half = len(texts) // 2
        return [*await self._each(texts[:half]), *await self._each(texts[half:])]

    async def _last_try(self, text: str) -> Row | DocumentRejected:
        """Ask for the vector of a text over which the endpoint failed, while it served another."""
        try:
            [row] = await self._retrying(self._ask, [text])
        except (Refused, Failing) as error:
            await self._check_serving()
            return _rejected(text, error)
        return np.asarray(row)

    async def _check_serving(self) -> None:
        """Raise what is wrong with the endpoint, unless it serves a text that is known to be good.

        Otherwise one that lost its model would make dead letters of all documents.
        """
        try:
            await self._ask([PROBE])
        except Refused as error:
            raise _wrong_setup(error) from error

    async def _ask(self, texts: Sequence[str]) -> Row:
        response = await self._answer(texts)
        if response.status_code != httpx.codes.OK:
            raise meaning(self.place, response.status_code, response.headers, response.content)
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
            raise Failing(f"{self._who} has not answered within {seconds:g} s") from error
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as error:
            raise EmbedderUnavailable(
                f"{self._who} does not answer ({_detail(error)}); start it or set "
                "INGESTQ_EMBEDDINGS_URL"
            ) from error
        except httpx.TransportError as error:  # also what a server does that dies of a text
            raise Failing(f"{self._who} broke off ({_detail(error)})") from error
        except httpx.RequestError as error:  # content encoded in another way than it says
            raise NotAnEndpoint(f"{self._who} answers what cannot be read: {error}") from error

    @property
    def _who(self) -> str:
        return f"the embeddings endpoint at {self.place}"

    def _retry_after(self, error: Exception) -> bool | float:
        """When to ask again: True is with back-off, False never, else the seconds it named."""
        if not isinstance(error, EmbedderUnavailable) or isinstance(
            error, NotAnEndpoint | Unusable
        ):
            return False
        if error.retry_after is None:
            return True
        return error.retry_after if error.retry_after <= self._config.patience_seconds else False


def _rejected(text: str, error: Exception) -> DocumentRejected:
    return DocumentRejected(f"a text of {len(text)} characters cannot be embedded: {error}")


def _wrong_setup(error: Exception) -> ModelUnavailable:
    return ModelUnavailable(
        f"{error}. This was a short text: see INGESTQ_EMBEDDINGS_URL and INGESTQ_MODEL"
    )


def _detail(error: Exception) -> str:
    return str(error) or type(error).__name__
