"""API tokens: whom they let in, what for, how often, and until when."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from httpx import ASGITransport, AsyncClient, Response
from starlette.routing import BaseRoute, Route

from ingestq.api import authenticator
from ingestq.api.app import ApiConfig, create_app
from ingestq.api.dashboard.access import COOKIE
from ingestq.api.dashboard.paths import EVENTS, PAGE, PATHS, REQUEUE, SIGN_IN, SIGN_OUT
from ingestq.api.rights import ROUTES, Access
from ingestq.api.routes import mcp
from ingestq.app.composition import Broker
from ingestq.broker.connection import BrokerConfig, connect
from ingestq.broker.tokens import ApiTokens
from ingestq.core.documents import MAX_VERSION, Document
from ingestq.core.health import HEALTH_PATHS
from ingestq.core.jobs import IngestBatch, dead_letter_batch, dead_letter_key
from ingestq.core.search_query import SearchQuery, SearchResult
from ingestq.core.tokens import Right, TokenGrant
from ingestq.core.versions import FIRST_ISSUED, LAST_ISSUED
from tests.claims import batch_of, finish, lease_queue, take
from tests.command import Ingestq
from tests.integration.test_mcp import connected as mcp_connected
from tests.serving import listening, services
from tests.waiting import eventually

TOKEN = "the-token-of-the-administrator"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
NOTE = {"doc_id": "note", "text": "A note."}
COLLECTIONS = ("documents", "wiki")
BOTH = frozenset({Right.READ, Right.WRITE})


async def nothing(_: SearchQuery) -> SearchResult[object]:
    return SearchResult()


async def not_indexed(tenant: str, doc_id: str, collection: str) -> None:
    return None


def api_of(
    broker: Broker,
    token: str | None = TOKEN,
    redis: Broker | None = None,
    connections: int = ApiConfig.connections,
) -> FastAPI:
    """Return the API of ``broker``, with the tokens that are in it, or in ``redis``."""
    known = redis or broker
    tokens = ApiTokens(known.redis, known.config)
    served = replace(services(broker, nothing, not_indexed), api_tokens=tokens)
    config = ApiConfig(100_000, token, collections=COLLECTIONS, connections=connections)
    return create_app(served, config)


def calling(app: FastAPI, token: str | None = None) -> AsyncClient:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    transport = ASGITransport(app)
    return AsyncClient(transport=transport, base_url="http://localhost", headers=headers)


async def made(broker: Broker, name: str = "t", **grant: Any) -> str:
    """Return a new token."""
    created = await ApiTokens(broker.redis, broker.config).create(TokenGrant(name, **grant))
    assert created is not None
    return created[1]


async def revoke(broker: Broker, name: str = "t") -> int | None:
    return await ApiTokens(broker.redis, broker.config).revoke(name)


@asynccontextmanager
async def using(broker: Broker, **grant: Any) -> AsyncIterator[AsyncClient]:
    """Yield a client with a new token."""
    async with calling(api_of(broker), await made(broker, **grant)) as api:
        yield api


def refused(answer: Response, status: int, said: str = "") -> None:
    assert answer.status_code == status, answer.text
    assert said in answer.json()["detail"]


async def bury(broker: Broker, doc_id: str, tenant: str, collection: str = "documents") -> None:
    """Add a dead letter."""
    document = Document(
        doc_id=doc_id, version=1, source="s", text="t", tenant=tenant, collection=collection
    )
    await broker.queue.offer([IngestBatch(f"s-{tenant}", (document,))])
    leases = lease_queue(broker, serving={collection: collection})
    [claim] = await take(leases)
    assert await finish(leases, claim, dead_letter_batch(batch_of(claim), "broken", tries=1))


# Rights


def declared(routes: list[BaseRoute]) -> Iterator[tuple[str, str]]:
    for route in routes:
        if isinstance(route, APIRoute | Route):
            yield from ((method, route.path) for method in route.methods or () if method != "HEAD")
        else:
            yield from declared(route.original_router.routes)  # type: ignore[attr-defined]


def test_every_route_needs_a_declared_right(broker: Broker) -> None:
    assert set(declared(api_of(broker).routes)) == ROUTES.keys()
    changing = {needs for (method, path), needs in ROUTES.items() if method == "DELETE"}
    changing |= {ROUTES["POST", f"/documents{more}"] for more in ("", ":batch")}
    assert changing | {ROUTES["POST", REQUEUE]} == {Right.WRITE}
    everybody = {path for (_, path), needs in ROUTES.items() if needs is Access.EVERYBODY}
    assert everybody == HEALTH_PATHS | (PATHS - {PAGE, EVENTS, REQUEUE})


async def test_a_route_that_declares_no_right_is_closed_to_tokens(broker: Broker) -> None:
    app = api_of(broker)
    later = APIRouter()

    @later.get("/later")
    @later.put("/status")
    async def added() -> str:
        return "shown"

    app.include_router(later)
    async with calling(app, TOKEN) as administrator:
        assert (await administrator.get("/later")).json() == "shown"
    async with calling(app, await made(broker, rights=BOTH)) as api:
        refused(await api.get("/later"), 404)
        refused(answer := await api.put("/status"), 405)
        assert answer.headers["allow"] == "GET"


@pytest.mark.parametrize("right", Right)
async def test_a_token_does_what_its_rights_allow(broker: Broker, right: Right) -> None:
    has = set(Right) if right is Right.ADMIN else {right}
    async with using(broker, rights=frozenset({right})) as api:
        for (method, path), needs in ROUTES.items():
            if path in PATHS or path == "/mcp" or "events" in path:
                continue
            answer = await api.request(method, path.replace("{doc_id:doc_id}", "x"))
            if isinstance(needs, Right) and needs not in has:
                refused(answer, 403, f"the right {needs}; the rights of this one: {right}")
            else:
                assert answer.status_code not in (401, 403), (method, path, answer.text)


async def test_an_assistant_has_the_tools_that_its_token_allows(broker: Broker) -> None:
    reader = await made(broker, "r", tenant="a", collections=frozenset({"wiki"}), per_minute=100)
    writer = await made(broker, "w", rights=frozenset({Right.WRITE}))
    async with listening(api_of(broker)) as url:
        async with mcp_connected(url, reader) as client:
            found = {tool.name: tool for tool in (await client.list_tools()).tools}
            assert found.keys() == {"search", "status"}
            properties = found["search"].input_schema["properties"]
            assert "tenant" not in properties
            assert "documents" not in str(properties["collection"])
        async with mcp_connected(url, writer) as client:
            assert [tool.name for tool in (await client.list_tools()).tools] == ["submit"]
            assert not (await client.call_tool("submit", NOTE)).is_error
        headers = {
            "Authorization": f"Bearer {reader}",
            "Accept": "application/json, text/event-stream",
            "MCP-Protocol-Version": "2025-06-18",
        }
        call = {"name": "status", "arguments": {}}
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call}
        async with AsyncClient(base_url=url, headers=headers) as api:
            left = []
            for _ in range(2):
                answer = await api.post("/mcp", json=message)
                assert '"collections"' in answer.text
                left.append(int(answer.headers["RateLimit"].split("r=")[1].split(";")[0]))
            assert left[0] - left[1] <= 1, "the request of the tool is not counted again"


# Tenants and collections


async def test_bodies_for_assistants_keep_no_other_out(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, sent, end = api_of(broker), asyncio.Event(), asyncio.Event()
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    headers = {"Accept": "application/json, text/event-stream"}

    async def unfinished() -> AsyncIterator[bytes]:
        yield b" " * 99_980  # of the 100 000 bytes that are held at once
        sent.set()
        await end.wait()

    reader = await made(broker, "reader")
    async with calling(app, TOKEN) as writer, calling(app, reader) as api:
        holding = asyncio.create_task(writer.post("/mcp", content=unfinished(), headers=headers))
        await sent.wait()
        assert (await api.post("/mcp", json=message, headers=headers)).status_code == 200
        refused(await writer.post("/mcp", content=b" " * 70_000, headers=headers), 429, "uploads")
        monkeypatch.setattr(mcp, "READER_BYTES", 1000)
        large = b" " * 1001
        refused(await api.post("/mcp", content=large, headers=headers), 413, "right to write")
        assert (await writer.post("/mcp", content=large, headers=headers)).status_code == 400
        end.set()
        await holding


async def test_a_tenant_is_its_own_everywhere(broker: Broker) -> None:
    async with using(broker, tenant="acme", rights=BOTH) as api:
        wrong = {"tenant": "other"}
        for answer in (
            await api.get("/search", params={"q": "x", **wrong}),
            await api.get("/documents/x", params=wrong),
            await api.get("/documents/x", params={"tenant": ""}),
            await api.delete("/documents/x", params=wrong),
            await api.get("/dead-letters", params=wrong),
            await api.get("/dead-letters/x", params=wrong),
            await api.post("/dead-letters/x/requeue", params=wrong),
            await api.post("/documents", json=NOTE | wrong),
            await api.post("/documents", files={"file": ("f", b"x")}, data=wrong),
        ):
            refused(answer, 403, "this token is for the tenant 'acme'")
        assert await broker.queue.is_empty()
        lines = b'{"doc_id":"a","text":"x","tenant":"other"}\n{"doc_id":"b","text":"x"}'
        kind = {"Content-Type": "application/x-ndjson"}
        batch = (await api.post("/documents:batch", content=lines, headers=kind)).json()
        assert (batch["accepted"], batch["rejected"]) == (1, 1)
        assert "for the tenant 'acme'" in batch["rejected_lines"][0]["reason"]
        for sent in (NOTE, NOTE | {"tenant": "acme"}):
            assert (await api.post("/documents", json=sent)).status_code == 202
        await api.post("/documents", files={"file": ("f", b"x")})
        await api.delete("/documents/gone")
    claims = await take(lease_queue(broker), 10)
    assert {claim.job().batch.tenant for claim in claims} == {"acme"}
    assert len(claims) == 5


async def test_a_collection_that_a_token_is_not_for_is_like_one_that_does_not_exist(
    broker: Broker,
) -> None:
    async with using(broker, collections=frozenset({"wiki"}), rights=BOTH) as api:
        for name in ("documents", "nonesuch"):
            wrong = {"collection": name}
            for answer in (
                await api.get("/search", params={"q": "x", **wrong}),
                await api.get("/documents/x", params=wrong),
                await api.get("/dead-letters", params=wrong),
                await api.post("/documents", json=NOTE | wrong),
            ):
                refused(answer, 403, f"this token is for wiki only, not for '{name}'")
        assert (await api.post("/documents", json=NOTE)).status_code == 202
        status = await api.get("/status")
        assert [c["name"] for c in status.json()["collections"]] == ["wiki"]
        refused(await api.get("/openapi.json"), 403)
        assert "documents" not in (await api.get("/", follow_redirects=True)).headers
    [claim] = await take(lease_queue(broker, serving={"wiki": "wiki"}))
    assert claim.collection == "wiki"
    async with using(broker, name="nowhere", collections=frozenset({"elsewhere"})) as api:
        refused(await api.get("/search", params={"q": "x"}), 403, "no collection of this server")


async def test_no_version_of_a_caller_moves_those_of_all(broker: Broker) -> None:
    """One in the year 2150 would leave no later version to issue, for any tenant."""
    ours = await broker.client.issue_version()
    async with using(broker, tenant="a", rights=BOTH) as api:
        for version in (ours + 3_600_000_000, LAST_ISSUED, MAX_VERSION):
            too_large = {"version": version}
            for answer in (
                await api.post("/documents", json=NOTE | too_large),
                await api.post("/documents", files={"file": ("f", b"x")}, data=too_large),
                await api.delete("/documents/note", params=too_large),
            ):
                refused(answer, 422, "larger than any version that was issued")
            kind = {"Content-Type": "application/x-ndjson"}
            line = json.dumps(NOTE | too_large)
            batch = (await api.post("/documents:batch", content=line, headers=kind)).json()
            assert (batch["accepted"], batch["rejected"]) == (0, 1)
            assert "larger than any" in batch["rejected_lines"][0]["reason"]
        for version in (ours, FIRST_ISSUED - 1):
            answer = await api.post("/documents", json=NOTE | {"version": version})
            assert answer.status_code == 202
        assert (await api.delete("/documents/x", params={"version": ours})).status_code == 202
    assert await broker.client.issue_version() < ours + 600_000_000


async def test_tokens_of_different_collections_share_no_idempotency_keys(broker: Broker) -> None:
    key, app = {"Idempotency-Key": "k"}, api_of(broker)
    accepted = []
    for name in ("wiki", "documents"):
        token = await made(broker, name, collections=frozenset({name}), rights=BOTH)
        async with calling(app, token) as api:
            answers = [await api.post("/documents", json=NOTE, headers=key) for _ in range(2)]
            accepted.append(answers[0].json()["submission"])
            assert answers[1].json()["submission"] == accepted[-1]
            answer = await api.post("/documents", files={"file": ("f", b"x")}, headers=key)
            refused(answer, 422, "the idempotency key 'k' was used before")
    assert accepted[0] != accepted[1]


async def test_a_submission_is_known_to_its_tenant_only(broker: Broker) -> None:
    app = api_of(broker)
    async with (
        calling(app, await made(broker, "a", tenant="a", rights=BOTH)) as a,
        calling(app, await made(broker, "b", tenant="b", rights=BOTH)) as b,
    ):
        key = {"Idempotency-Key": "k"}
        mine = (await a.post("/documents", json=NOTE, headers=key)).json()["submission"]
        again = await a.post("/documents", json=NOTE, headers=key)
        theirs = (await b.post("/documents", json=NOTE, headers=key)).json()["submission"]
        assert again.json()["submission"] == mine != theirs, "each tenant has keys of its own"
        assert (await a.get(f"/submissions/{mine}")).status_code == 200
        for path in (f"/submissions/{theirs}", f"/submissions/{theirs}/events"):
            refused(await a.get(path), 404)
        documents = [
            Document(doc_id=t, version=1, source="s", text="t", tenant=t) for t in ("a", "b")
        ]
        mixed = (await broker.client.submit_many(documents)).submission
        refused(await a.get(f"/submissions/{mixed}"), 404)
        async with calling(app, TOKEN) as administrator:
            assert (await administrator.get(f"/submissions/{mixed}")).json()["accepted"] == 2


# Until when


async def chunks_of(*parts: bytes | asyncio.Event) -> AsyncIterator[bytes]:
    for part in parts:
        if isinstance(part, bytes):
            yield part
        else:
            await part.wait()


@pytest.mark.parametrize("kind", ["application/x-ndjson", "application/json", "form"])
async def test_what_arrives_after_its_token_was_revoked_is_not_queued(
    broker: Broker, kind: str
) -> None:
    revoked = asyncio.Event()
    path, first, last = "/documents", b'{"doc_id":"b",', b'"text":"x"}\n'
    if kind == "form":
        kind = "multipart/form-data; boundary=x"
        first = b'--x\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\nab'
        last = b"c\r\n--x--\r\n"
    elif kind != "application/json":
        path = "/documents:batch"
    async with (
        listening(api_of(broker)) as url,
        AsyncClient(base_url=url, timeout=60) as api,
    ):
        headers = {"Authorization": f"Bearer {await made(broker, rights=BOTH)}"}
        content = chunks_of(first, revoked, last)
        sending = asyncio.create_task(
            api.post(path, content=content, headers=headers | {"Content-Type": kind})
        )
        tokens = ApiTokens(broker.redis, broker.config)

        async def begun() -> bool:
            return (await tokens.listed())[0].used_ms is not None

        await eventually(begun)
        assert await revoke(broker) == 0
        revoked.set()
        refused(await sending, 401, "revoked")
        refused(await api.get("/status", headers=headers), 401)
    assert await broker.queue.is_empty()


async def test_a_stream_ends_when_its_token_does(broker: Broker) -> None:
    async with (
        listening(api_of(broker)) as url,
        AsyncClient(base_url=url, timeout=60) as api,
    ):
        headers = {"Authorization": f"Bearer {await made(broker, rights=BOTH)}"}
        submission = (await api.post("/documents", json=NOTE, headers=headers)).json()["submission"]
        path = f"/submissions/{submission}/events"
        async with api.stream("GET", path, headers=headers) as stream:
            parts = stream.aiter_text()
            await anext(parts)
            await revoke(broker)
            assert "the token was revoked" in "".join([part async for part in parts])


async def test_an_expired_token_opens_nothing_and_is_listed(broker: Broker) -> None:
    async with using(broker, expires_days=1e-9) as api:
        refused(await api.get("/status"), 401)
    app = api_of(broker, token=None)
    async with calling(app) as anybody:
        refused(await anybody.get("/status"), 401)
        [known] = await ApiTokens(broker.redis, broker.config).listed()
        assert known.is_expired
        assert await revoke(broker) == 0
        refused(await anybody.get("/status"), 401)
    async with calling(api_of(broker, token=None)) as restarted:
        assert (await restarted.get("/status")).status_code == 200


async def test_a_server_is_locked_soon_after_its_first_token(broker: Broker) -> None:
    async with calling(api_of(broker, token=None)) as anybody:
        assert (await anybody.get("/status")).status_code == 200
        token = await made(broker, tenant="a")
        bearer = {"Authorization": f"Bearer {token}"}
        refused(await anybody.get("/metrics", headers=bearer), 403, "the right admin")

        async def asked() -> int:
            return (await anybody.get("/status")).status_code

        await eventually(asked, lambda status: status == 401)
        assert (await anybody.get("/")).headers["location"] == SIGN_IN
        bearer["Host"] = "any.example"
        assert (await anybody.get("/status", headers=bearer)).status_code == 200


async def test_while_redis_is_away_only_the_administrator_is_let_in(
    tmp_path: Path, broker: Broker
) -> None:
    token = await made(broker)
    config = BrokerConfig(f"unix://{tmp_path}/nobody.sock")
    away = Broker(connect(config), config)
    app = api_of(broker, redis=away)
    async with calling(app, token) as api, calling(app, TOKEN) as administrator:
        refused(await api.get("/search", params={"q": "x"}), 503, "Redis")
        assert (await administrator.get("/search", params={"q": "x"})).status_code == 200
        refused(await api.get("/search", headers={"Authorization": "Bearer x"}), 401)
    await away.redis.aclose()


async def test_nobody_is_let_in_before_redis_has_said_whether_there_are_tokens(
    tmp_path: Path, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authenticator, "LOOK_AGAIN_SECONDS", 0.0)
    monkeypatch.setattr(authenticator, "LOOK_SECONDS", 0.0)
    place = tmp_path / "redis.sock"
    config = BrokerConfig(f"unix://{place}")
    late = Broker(connect(config), config)
    async with calling(api_of(broker, token=None, redis=late)) as anybody:
        elsewhere = {"Host": "a.example"}
        for path in ("/search?q=x", "/metrics", PAGE, EVENTS):
            refused(await anybody.get(path), 503, "Redis")
        refused(await anybody.get("/search?q=x", headers=elsewhere), 503, "Redis")
        assert (await anybody.get("/livez")).status_code == 200
        place.symlink_to(broker.config.url.removeprefix("unix://"))
        assert (await anybody.get("/search?q=x")).status_code == 200
        refused(await anybody.get("/search?q=x", headers=elsewhere), 403)
        place.unlink()
        await late.redis.connection_pool.disconnect()
        assert (await anybody.get("/search?q=x")).status_code == 200
    await late.redis.aclose()


# How often


async def test_a_token_sends_as_many_requests_as_it_may(broker: Broker) -> None:
    token = await made(broker, per_minute=3)
    async with calling(api_of(broker), token) as here, calling(api_of(broker), token) as there:
        begun = time.monotonic()
        left = [(await api.get("/dead-letters")).headers["RateLimit"] for api in (here, there)]
        assert [int(each.split("r=")[1].split(";")[0]) for each in left] == [2, 1]
        refused(await here.get("/metrics"), 403)
        for api in (here, there):
            refused(answer := await api.get("/status"), 429, "3 requests a minute")
            passed = time.monotonic() - begun
            assert 19 - passed <= int(answer.headers["Retry-After"]) <= 20
            assert answer.headers["RateLimit-Policy"] == '"minute";q=3;w=60'
    async with calling(api_of(broker), TOKEN) as administrator:
        assert "RateLimit" not in (await administrator.get("/status")).headers


async def test_signing_in_counts_as_a_request(broker: Broker) -> None:
    token = await made(broker, per_minute=1)
    async with calling(api_of(broker)) as site:
        assert (await sign_in(site, token)).status_code == 303
        answer = await sign_in(site, token)
        assert (answer.status_code, COOKIE in answer.cookies) == (429, False)
        assert "1 requests a minute" in answer.text
        assert int(answer.headers["Retry-After"]) > 50


async def test_the_streams_of_one_token_leave_connections_to_others(broker: Broker) -> None:
    """Of 16 connections, streams get 8, and those of one token 2."""
    token, other = await made(broker), await made(broker, "other")
    app = api_of(broker, connections=16)
    async with (
        listening(app) as url,
        AsyncClient(base_url=url, timeout=60) as site,
        AsyncExitStack() as opened,
    ):
        submission = await broker.client.submit("note", text="text", source="notes")
        path = f"/submissions/{submission.submission}/events"

        async def status(sent: str, kept: AsyncExitStack = opened) -> int:
            headers = {"Authorization": f"Bearer {sent}"}
            answer = await kept.enter_async_context(site.stream("GET", path, headers=headers))
            if answer.status_code == 429:
                assert answer.headers["Retry-After"] == "5"
            return answer.status_code

        async with AsyncExitStack() as first:
            await sign_in(site, token)
            stream = await first.enter_async_context(site.stream("GET", EVENTS))
            parts = stream.aiter_text()  # closes the stream when it is deleted
            await anext(parts)
            assert [await status(token, first) for _ in range(2)] == [200, 429]
            refused(await site.get(EVENTS), 429, "2 event streams")
            assert (await site.get(PAGE)).status_code == 200
            assert await status(other) == 200

        async def again() -> int:
            return await status(token)

        for _ in range(2):  # the server has noticed by then that both are closed
            await eventually(again, lambda found: found == 200)
        assert [await status(TOKEN) for _ in range(6)] == [200] * 5 + [429]


# The dashboard


async def sign_in(site: AsyncClient, token: str) -> Response:
    return await site.post(SIGN_IN, content=urlencode({"token": token}), headers=FORM)


async def test_the_dashboard_shows_a_tenant_its_own(broker: Broker) -> None:
    await bury(broker, "plan-of-acme", "acme")
    await bury(broker, "plan-of-others", "others")
    token = await made(broker, tenant="acme", rights=BOTH, per_minute=1000)
    app = api_of(broker, token=None)
    async with calling(app) as site, calling(app) as reader:
        assert (await site.get(PAGE)).headers["location"] == SIGN_IN
        assert (await sign_in(site, token[:-1])).status_code == 401
        answer = await sign_in(site, token)
        assert (answer.status_code, token in answer.headers["set-cookie"]) == (303, False)
        page = (await site.get(PAGE)).text
        assert "plan-of-acme" in page
        assert "plan-of-others" not in page
        for other in ("Workers", "Schedule", "Documents/s"):
            assert other not in page
        theirs, own = (
            dead_letter_key("documents", tenant, f"plan-of-{tenant}")
            for tenant in ("others", "acme")
        )
        for key, result in ((theirs, "requeued=0&gone=1"), (own, "requeued=1&gone=0")):
            content = urlencode({"dead_letter": key})
            done = await site.post(REQUEUE, content=content, headers=FORM)
            assert result in done.headers["location"]

        await sign_in(reader, await made(broker, "reader", tenant="others"))
        page = (await reader.get(PAGE)).text
        assert "plan-of-others" in page
        assert "Requeue" not in page
        refused(await reader.post(REQUEUE, content=content, headers=FORM), 403)
        stolen = {"Cookie": f"{COOKIE}={reader.cookies[COOKIE]}"}
        await reader.post(SIGN_OUT)
        assert (await reader.get(PAGE, headers=stolen)).headers["location"] == SIGN_IN

        await revoke(broker)
        assert (await site.get(PAGE)).headers["location"] == SIGN_IN
        refused(await site.get(EVENTS), 401)


# The command


async def test_the_command_makes_lists_and_revokes(broker: Broker, tmp_path: Path) -> None:
    """One test for all of it: each call of the command takes a while."""
    ingestq = Ingestq(tmp_path, {"redis_url": broker.config.url})
    wanted = ["--tenant", "acme", "--right", "read", "--right", "write", "--collection", "wiki"]
    made = (await ingestq.ended("token", "create", "a", *wanted, "--expires", "30", "--json")).json
    token = made.pop("token")
    assert made["rights"] == ["read", "write"]
    assert (made["tenant"], made["collections"]) == ("acme", ["wiki"])
    assert (await ingestq.ended("token", "list", "--json")).json == {"tokens": [made]}
    again = await ingestq.ended("token", "create", "a")
    again.failed_with(2, "there is a token 'a' already")
    stored = [await broker.redis.dump(key) for key in await broker.redis.keys("*")]
    assert stored
    assert not any(token.split("_", 2)[2].encode() in each for each in stored)
    revoked = await ingestq.ended("token", "revoke", "a", "--json")
    assert revoked.json == {"revoked": "a", "left": 0, "opens": True}
    assert await revoke(broker, "a") is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": " "},
        {"name": "two\nlines"},
        {"name": "x" * 200},
        {"name": "a", "tenant": "\ud800"},
        {"name": "a", "collections": frozenset({"a b"})},
        {"name": "a", "expires_days": 0},
        {"name": "a", "expires_days": float("nan")},
        {"name": "a", "per_minute": 0},
        {"name": "a", "rights": frozenset({Right.ADMIN}), "tenant": "t"},
    ],
)
def test_a_wrong_grant_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        TokenGrant(**wrong)
