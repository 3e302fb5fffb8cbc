"""``ingestq reindex`` is killed, and continues when it is run again."""

from pathlib import Path
from typing import Any

import pytest

from tests.command import Ingestq
from tests.qdrant_proxy import QdrantProxy, written

EXAMPLES = Path(__file__).parents[2] / "examples" / "documents"
QUERY = "Can I bring my puppy along when I come for a day trip?"
ANSWER = "Dogs are not allowed ashore"
CHUNK_TOKENS = "100"


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_killed_reindex_continues_where_it_stopped(
    ingestq: Ingestq, proxied_qdrant: QdrantProxy, alias: str
) -> None:
    ingestq.settings |= {"qdrant_url": proxied_qdrant.url, "collection": alias}
    before = (await ingestq.ended("run", EXAMPLES, "--json")).json["chunks"]["embedded"]
    documents = len(list(EXAMPLES.iterdir()))

    def is_of_the_last_document(request: str, body: Any) -> bool:
        """Return whether ``request`` writes the last document, counting the documents written."""
        chunks = (each for each in written(request, body) if "page_content" in each)
        begun.update(chunk["doc_id"] for chunk in chunks)
        return len(begun) == documents

    begun: set[str] = set()
    last = proxied_qdrant.holds.request(is_of_the_last_document)
    first = ingestq.start("reindex", "--chunk-tokens", CHUNK_TOKENS)
    try:
        await last.struck()
    finally:
        first.kill()
        first.communicate()
    last.release()
    status = await ingestq.ended("status", "--json")
    assert status.json["collection"] == {
        "name": alias,
        "documents": documents,
        "chunks": before,
        "warned": 0,
        "stale": 0,
    }

    second = await ingestq.ended("reindex", "--chunk-tokens", CHUNK_TOKENS, "--json")
    assert second.code == 0, second.err
    assert (second.json["swapped"], second.json["documents"]) == (True, documents)
    after = (await ingestq.ended("status", "--json")).json["collection"]["chunks"]
    assert second.json["chunks"]["embedded"] < after, "what was done is not done again"
    assert after > before

    worker = await ingestq.ended("worker")
    worker.failed_with(2, "max_tokens 100, now 254", "INGESTQ_CHUNK_TOKENS")
    found = await ingestq.ended("search", QUERY, "--dense", "--json")
    assert ANSWER in " ".join(found.json["hits"][0]["text"].split())

    back = await ingestq.ended("reindex", "--rollback")
    assert back.code == 0, back.err
    unchanged = (await ingestq.ended("run", EXAMPLES, "--json")).json
    assert unchanged["documents"]["unchanged"] == documents
    assert (await ingestq.ended("status", "--json")).json["collection"]["chunks"] == before
