"""The examples, and the code in the README and the client reference, run with a real worker."""

import ast
import inspect
import json
import re
import shutil
import zipfile
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from httpx import ASGITransport, AsyncClient

from examples import chat_service, fastapi_service
from ingestq.api.app import ApiConfig, create_app
from ingestq.app.composition import Broker
from ingestq.core.documents import DEFAULT_COLLECTION
from ingestq.core.search_query import SearchQuery, SearchResult
from tests.harness import Harness
from tests.serving import listening, services
from tests.waiting import eventually
from tests.workers import indexing
from worker.embedding.pool import ModelPool
from worker.pipeline.points import SearchHit
from worker.store.client import Qdrant
from worker.store.collection import CollectionNames
from worker.store.search import search

ROOT = Path(__file__).parents[2]
DEFAULT_REDIS = "redis://localhost:6379/0"
TOKEN = "a-token-of-the-api"
DEFAULT_API = "http://127.0.0.1:8765"


@pytest.fixture
async def worker(
    broker: Broker, qdrant: Qdrant, collection: CollectionNames, model: ModelPool
) -> AsyncIterator[None]:
    """Run a worker of the default collection."""
    default = replace(collection, alias=DEFAULT_COLLECTION)
    async with indexing(broker, qdrant, default, model):
        yield


async def execute(source: str, namespace: dict[str, Any]) -> None:
    """Run a cell as a notebook does: names are kept, and ``await`` needs no function."""
    cell = compile(source, "cell", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    running = eval(cell, namespace)
    if inspect.isawaitable(running):
        await running


@pytest.mark.usefixtures("worker")
async def test_the_fastapi_example(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", broker.config.url)
    app = fastapi_service.app
    transport = ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        AsyncClient(transport=transport, base_url="http://service") as service,
    ):
        note = {"id": "n1", "author": "ada", "text": "The kettle on the pier is for everybody."}
        accepted = await service.post("/notes", json=note)
        assert accepted.status_code == 202

        async def stage() -> dict[str, Any]:
            answer: dict[str, Any] = (await service.get(accepted.json()["progress"])).json()
            return answer

        done = await eventually(stage, lambda answer: answer["stage"] == "done")
        assert done["why_not"] == []
        assert (await service.get("/notes/progress/nonesuch")).status_code == 404

        unreadable = await service.post("/notes", json=note | {"id": "n2", "text": "\0" * 64})
        accepted = unreadable
        # The reasons are read after the stage, and may be there before it is done.
        done = await eventually(stage, lambda answer: answer["stage"] == "done")
        assert done["why_not"] != []


async def ask(question: str) -> tuple[int, Any]:
    transport = ASGITransport(chat_service.app)
    async with AsyncClient(transport=transport, base_url="http://chat") as chat:
        answer = await chat.post("/chat", json={"question": question})
        return answer.status_code, answer.json()


async def test_the_chat_example_cites_page_and_part(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a model it returns the prompt; with one, the model is asked exactly that."""
    monkeypatch.delenv("LLM_URL", raising=False)
    shutil.copy(ROOT / "examples/documents/observatory-handbook.pdf", harness.root)
    with zipfile.ZipFile(harness.root / "notes.zip", "w") as archive:
        archive.writestr("dome.txt", "The dome may be opened by the observer on duty alone.")
    await harness.scan(name="station")

    async def answer(query: SearchQuery) -> SearchResult[SearchHit]:
        return SearchResult(await search(harness.qdrant, harness.names, harness.model, query))

    question = "Who may open the dome?"
    asked: list[Any] = []
    llm = FastAPI()

    @llm.post("/v1/chat/completions")
    async def complete(body: dict[str, Any]) -> dict[str, Any]:
        asked.append(body)
        return {"choices": [{"message": {"content": "The observer on duty [1]."}}]}

    app = create_app(services(harness.broker, answer), ApiConfig(10_000, token=TOKEN))
    async with listening(app) as url, listening(llm) as llm_url:
        monkeypatch.setenv("INGESTQ_URL", url)
        monkeypatch.setenv("INGESTQ_API_TOKEN", TOKEN)
        code, offline = await ask(question)
        assert (code, offline["answer"]) == (200, None)
        monkeypatch.setenv("LLM_URL", f"{llm_url}/v1")
        monkeypatch.setenv("LLM_MODEL", "small")
        code, answered = await ask(question)
        assert (code, answered["answer"]) == (200, "The observer on duty [1].")
        monkeypatch.setenv("INGESTQ_API_TOKEN", "wrong" * 4)
        code, refused = await ask(question)
        assert code == 502
        assert "Authorization: Bearer TOKEN" in refused["detail"]
    [body] = asked
    assert body["model"] == "small"
    assert body["messages"][0]["content"] == answered["prompt"] == offline["prompt"]
    assert "station/notes.zip > dome.txt\n" in offline["prompt"]
    assert "station/observatory-handbook.pdf, page 2\n" in offline["prompt"]
    places = {(each["document"], each["part"], each["page"]) for each in offline["citations"]}
    assert ("station/notes.zip", "dome.txt", None) in places
    assert ("station/observatory-handbook.pdf", None, 2) in places


@pytest.mark.usefixtures("worker")
async def test_the_notebook_example(
    broker: Broker,
    qdrant: Qdrant,
    collection: CollectionNames,
    model: ModelPool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def answer(query: SearchQuery) -> SearchResult[SearchHit]:
        return SearchResult(await search(qdrant, collection, model, query))

    notebook = json.loads((ROOT / "examples" / "notebook.ipynb").read_text())
    cells = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    assert DEFAULT_REDIS in cells[0]
    assert DEFAULT_API in cells[0]
    namespace: dict[str, Any] = {}
    app = create_app(services(broker, answer), ApiConfig(10_000))
    async with listening(app) as url:
        cells[0] = cells[0].replace(DEFAULT_REDIS, broker.config.url).replace(DEFAULT_API, url)
        for cell in cells:
            await execute(cell, namespace)
    printed = capsys.readouterr().out
    assert "done 2/2" in printed
    first_hit = re.search(r"^\d\.\d{3}  (\S+):", printed, re.MULTILINE)
    assert first_hit is not None, printed
    assert first_hit[1] == "notebook/post"
    assert "1 deleted" in printed


@pytest.mark.usefixtures("worker")
async def test_the_example_in_the_readme(
    broker: Broker, capsys: pytest.CaptureFixture[str]
) -> None:
    section = (ROOT / "README.md").read_text().partition("### From your own service")[2]
    found = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert found is not None
    assert DEFAULT_REDIS in found[1]
    await execute(found[1].replace(DEFAULT_REDIS, broker.config.url), {})
    assert "1 indexed" in capsys.readouterr().out.splitlines()


@pytest.mark.usefixtures("worker")
async def test_the_examples_of_the_client_reference(
    broker: Broker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (ROOT / "docs/client.md").read_text("utf-8")
    page = page.replace(DEFAULT_REDIS, broker.config.url).replace("/srv/blobs", str(tmp_path))
    for example in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        await execute(example, {})
    assert capsys.readouterr().out.splitlines()[-1] == "done 1/1"
