"""Whatever tenants store, a token of one never shows anything of another."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from urllib.parse import quote, urlencode

import pytest
from httpx import ASGITransport, AsyncClient
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ingestq.api.app import ApiConfig, Services, create_app
from ingestq.api.dashboard.paths import EVENTS, SIGN_IN
from ingestq.api.rights import ROUTES, Access
from ingestq.app.collections import IndexReader
from ingestq.app.search import DocumentLookup, QdrantOnDemand
from ingestq.app.settings import Settings
from ingestq.broker.tokens import ApiTokens
from ingestq.core.results import SkippedFile, WatchedFolderStatus
from ingestq.core.search_query import SearchQuery, SearchResult
from ingestq.core.tokens import Right, TokenGrant
from tests.harness import Harness
from tests.serving import services
from worker.pipeline.points import SearchHit
from worker.store.search import search

TENANTS = ("acme", "zenith", "")
DOCUMENT = st.tuples(
    st.sampled_from(TENANTS),
    st.sampled_from(["shared", "own"]),
    st.sampled_from(["text", "broken", "odd"]),
)


@dataclass(frozen=True)
class Stored:
    """A document of a tenant. Its ``secret`` is in its text, source and metadata.

    One that is ``shared`` has the id of documents of other tenants; otherwise its id has the
    secret, too.
    """

    tenant: str
    doc_id: str
    secret: str
    kind: str


ONE_OF_EACH = [(tenant, "own", kind) for tenant in TENANTS for kind in ("text", "broken", "odd")]


def stored(drawn: Sequence[tuple[str, str, str]]) -> list[Stored]:
    found = []
    for n, (tenant, name, kind) in enumerate(drawn):
        secret = f"{tenant or 'nobody'}-secret-{n}"
        found.append(Stored(tenant, "shared" if name == "shared" else secret, secret, kind))
    return found


async def store(harness: Harness, api: AsyncClient, document: Stored) -> str:
    """Send a document; return its submission."""
    fields = {
        "doc_id": document.doc_id,
        "tenant": document.tenant,
        "source": document.secret,
        "metadata": json.dumps({"note": document.secret}),
    }
    if document.kind == "text":
        text = f"The kettle of {document.secret} is on the pier."
        sent = {**fields, "text": text, "metadata": {"note": document.secret}}
        answer = await api.post("/documents", json=sent)
    else:  # rejected, or indexed with a warning
        content = b"%PDF-1.7 broken" if document.kind == "broken" else b""
        answer = await api.post(
            "/documents", files={"file": (f"{document.secret}.pdf", content)}, data=fields
        )
    assert answer.status_code == 202, answer.text
    submission: str = answer.json()["submission"]
    await harness.client.wait(submission, timeout=60)
    return submission


async def answers(
    api: AsyncClient, documents: Sequence[Stored], submissions: Sequence[str]
) -> AsyncIterator[tuple[str, str]]:
    """Yield what each GET route answers: the request, and the body."""
    for (method, path), needs in ROUTES.items():
        if method != "GET" or path == EVENTS or needs is Access.EVERYBODY:
            continue
        names = [path]
        if "{doc_id" in path:
            ids = {document.doc_id for document in documents}
            names = [path.replace("{doc_id:doc_id}", quote(each)) for each in ids]
        elif "{submission}" in path:
            names = [path.replace("{submission}", each) for each in submissions]
        elif path in ("/search", "/"):
            modes = ("?q=kettle+pier&limit=50", "?q=secret&limit=50&mode=sparse&around=2&group=1")
            names = [path, *(path + mode for mode in modes)]
        if path.startswith(("/search", "/documents", "/dead-letters")):
            sign = "&" if path == "/search" else "?"
            names += [f"{names[-1]}{sign}tenant={each}" for each in TENANTS]
        for name in names:
            answer = await api.get(name)
            assert answer.status_code < 500, (name, answer.text)
            if answer.status_code == 200:
                yield name, answer.text
            else:
                assert "kettle" not in answer.text
                asked = name.rpartition("/")[2].partition("?")[0]
                yield name, answer.text.replace(asked, "")  # it repeats that


@asynccontextmanager
async def served(harness: Harness) -> AsyncIterator[Services]:
    async def find(query: SearchQuery) -> SearchResult[SearchHit]:
        return SearchResult(await search(harness.qdrant, harness.names, harness.model, query))

    async with AsyncExitStack() as closing:
        on_demand = QdrantOnDemand(Settings(), closing, harness.qdrant)
        overview = IndexReader(on_demand, [harness.names.alias])
        yield services(harness.broker, find, DocumentLookup(on_demand), overview=overview)


async def watch(harness: Harness, tenant: str) -> None:
    """Report a watched folder of ``tenant``, whose path and skipped file have a secret."""
    secret = f"{tenant or 'nobody'}-secret-folder"
    await harness.broker.watched_folders.report(
        WatchedFolderStatus(
            folder=f"/{secret}",
            host=secret,
            tenant=tenant,
            collection=harness.names.alias,
            skipped=1,
            skipped_files=(SkippedFile(f"/{secret}/a", "odd"),),
        )
    )


@pytest.mark.slow
@settings(
    max_examples=4,
    deadline=None,
    phases=[Phase.generate],  # making a failure smaller would take minutes
    suppress_health_check=list(HealthCheck),
)
@given(drawn=st.lists(DOCUMENT, max_size=4))
async def test_a_token_shows_nothing_of_another_tenant(
    harness: Harness, drawn: list[tuple[str, str, str]]
) -> None:
    await harness.broker.redis.flushdb()
    documents = stored([*ONE_OF_EACH, *drawn])
    tokens = ApiTokens(harness.broker.redis, harness.broker.config)
    async with served(harness) as parts:
        app = create_app(
            replace(parts, api_tokens=tokens),
            ApiConfig(100_000, "the-administrator", collections=(harness.names.alias,)),
        )

        def calling(token: str) -> AsyncClient:
            headers = {"Authorization": f"Bearer {token}"}
            return AsyncClient(
                transport=ASGITransport(app), base_url="http://localhost", headers=headers
            )

        async with calling("the-administrator") as administrator:
            submissions = await asyncio.gather(
                *(store(harness, administrator, each) for each in documents)
            )
        for tenant in TENANTS:
            for owner in TENANTS:  # again: a report expires after a minute
                await watch(harness, owner)
            grant = TokenGrant(tenant or "none", tenant, frozenset({Right.READ, Right.WRITE}))
            created = await tokens.create(grant)
            assert created is not None
            others = [other or "nobody" for other in TENANTS if other != tenant]
            async with calling(created[1]) as api:
                form = {"Content-Type": "application/x-www-form-urlencoded"}
                content = urlencode({"token": created[1]})
                assert (await api.post(SIGN_IN, content=content, headers=form)).status_code == 303
                seen = ""
                async for asked, body in answers(api, documents, submissions):
                    for other in others:
                        assert f"{other}-secret" not in body, (asked, body)
                    seen += body
                for each in documents:
                    if each.tenant == tenant and each.doc_id != "shared":
                        assert each.secret in seen, "its own are there"
                assert f"{tenant or 'nobody'}-secret-folder" in seen
