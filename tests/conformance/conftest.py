"""The Qdrants to ask, and collections in them."""

import os
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import httpx
import pytest
from qdrant_client import AsyncQdrantClient

from tests.addresses import base_url, transport
from tests.conformance.data import VECTOR

PLACES: Final = ["engine", *(["server"] if "INGESTQ_TEST_QDRANT_URL" in os.environ else [])]
ANSWER_SECONDS: Final = 60

Create = Callable[..., Awaitable[str]]
"""Creates a collection with the given arguments of `AsyncQdrantClient.create_collection`, by
default for vectors of four dimensions and their dot product; returns its name."""


@pytest.fixture(scope="session", params=PLACES)
def place(request: pytest.FixtureRequest) -> str:
    """Where each available Qdrant is, in turn."""
    if request.param == "server":
        return os.environ["INGESTQ_TEST_QDRANT_URL"]
    return str(request.getfixturevalue("bundled_qdrant"))


@pytest.fixture(scope="session")
async def client(place: str) -> AsyncIterator[AsyncQdrantClient]:
    client = AsyncQdrantClient(
        url=base_url(place),
        transport=transport(place),
        timeout=ANSWER_SECONDS,
        check_compatibility=False,
    )
    yield client
    await client.close()


@pytest.fixture(scope="session")
async def http(place: str) -> AsyncIterator[httpx.AsyncClient]:
    """For requests that qdrant-client does not make."""
    async with httpx.AsyncClient(
        base_url=base_url(place), transport=transport(place), timeout=ANSWER_SECONDS
    ) as http:
        yield http


@pytest.fixture
async def create(client: AsyncQdrantClient) -> AsyncIterator[Create]:
    """Creates collections that are deleted at the end of the test."""
    async with _creating(client) as create:
        yield create


@pytest.fixture(scope="module")
async def create_shared(client: AsyncQdrantClient) -> AsyncIterator[Create]:
    """Creates collections that are deleted at the end of the module's tests."""
    async with _creating(client) as create:
        yield create


@pytest.fixture
async def name(create: Create) -> str:
    """An empty collection."""
    return await create()


@asynccontextmanager
async def _creating(client: AsyncQdrantClient) -> AsyncIterator[Create]:
    prefix = f"test-{uuid.uuid4().hex[:12]}"
    number = 0

    async def create(suffix: str = "", **options: Any) -> str:
        nonlocal number
        number += 1
        name = f"{prefix}-{number}{suffix}"
        assert await client.create_collection(name, **{"vectors_config": VECTOR, **options})
        return name

    yield create
    for collection in (await client.get_collections()).collections:
        if collection.name.startswith(prefix):
            await client.delete_collection(collection.name)
