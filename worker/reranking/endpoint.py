"""Reranks with an endpoint that has text-embeddings-inference's ``POST /rerank``.

See https://huggingface.github.io/text-embeddings-inference/#/Text%20Embeddings%20Inference/rerank
"""

import asyncio
import json
import math
from collections.abc import Sequence
from typing import Final

import httpx
import msgspec

from ingestq.core.errors import RerankerUnavailable, encodable
from ingestq.core.urls import public_url, without_secrets
from worker.http_answers import ANY_STATUS, AnswerRule, FailedAnswer, to_error
from worker.reranking.config import RerankerConfig

MAX_REQUEST_TEXTS: Final = 32
"""The limit of text-embeddings-inference by default."""
MAX_REQUESTS: Final = 4
CONNECT_SECONDS: Final = 5.0
RULES: Final = (
    AnswerRule({401, 403}, None, RerankerUnavailable, "does not accept INGESTQ_RERANKER_API_KEY"),
    AnswerRule(
        {404, 405},
        None,
        RerankerUnavailable,
        "has no POST /rerank; set INGESTQ_RERANKER to the part of its URL before /rerank",
    ),
    AnswerRule({429, 503}, None, RerankerUnavailable, "is overloaded or limits requests"),
    AnswerRule(ANY_STATUS, None, RerankerUnavailable, "failed over the request"),
)


class _Score(msgspec.Struct):
    index: int
    score: float


_decoder: Final = msgspec.json.Decoder(list[_Score])


class RerankEndpoint:
    """A `Scorer` behind an endpoint."""

    def __init__(self, config: RerankerConfig) -> None:
        assert config.url is not None, "the caller checked it"
        url = config.url.rstrip("/") + "/rerank"
        self._config = config
        self._who = f"the reranker at {public_url(url)}"
        self._requests = asyncio.Semaphore(MAX_REQUESTS)
        key = {} if config.api_key is None else {"Authorization": f"Bearer {config.api_key}"}
        self._client = httpx.AsyncClient(
            headers={"Content-Type": "application/json", **key},
            timeout=httpx.Timeout(config.seconds, connect=min(CONNECT_SECONDS, config.seconds)),
            limits=httpx.Limits(max_keepalive_connections=MAX_REQUESTS),
            follow_redirects=False,  # the key would be sent along
        )
        self._url = url

    async def prepare(self) -> None:
        """See `Scorer`; there is nothing to do."""

    async def score(self, query: str, texts: Sequence[str]) -> list[float]:
        """See `Scorer`."""
        starts = range(0, len(texts), MAX_REQUEST_TEXTS)
        parts = [texts[start : start + MAX_REQUEST_TEXTS] for start in starts]
        scores = await asyncio.gather(*(self._ask(query, part) for part in parts))
        return [score for part in scores for score in part]

    async def stop(self) -> None:
        """See `Scorer`."""
        await self._client.aclose()

    async def _ask(self, query: str, texts: Sequence[str]) -> list[float]:
        request = {
            "query": encodable(query),
            "texts": list(map(encodable, texts)),
            "truncate": True,  # else one long text fails all
        }
        try:
            async with self._requests:
                response = await self._client.post(self._url, content=msgspec.json.encode(request))
        except httpx.TimeoutException as error:
            raise RerankerUnavailable(
                f"{self._who} did not answer within {self._config.seconds:g} s"
            ) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            said = without_secrets(str(error), self._config.secrets) or type(error).__name__
            raise RerankerUnavailable(f"{self._who} does not answer ({said})") from error
        if response.status_code != httpx.codes.OK:
            answer = FailedAnswer(response.status_code, response.headers, response.content)
            raise to_error(
                RULES, self._who, answer, _reason(response.content), self._config.secrets
            )
        return self._read(response.content, len(texts))

    def _read(self, body: bytes, texts: int) -> list[float]:
        try:
            answer = sorted(_decoder.decode(body), key=lambda score: score.index)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise RerankerUnavailable(
                f"{self._who} does not answer like text-embeddings-inference ({error}); check "
                "INGESTQ_RERANKER"
            ) from error
        if [score.index for score in answer] != list(range(texts)):
            raise RerankerUnavailable(
                f"{self._who} answered {texts} texts with {len(answer)} scores, or wrong indexes"
            )
        if not all(math.isfinite(score.score) for score in answer):
            raise RerankerUnavailable(f"{self._who} answered with scores that are not finite")
        return [score.score for score in answer]


def _reason(body: bytes) -> str | None:
    """Return the error text of text-embeddings-inference; None if it is none."""
    try:
        answer = json.loads(body)
    except ValueError:
        return None
    error = answer.get("error") or answer.get("message") if isinstance(answer, dict) else None
    return error if isinstance(error, str) else None
