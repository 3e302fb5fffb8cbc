"""The reranker as searches use it: texts in, their order out, or the reason why there is none."""

import asyncio
import math
import time
from collections.abc import Sequence
from typing import Final, NamedTuple

from ingestq.core import metrics
from ingestq.core.errors import IngestqError, RerankerUnavailable
from ingestq.core.metrics import ServiceName
from ingestq.core.outages import note_answer, note_failure
from worker.reranking.config import RerankerConfig, Scorer
from worker.reranking.cross_encoder import CrossEncoderProcess
from worker.reranking.endpoint import RerankEndpoint

REST_SECONDS: Final = 30.0
"""How long a reranker that could not be made ready is left alone: trying again takes seconds."""


class Ranked(NamedTuple):
    """A text's position among those that were ranked, and its score."""

    position: int
    score: float


class Reranker:
    """Ranks the hits of searches. `stop` it in the end.

    The scorer is made ready by `begin` or the first call of `rank`.
    """

    def __init__(self, config: RerankerConfig) -> None:
        self.candidates = config.candidates
        self._seconds = config.seconds
        self._scorer: Scorer
        if config.url is None:
            self._scorer = CrossEncoderProcess(config)
        else:
            self._scorer = RerankEndpoint(config)
        self._ready: asyncio.Task[None] | None = None
        self._failed_at = -math.inf

    def begin(self) -> None:
        """Begin to make it ready, unless that failed a short time ago."""
        rests = time.monotonic() - self._failed_at < REST_SECONDS
        if self._ready is None or (self._failed(self._ready) and not rests):
            self._ready = asyncio.create_task(self._prepare(), name="reranker")

    async def stop(self) -> None:
        """End what was started. Stopping twice is fine."""
        if self._ready is not None:
            self._ready.cancel()
            await asyncio.gather(self._ready, return_exceptions=True)
        await self._scorer.stop()

    async def _prepare(self) -> None:
        try:
            await self._scorer.prepare()
        except RerankerUnavailable:
            self._failed_at = time.monotonic()
            raise

    @staticmethod
    def _failed(task: asyncio.Task[None]) -> bool:
        return task.done() and (task.cancelled() or task.exception() is not None)

    async def rank(self, query: str, texts: Sequence[str]) -> list[Ranked]:
        """Return all ``texts``, the one that answers ``query`` best first.

        Those with the same score stay in their order. Raises RerankerUnavailable if they cannot be
        ranked, or not within the configured time, which does not include making it ready.
        """
        try:
            self.begin()
            assert self._ready is not None, "`begin` sets it"
            await asyncio.shield(self._ready)
            scores = await self._scores(query, texts)
        except IngestqError as error:
            failure = (
                error
                if isinstance(error, RerankerUnavailable)
                else RerankerUnavailable(f"the reranker failed: {error}")
            )
            metrics.count_error(ServiceName.RERANKER, failure)
            note_failure(failure)
            raise failure from error
        note_answer(RerankerUnavailable)
        ranked = (Ranked(position, score) for position, score in enumerate(scores))
        return sorted(ranked, key=lambda text: -text.score)

    async def _scores(self, query: str, texts: Sequence[str]) -> list[float]:
        try:
            async with asyncio.timeout(self._seconds):
                return await self._scorer.score(query, texts)
        except TimeoutError as error:
            raise RerankerUnavailable(
                f"the reranker was not done with {len(texts)} hits within {self._seconds:g} s; "
                "lower INGESTQ_RERANKER_CANDIDATES or raise INGESTQ_RERANKER_SECONDS"
            ) from error
