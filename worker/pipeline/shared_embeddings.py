"""Embeds a text once that several documents of a batch share."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt

from ingestq.core.documents import Lane
from worker.pipeline.ports import Model, Ports, Preparation
from worker.text.parts import (
    SizedText,
)

Row = npt.NDArray[np.float32]

KEPT_TEXTS: Final = 4096
"""So many of the latest texts are remembered with their vectors: some ten megabytes."""


def with_shared_embeddings(ports: Ports) -> Ports:
    """Return ``ports`` with a model that embeds a text only once."""
    return replace(ports, model=SharedEmbeddings(ports.model))


class SharedEmbeddings(Preparation):
    """A `Model` that embeds each text once, also while a request for it is running."""

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self._rows: dict[SizedText, asyncio.Future[Row]] = {}

    async def embed(self, lane: Lane, texts: Sequence[SizedText]) -> Row:
        """See `worker.pipeline.ports.Model`."""
        mine = {text: self._promise(text) for text in texts if text not in self._rows}
        promised = [(text, self._rows[text]) for text in texts]
        if mine:
            try:
                rows = await self._model.embed(lane, list(mine))
                for future, row in zip(mine.values(), rows, strict=True):
                    future.set_result(row)
            finally:
                self._forget(mine)
        return np.stack([await self._row(lane, text, future) for text, future in promised])

    def _promise(self, text: SizedText) -> asyncio.Future[Row]:
        future: asyncio.Future[Row] = asyncio.get_running_loop().create_future()
        self._rows[text] = future
        return future

    def _forget(self, mine: dict[SizedText, asyncio.Future[Row]]) -> None:
        """Forget the texts that failed, so that other callers ask again, and the oldest texts."""
        for text, future in mine.items():
            if not future.done():
                future.cancel()
                del self._rows[text]
        excess = len(self._rows) - KEPT_TEXTS
        if excess > 0:
            done = [text for text, future in self._rows.items() if future.done()]
            for text in done[:excess]:
                del self._rows[text]

    async def _row(self, lane: Lane, text: SizedText, future: asyncio.Future[Row]) -> Row:
        if future.done() and not future.cancelled():
            return future.result()
        try:
            row: Row = await asyncio.shield(future)
            return row
        except asyncio.CancelledError:
            if not future.cancelled():
                raise
        [row] = await self.embed(lane, [text])  # the caller that asked for it failed
        return row
