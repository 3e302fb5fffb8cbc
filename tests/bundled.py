"""The bundled Qdrant of a data directory, used beside the commands of a test."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from ingestq.embedded.engine import open_engine
from worker.store.client import Qdrant, QdrantConfig, connect_qdrant


@asynccontextmanager
async def bundled_qdrant(data_dir: Path) -> AsyncIterator[Qdrant]:
    """The bundled Qdrant of a data directory."""
    async with (
        open_engine(data_dir) as engine,
        connect_qdrant(QdrantConfig(None, None, engine.socket, engine.outage)) as qdrant,
    ):
        yield qdrant
