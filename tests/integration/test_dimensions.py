"""INGESTQ_DIMENSIONS: truncated vectors, as Matryoshka models allow."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from ingestq.app.search import query_settings
from ingestq.app.settings import Settings
from ingestq.core.documents import Lane
from ingestq.core.errors import ModelUnavailable
from tests.embeddings_endpoint import Endpoint, embeddings_endpoint, vector_of
from tests.embeddings_endpoint.app import DIMENSION, MODEL
from tests.tiny_models import TEXTS, TRUNCATED, TinyModels
from worker.embedding.backends import truncated
from worker.embedding.config import EmbeddingConfig, HttpConfig, ModelInfo
from worker.embedding.pool import ModelPool
from worker.store.client import Qdrant
from worker.store.collection import CollectionNames, make_collection
from worker.store.schema import DEFAULT_STORAGE, fingerprint
from worker.text.parts import SizedText

KIND = "static"


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with embeddings_endpoint() as running:
        yield running


async def test_vectors_are_those_of_truncate_dim(tiny_models: TinyModels) -> None:
    """`encode` truncates before it normalizes, so both divide the same numbers."""
    async with ModelPool(tiny_models.config(KIND, dimensions=TRUNCATED)) as model:
        assert (model.info.dimension, model.info.truncated) == (TRUNCATED, True)
        rows = await model.embed(Lane.BULK, [SizedText(text, 8) for text in TEXTS])
        query = (await model.embed_query(TEXTS[0])).dense
    assert np.allclose(rows, tiny_models.truncated_documents(KIND), atol=1e-5)
    assert np.allclose(query, truncated(tiny_models.queries(KIND)[0], TRUNCATED), atol=1e-5)


async def test_a_model_has_no_more_dimensions_than_its_own(tiny_models: TinyModels) -> None:
    with pytest.raises(ModelUnavailable, match="32 dimensions, but INGESTQ_DIMENSIONS is 64"):
        async with ModelPool(tiny_models.config(KIND, dimensions=64)):
            pass
    async with ModelPool(tiny_models.config(KIND, dimensions=32)) as model:
        assert not model.info.truncated


def test_only_truncation_changes_the_fingerprint() -> None:
    whole = ModelInfo("m", "r", 32, 8)
    assert fingerprint(whole).digest != fingerprint(replace(whole, truncated=True)).digest
    assert fingerprint(replace(whole, dimension=12)).digest != fingerprint(whole).digest


async def test_a_search_truncates_as_the_collection_was_built(
    qdrant: Qdrant, collection: CollectionNames
) -> None:
    info = ModelInfo("a model", "r", TRUNCATED, 8, truncated=True)
    short = CollectionNames.of(f"{collection.alias}-short", fingerprint(info).digest)
    await make_collection(qdrant, short, fingerprint(info), DEFAULT_STORAGE)
    settings = Settings(dimensions=7)
    assert (await query_settings(settings, qdrant, short)).dimensions == TRUNCATED
    assert (await query_settings(settings, qdrant, collection)).dimensions is None


@pytest.mark.parametrize("asks", [False, True])
async def test_an_endpoints_vectors_are_truncated(
    endpoint: Endpoint, asks: bool, tiny_models: TinyModels
) -> None:
    http = HttpConfig(endpoint.url, MODEL, dimensions=4, asks_for_dimensions=asks)
    config = EmbeddingConfig(tiny_models.folder, MODEL, http, dimensions=4)
    async with ModelPool(config) as model:
        assert (model.info.dimension, model.info.truncated) == (4, True)
        [row] = await model.embed(Lane.BULK, [SizedText("x", 1)])
    whole = vector_of("x")
    assert np.allclose(row, truncated(whole, 4), atol=1e-6)
    assert [asked.body.get("dimensions") for asked in endpoint.asked] == [4 if asks else None] * 2
    assert len(whole) == DIMENSION


async def test_an_endpoint_with_shorter_vectors_is_refused(
    endpoint: Endpoint, tiny_models: TinyModels
) -> None:
    http = HttpConfig(endpoint.url, MODEL, dimensions=16, asks_for_dimensions=True)
    config = EmbeddingConfig(tiny_models.folder, MODEL, http, dimensions=16)
    with pytest.raises(ModelUnavailable, match="8 dimensions, but INGESTQ_DIMENSIONS is 16"):
        async with ModelPool(config):
            pass
