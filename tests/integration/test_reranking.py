"""Reranking: the order of hits, and searches whose reranker is away."""

import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi import Response
from fastapi.responses import JSONResponse
from httpx import ASGITransport, AsyncClient

from ingestq.api.app import ApiConfig, create_app
from ingestq.app.search import QdrantOnDemand, SearchService
from ingestq.app.settings import Settings, load_settings
from ingestq.core.errors import InvalidQuery, RerankerUnavailable, UsageError
from ingestq.core.search_query import SearchQuery, SearchResult
from tests.command import Ingestq
from tests.harness import Harness
from tests.rerank_endpoint import RerankServer, rerank_server, score
from tests.serving import services
from tests.tiny_models import QUERIES, TEXTS, TinyModels
from worker.pipeline.points import SearchHit
from worker.reranking.config import RerankerConfig
from worker.reranking.reranker import Reranker
from worker.text.parts import with_context

QUERY = "red lamps of the harbour"
GEESE = "Geese."
NOWHERE = Path("/nowhere")


@pytest.fixture
async def server() -> AsyncIterator[RerankServer]:
    async with rerank_server() as running:
        yield running


@pytest.fixture
async def reranker(server: RerankServer) -> AsyncIterator[Reranker]:
    opened = Reranker(config_of(server, seconds=60))
    yield opened
    await opened.stop()


def config_of(server: RerankServer, seconds: float) -> RerankerConfig:
    return RerankerConfig(NOWHERE, url=server.url, api_key="a-key", seconds=seconds)


# A model on this machine


async def test_scores_are_those_of_sentence_transformers(tiny_models: TinyModels) -> None:
    reranker = Reranker(tiny_models.cross_encoder(seconds=60.0))
    try:
        for query, expected in zip(QUERIES, tiny_models.scores(), strict=True):
            ranked = await reranker.rank(query, TEXTS)
            assert sorted(text.position for text in ranked) == list(range(len(TEXTS)))
            scores = [text.score for text in ranked]
            assert scores == sorted(scores, reverse=True)
            found = np.array([text.score for text in sorted(ranked)])
            assert np.abs(found - expected).max() <= 0.02 * np.ptp(expected)
    finally:
        await reranker.stop()


@pytest.mark.slow
async def test_a_model_that_is_no_cross_encoder_is_not_used(
    tiny_models: TinyModels, tmp_path: Path
) -> None:
    model = shutil.copytree(tiny_models.model("prompts"), tmp_path / "model")
    reranker = Reranker(RerankerConfig(tmp_path / "cache", str(model)))
    for _ in range(2):
        with pytest.raises(
            RerankerUnavailable, match=r"BertModel is not a cross encoder.*RERANKER"
        ):
            await reranker.rank("x", ["y"])
        shutil.rmtree(model, ignore_errors=True)  # so it cannot be loaded again
    await reranker.stop()


# An endpoint


async def test_an_endpoint_ranks_texts_in_requests_that_it_accepts(
    reranker: Reranker, server: RerankServer
) -> None:
    server.api_key = "a-key"
    texts = ["a text"] * 49 + ["x"]
    ranked = await reranker.rank(QUERY, texts)
    assert ranked[0] == (49, score("x"))
    assert [text.position for text in ranked[1:]] == list(range(49)), "equal ones stay in order"
    assert sorted(len(asked["texts"]) for asked in server.asked) == [18, 32]
    assert all(asked["truncate"] for asked in server.asked)


FAILURES: dict[str, tuple[Response, str]] = {
    "a wrong key": (Response(status_code=401), "INGESTQ_RERANKER_API_KEY"),
    "another path": (Response(status_code=404), "before /rerank"),
    "an overload": (JSONResponse({"error": "Model is overloaded"}, 429), "Model is overloaded"),
    "a failure": (JSONResponse({"error": "out of memory"}, 424), "out of memory"),
    "a page": (Response("<html>"), "does not answer like text-embeddings-inference"),
    "too few scores": (JSONResponse([{"index": 0, "score": 1.0}]), "2 texts with 1 scores"),
    "no number": (Response(b'[{"index":0,"score":1e999},{"index":1,"score":0}]'), "does not"),
}


@pytest.mark.parametrize(("answer", "said"), FAILURES.values(), ids=FAILURES)
async def test_a_failed_answer_is_explained(
    reranker: Reranker, server: RerankServer, answer: Response, said: str
) -> None:
    server.answer = answer
    with pytest.raises(RerankerUnavailable, match=said):
        await reranker.rank("x", ["a", "b"])


