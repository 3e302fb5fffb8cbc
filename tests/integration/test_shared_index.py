"""Commands use one data directory at the same time, and leave nothing where nothing is indexed."""

import asyncio
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.command import Ingestq
from tests.faults.test_killed_qdrant import is_alive, notes
from tests.running_command import Running, running

DOCUMENTS = 400


@pytest.mark.slow
async def test_commands_share_the_index_while_it_is_written(ingestq: Ingestq) -> None:
    folder = notes(ingestq, DOCUMENTS)
    indexing = ingestq.start("run", folder, "--json")
    await ingestq.is_in_the_middle()
    search, status, verify = await asyncio.gather(
        ingestq.ended("search", "tide", "--json"),
        ingestq.ended("status", "--json", "--warnings"),
        ingestq.ended("verify", "--json"),
    )
    out, err = await asyncio.to_thread(indexing.communicate)
    assert indexing.returncode == 0, err
    assert f'"indexed":{DOCUMENTS}' in out
    assert "tide" in search.json["hits"][0]["text"]
    assert status.json["collection"]["documents"] > 0
    assert verify.code == 0, verify.err
    assert verify.json["consistent"]
    assert not is_alive(ingestq)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("search", "tide"), "does not exist yet"),
        (("status",), "0 documents, 0 chunks"),
        (("verify",), "consistent: 0 documents"),
        (("delete", "tide"), "no such document"),
    ],
)
def test_reading_where_nothing_is_indexed_creates_no_index(
    ingestq: Ingestq, command: tuple[str, ...], said: str
) -> None:
    assert said in ingestq(*command).out
    assert "qdrant" not in os.listdir(ingestq.folder / ".ingestq")


def test_what_only_queues_starts_no_engine(ingestq: Ingestq) -> None:
    assert ingestq("add", notes(ingestq, 1)).code == 0
    assert "qdrant" not in os.listdir(ingestq.folder / ".ingestq")


@pytest.fixture
def api(ingestq: Ingestq, redis_url: str) -> Iterator[Running]:
    """A running API on a Redis of its own and the bundled Qdrant."""
    ingestq.settings["redis_url"] = redis_url
    with running(ingestq, "api") as command:
        command.says("api.started")
        yield command


def test_the_api_keeps_the_engine_and_ends_when_it_is_deleted(
    ingestq: Ingestq, api: Running
) -> None:
    data: Path = ingestq.folder / ".ingestq"
    assert not data.exists()
    with httpx.Client(base_url=api.url, timeout=60) as http:
        assert http.get("/search", params={"q": "tide"}).json()["hits"] == []
        assert is_alive(ingestq)
        assert http.get("/status").json()["collection"]["documents"] == 0
    shutil.rmtree(data)
    api.ends(3)
    assert "was deleted or replaced while ingestq used it" in api.said()
