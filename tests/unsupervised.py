"""A bundled Redis that stays dead when it dies, until another user starts it again."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from ingestq.embedded.redis import REDIS
from ingestq.embedded.server import BundledServer


@asynccontextmanager
async def unsupervised_redis(data_dir: Path) -> AsyncIterator[str]:
    """Use the server under ``data_dir``; yields its URL. This user does not restart it."""
    server = BundledServer(REDIS, data_dir / "redis", ())
    try:
        await server.join()
        yield f"unix://{server.socket}"
    finally:
        await server.leave()
