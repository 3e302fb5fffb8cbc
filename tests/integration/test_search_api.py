"""``GET /search``: parameters, errors, and the installed command."""

import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from httpx import ASGITransport, AsyncClient

from ingestq.api.app import ApiConfig, create_app
from ingestq.app.composition import Broker
from ingestq.core.errors import InvalidQuery, StoreUnavailable
from ingestq.core.search_query import (
    Comparison,
    MetadataCondition,
    MetadataRange,
    Mode,
    SearchFilter,
    SearchQuery,
    SearchResult,
)
from tests.command import Ingestq
from tests.integration.test_api import refused
from tests.running_command import serving
from tests.serving import services
from worker.pipeline.points import Neighbour, SearchHit
from worker.text.parts import INSIDE

KEEPER = SearchHit(
    0.5,
    "keeper",
    "notes",
    2,
    "The keeper owns two parrots.",
    {"page": 7},
    context=f"The island{INSIDE}Animals",
    page=12,
    part="letter.pdf",
    snippet="two parrots",
    before=(Neighbour(1, "An island."),),
    after=(Neighbour(3, "A boat."), Neighbour(4, "Noon.")),
    tenant="harbour",
    stale=True,
)


@dataclass
class FakeSearch:
    """A search that returns the keeper for every query, or raises."""

    asked: list[SearchQuery] = field(default_factory=list)
    error: Exception | None = None

    async def __call__(self, query: SearchQuery) -> SearchResult[SearchHit]:
        self.asked.append(query)
        if self.error is not None:
            raise self.error
        return SearchResult([KEEPER])


@pytest.fixture
def search() -> FakeSearch:
    return FakeSearch()


@pytest.fixture
async def api(broker: Broker, search: FakeSearch) -> AsyncIterator[AsyncClient]:
    app = create_app(services(broker, search), ApiConfig(10_000))
    async with AsyncClient(transport=ASGITransport(app), base_url="http://localhost") as client:
        yield client


async def test_a_search_returns_hits(api: AsyncClient, search: FakeSearch) -> None:
    answer = await api.get("/search", params={"q": "who has birds?"})
    assert answer.status_code == 200
    keeper: dict[str, Any] = {
        "score": 0.5,
        "doc_id": "keeper",
        "source": "notes",
        "chunk_index": 2,
        "text": "The keeper owns two parrots.",
        "context": f"The island{INSIDE}Animals",
        "page": 12,
        "part": "letter.pdf",
        "metadata": {"page": 7},
        "snippet": "two parrots",
        "before": [{"chunk_index": 1, "text": "An island."}],
        "after": [{"chunk_index": 3, "text": "A boat."}, {"chunk_index": 4, "text": "Noon."}],
        "tenant": "harbour",
        "stale": True,
    }
    assert answer.json() == {"hits": [keeper], "reranked": False, "warnings": []}
    assert search.asked == [SearchQuery("who has birds?", 5, Mode.HYBRID, SearchFilter())]


async def test_a_search_has_conditions(api: AsyncClient, search: FakeSearch) -> None:
    query = "/search?q=x&limit=9&mode=sparse&filter=year=2024&filter=a.b=c=d&source=s&tenant="
    assert (await api.get(query)).status_code == 200
    where = SearchFilter(
        (MetadataCondition("year", ("2024",)), MetadataCondition("a.b", ("c=d",))), "s", ""
    )
    assert search.asked == [SearchQuery("x", 9, Mode.SPARSE, where)]


async def test_a_search_has_ranges_groups_and_neighbours(
    api: AsyncClient, search: FakeSearch
) -> None:
    asked = {"q": "x", "filter": ["year>=2024", "tag!=a,b"], "group": "true", "around": "2"}
    assert (await api.get("/search", params=asked)).status_code == 200
    year = MetadataRange("year", Comparison.AT_LEAST, 2024.0)
    where = SearchFilter((year, MetadataCondition("tag", ("a", "b"), negated=True)))
    assert search.asked == [SearchQuery("x", 5, where=where, group=True, around=2)]


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("", "query.q"),
        ("q=", "the query is blank"),
        ("q=x&limit=0", "query.limit"),
        ("q=x&limit=1001", "query.limit"),
        ("q=x&limit=many", "query.limit"),
        ("q=x&mode=magic", "query.mode"),
        ("q=x&group=some", "query.group"),
        ("q=x&around=6", "query.around"),
        ("q=x&around=-1", "query.around"),
        ("q=x&filter=year", "query.filter: 'year' is not KEY=VALUE"),
        ("q=x&filter=year>=soon", "query.filter: 'year>=soon' has no number or date after >="),
        ("q=x&filter=a=b&filter==c", "query.filter: '=c' is not KEY=VALUE"),
    ],
)
async def test_invalid_parameters_are_refused(
    api: AsyncClient, search: FakeSearch, query: str, said: str
) -> None:
    refused(await api.get(f"/search?{query}"), 422, said)
    assert search.asked == []


async def test_a_failed_search_says_why(api: AsyncClient, search: FakeSearch) -> None:
    search.error = InvalidQuery("no sparse vectors")
    refused(await api.get("/search?q=x"), 422, "no sparse vectors")
    search.error = StoreUnavailable("Qdrant does not answer")
    refused(await api.get("/search?q=x"), 503, "Qdrant does not answer")


@pytest.mark.slow
def test_the_installed_command_answers_searches(ingestq: Ingestq) -> None:
    with serving(ingestq) as served:
        asked = {"q": "who has birds?", "limit": "1"}
        nothing = {"hits": [], "reranked": False, "warnings": []}
        assert httpx.get(f"{served.url}/search", params=asked, timeout=60).json() == nothing

        (ingestq.folder / "keeper.txt").write_text("The lighthouse keeper owns two parrots.")
        (ingestq.folder / "ferry.txt").write_text("The boat to the mainland leaves at noon.")
        assert ingestq("run", "keeper.txt", "ferry.txt").code == 0

        def texts(**more: str) -> list[str]:
            answer = httpx.get(f"{served.url}/search", params=asked | more, timeout=60)
            assert answer.status_code == 200, answer.text
            return [hit["text"] for hit in answer.json()["hits"]]

        assert texts() == ["The lighthouse keeper owns two parrots."]
        assert texts(filter="title=ferry.txt") == ["The boat to the mainland leaves at noon."]
        assert texts(mode="sparse") == []

        keeper = httpx.get(f"{served.url}/documents/{ingestq.folder / 'keeper.txt'}", timeout=60)
        assert keeper.json()["indexed"]["state"] == "indexed", keeper.text
        assert keeper.json()["indexed"]["chunks"] == 1
        refused(httpx.get(f"{served.url}/documents/nobody", timeout=60), 404, "nobody")
        assert ingestq("run", "ferry.txt", "--checksum").code == 0
        served.tell(signal.SIGTERM)
        served.ends(0)
