"""The Qdrant that all contenders write to, in a process of its own and over HTTP."""

import asyncio
import tempfile
import time
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from qdrant_client import AsyncQdrantClient

from benchmarks.embedding.agreement import Matrix
from ingestq.embedded.engine import FOLDER, open_engine

TEST_URL: Final = "INGESTQ_TEST_QDRANT_URL"
"""The variable that names an existing server; collections made there are deleted."""
PREFIX: Final = "ingestq-bench-"
"""Start of the names of all collections."""
PAGE_POINTS: Final = 256
RELAYED_BYTES: Final = 1024 * 1024
"""The most that is passed on at once."""


@dataclass(frozen=True)
class BenchQdrant:
    """The Qdrant at ``url``. ``pid`` and ``data_dir`` are those of the bundled one; None for a
    server."""

    url: str
    pid: int | None
    data_dir: Path | None

    @property
    def environment(self) -> dict[str, str]:
        """The settings of a worker that writes to it: to the bundled one through its socket."""
        if self.data_dir is None:
            return {"INGESTQ_QDRANT_URL": self.url}
        return {"INGESTQ_QDRANT_URL": "", "INGESTQ_DATA_DIR": str(self.data_dir)}

    @property
    def kind(self) -> str:
        """A description for the report."""
        if self.pid is None:
            return "a Qdrant server"
        return "the bundled Qdrant, in a process of its own"

    def new_collection(self, what: str) -> str:
        """Return a name that was not used before."""
        return f"{PREFIX}{what}-{time.time_ns()}"


@asynccontextmanager
async def open_qdrant(url: str | None) -> AsyncIterator[BenchQdrant]:
    """Open the server at ``url``, or start the bundled Qdrant.

    Other libraries' clients cannot connect to its socket, so it has a URL, too.
    """
    if url is not None:
        try:
            yield BenchQdrant(url, None, None)
        finally:
            await remove_collections(url)
        return
    with tempfile.TemporaryDirectory() as folder:
        async with open_engine(Path(folder)) as engine, _relay(engine.socket) as relayed:
            recorded = Path(folder, FOLDER, "server.pid")
            pid = await asyncio.to_thread(recorded.read_text, encoding="ascii")
            yield BenchQdrant(relayed, int(pid), Path(folder))


@asynccontextmanager
async def _relay(path: Path) -> AsyncIterator[str]:
    """Pass connections on to the Unix socket at ``path``; yield the URL that they come to."""

    async def serve(reader: StreamReader, writer: StreamWriter) -> None:
        with suppress(OSError):
            there, back = await asyncio.open_unix_connection(path)
            await asyncio.gather(_pass_on(reader, back), _pass_on(there, writer))

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def _pass_on(reader: StreamReader, writer: StreamWriter) -> None:
    try:
        while data := await reader.read(RELAYED_BYTES):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()


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