async def test_an_endpoint_that_is_too_slow_is_given_up(server: RerankServer) -> None:
    server.hangs = True
    reranker = Reranker(config_of(server, seconds=0.5))
    with pytest.raises(RerankerUnavailable, match=r"within 0\.5 s"):
        await reranker.rank("x", ["a", "b"])
    await reranker.stop()


# Searches


def write(harness: Harness, *texts: str) -> None:
    for number, text in enumerate(texts):
        (harness.root / f"{number}.txt").write_text(text)


@pytest.fixture
async def filled(harness: Harness) -> Harness:
    write(
        harness,
        "Lamps. Lamps! Lamps? The lamps of the harbour.",
        "The red boat has one of the lamps of the harbour",
        GEESE,
    )
    await harness.scan()
    return harness


async def answered(
    harness: Harness, settings: dict[str, Any], *queries: SearchQuery
) -> list[SearchResult[SearchHit]]:
    chosen = Settings(collection=harness.names.alias, reranker_seconds=60, **settings)
    async with AsyncExitStack() as closing:
        search = SearchService(chosen, closing, QdrantOnDemand(chosen, closing, harness.qdrant))
        return [await search(query) for query in queries]


async def test_hits_are_reranked_if_it_is_asked_for(filled: Harness, server: RerankServer) -> None:
    def query(rerank: bool | None, **more: Any) -> SearchQuery:
        name = filled.names.alias
        return SearchQuery(QUERY, 1, collection=name, rerank=rerank, **more)

    settings = {"reranker": server.url, "rerank": True, "reranker_candidates": 3}
    queries = query(None), query(False), query(True, around=1, group=True)
    default, without, wanted = await answered(filled, settings, *queries)
    [best], [first] = default.hits, without.hits
    assert (default.reranked, without.reranked, wanted.reranked) == (True, False, True)
    assert default.warnings == without.warnings == ()
    assert best.text == GEESE
    assert best.snippet
    assert best.score == score(with_context(best.context, GEESE))
    assert first.text != GEESE
    assert [hit.doc_id for hit in wanted.hits] == [best.doc_id]
    assert [len(asked["texts"]) for asked in server.asked] == [3, 3]


async def test_a_search_answers_without_a_reranker_that_is_away(filled: Harness) -> None:
    name = filled.names.alias
    asked = {"q": QUERY, "rerank": "true", "collection": name}
    reranker: Any = "http://u:canary@127.0.0.1:1"
    settings = Settings(collection=name, reranker=reranker, reranker_seconds=60)
    async with AsyncExitStack() as closing:
        search = SearchService(settings, closing, QdrantOnDemand(settings, closing, filled.qdrant))
        app = create_app(
            services(filled.broker, search), ApiConfig(10_000, collections=settings.collections)
        )
        async with AsyncClient(transport=ASGITransport(app), base_url="http://localhost") as http:
            answer = (await http.get("/search", params=asked)).json()
    assert len(answer["hits"]) == 3
    assert not answer["reranked"]
    [warning] = answer["warnings"]
    assert "not reranked: the reranker at http://127.0.0.1:1/rerank does not answer" in warning
    assert "canary" not in warning


async def test_reranking_needs_a_reranker(filled: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    query = SearchQuery(QUERY, 1, collection=filled.names.alias, rerank=True)
    with pytest.raises(InvalidQuery, match="set INGESTQ_RERANKER"):
        await answered(filled, {}, query)
    monkeypatch.setenv("INGESTQ_RERANK", "true")
    with pytest.raises(UsageError, match="set INGESTQ_RERANKER, too"):
        load_settings()


@pytest.mark.slow
async def test_the_command_reranks_and_warns(ingestq: Ingestq) -> None:
    (ingestq.folder / "note.txt").write_text("The lamps of the harbour.")
    assert ingestq("run", "note.txt").code == 0
    ingestq("search", "lamps", "--rerank").failed_with(2, "INGESTQ_RERANKER")
    ingestq.settings["reranker"] = "http://127.0.0.1:1"
    found = ingestq("search", "lamps", "--rerank", "--json").json
    assert len(found["hits"]) == 1
    assert not found["reranked"]
    assert "does not answer" in found["warnings"][0]
