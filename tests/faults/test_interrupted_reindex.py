"""``ingestq reindex`` is killed, and continues when it is run again; what it leaves is harmless."""

from pathlib import Path

import pytest

from ingestq.core import events
from tests.bundled import bundled_qdrant
from tests.command import Ingestq
from tests.qdrant_proxy import QdrantProxy
from worker.embedding.config import Precision
from worker.maintenance.cut_over import PREVIOUS
from worker.store.collection import CollectionNames, make_collection, point_alias
from worker.store.schema import DEFAULT_STORAGE, Fingerprint

EXAMPLES = Path(__file__).parents[2] / "examples" / "documents"
QUERY = "Can I bring my puppy along when I come for a day trip?"
ANSWER = "Dogs are not allowed ashore"
CHUNK_TOKENS = "100"


@pytest.mark.slow
async def test_a_killed_reindex_continues_where_it_stopped(
    ingestq: Ingestq, proxied_qdrant: QdrantProxy, alias: str
) -> None:
    ingestq.settings |= {"qdrant_url": proxied_qdrant.url, "collection": alias}
    before = (await ingestq.ended("run", EXAMPLES, "--json")).json["chunks"]["embedded"]
    documents = len(list(EXAMPLES.iterdir()))

    last = proxied_qdrant.holds.document(documents)
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


@pytest.mark.slow
async def test_a_damaged_previous_collection_stops_no_work(ingestq: Ingestq) -> None:
    made_with = Fingerprint("test/small", "1", 2, 8, Precision.EXACT, "none", 1)
    old = CollectionNames.of("documents", made_with.digest)
    data_dir = ingestq.folder / ".ingestq"
    async with bundled_qdrant(data_dir) as qdrant:
        await make_collection(qdrant, old, made_with, DEFAULT_STORAGE)
        previous = point_alias(f"documents{PREVIOUS}", old)
        await qdrant.ask(lambda client: client.update_collection_aliases([previous]))
    for state in (data_dir / "qdrant" / "shards").glob("*/segments/*/segment.json"):
        state.write_text("garbage")

    (ingestq.folder / "note.txt").write_text("A note about the tide.")
    ran = await ingestq.ended("run", "note.txt", "--json")
    assert ran.code == 0, ran.err
    assert ran.json["documents"]["indexed"] == 1
    [failed] = [line for line in ran.err.splitlines() if events.UPKEEP_FAILED in line]
    assert "is damaged" in failed
