"""The Qdrant that all contenders write to, in a process of its own and over HTTP."""

import asyncio
import os
import sys
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from qdrant_client import AsyncQdrantClient

from benchmarks.embedding.agreement import Matrix

TEST_URL: Final = "INGESTQ_TEST_QDRANT_URL"
"""Names an existing server; collections made there are deleted."""
PREFIX: Final = "ingestq-bench-"
"""Start of the names of all collections."""
PAGE_POINTS: Final = 256


@dataclass(frozen=True)
class BenchQdrant:
    """The Qdrant at ``url``; ``pid`` is the process of the stand-in, None for a server."""

    url: str
    pid: int | None

    @property
    def kind(self) -> str:
        """A description for the report."""
        if self.pid is None:
            return "a Qdrant server"
        return "a stand-in for Qdrant: the client's local mode behind HTTP, in a process of its own"

    def new_collection(self, what: str) -> str:
        """Return a name that was not used before."""
        return f"{PREFIX}{what}-{time.time_ns()}"


@asynccontextmanager
async def open_qdrant() -> AsyncIterator[BenchQdrant]:
    """Open the server that the environment names, else start a stand-in."""
    url = os.environ.get(TEST_URL)
    if url is not None:
        try:
            yield BenchQdrant(url, None)
        finally:
            await remove_collections(url)
        return
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.qdrant_standin"), stdout=PIPE
    )
    try:
        assert process.stdout is not None
        yield BenchQdrant((await process.stdout.readline()).decode().strip(), process.pid)
    finally:
        process.kill()
        await process.wait()


async def remove_collections(url: str) -> None:
    """Delete the benchmark's collections, so that no round writes to a larger Qdrant."""
    client = AsyncQdrantClient(url, check_compatibility=False)
    try:
        for collection in (await client.get_collections()).collections:
            if collection.name.startswith(PREFIX):
                await client.delete_collection(collection.name)
    finally:
        await client.close()


async def stored_vectors(url: str, collection: str, texts: Sequence[str]) -> Matrix:
    """Return the stored dense vector of each text; each of ``texts`` must be stored once."""
    import numpy as np

    client = AsyncQdrantClient(url, check_compatibility=False)
    rows: dict[str, list[float]] = {}
    points = 0
    offset = None
    try:
        while True:
            page, offset = await client.scroll(
                collection,
                limit=PAGE_POINTS,
                offset=offset,
                with_payload=["page_content"],
                with_vectors=[""],
            )
            for record in page:
                points += 1
                vector = record.vector[""] if isinstance(record.vector, dict) else record.vector
                rows[(record.payload or {})["page_content"]] = vector  # type: ignore[assignment]
            if offset is None:
                break
    finally:
        await client.close()
    assert points == len(texts), f"{points} chunks are stored, not {len(texts)}"
    return np.asarray([rows[text] for text in texts], dtype=np.float32)
