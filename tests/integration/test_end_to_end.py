"""The installed command on real files: indexed documents are found by a search."""

import json
import shutil
from pathlib import Path

import pytest

from ingestq.core import events
from tests.command import Ingestq

EXAMPLES = Path(__file__).parents[2] / "examples" / "documents"


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    return Path(shutil.copytree(EXAMPLES, tmp_path / "documents"))


def index_search_and_index_again(
    ingestq: Ingestq, documents: Path, question: str, answer: str
) -> None:
    """Index ``documents``, find ``answer`` by a ``question`` in other words, and index again."""
    first = ingestq("run", documents, "--json")
    assert first.code == 0, first.err
    assert first.json["documents"]["indexed"] == len(list(documents.iterdir()))
    assert first.json["documents"]["rejected"] == 0
    assert first.json["chunks"]["embedded"] > 0
    assert first.json["collection"] == "documents"

    hits = ingestq("search", question, "--json").json["hits"]
    assert len(hits) == 5
    assert answer in " ".join(" ".join(hit["text"] for hit in hits).split())
    assert hits[0].keys() == {
        "score",
        "doc_id",
        "source",
        "chunk_index",
        "text",
        "context",
        "page",
        "part",
        "snippet",
        "before",
        "after",
        "metadata",
        "tenant",
        "stale",
    }

    # Only by meaning the question in other words has its answer first, whatever words they share.
    [best] = ingestq("search", question, "--dense", "-n", "1", "--json").json["hits"]
    assert answer in " ".join(best["text"].split())

    before = ingestq("status", "--json").json["collection"]
    assert before["documents"] == len(list(documents.iterdir()))
    assert before["chunks"] == first.json["chunks"]["embedded"]

    second = ingestq("run", documents, "--json")
    assert second.code == 0, second.err
    assert second.json["documents"]["unchanged"] == before["documents"]
    assert second.json["chunks"] == {"embedded": 0, "reused": 0, "deleted": 0}
    said = ingestq("status").out
    assert "unserved" not in said
    assert "waits" not in said, "nothing does"
    assert ingestq("status", "--json").json["collection"] == before


def test_indexed_documents_are_found_and_deleted_ones_are_not(
    ingestq: Ingestq, documents: Path
) -> None:
    index_search_and_index_again(
        ingestq,
        documents,
        "Which consumers lose electricity first when stored energy gets low?",
        "the miller shuts off the bath-house heaters first",
    )
    gone = min(documents.iterdir())
    gone.unlink()
    assert ingestq("run", documents, "--json").json["documents"]["deleted"] == 1
    assert str(gone) not in ingestq("search", "anything", "-n", "50", "--json").out


@pytest.mark.slow
def test_indexing_and_searching_work_with_debians_redis(
    ingestq: Ingestq, documents: Path, debian_redis: str
) -> None:
    ingestq.settings["redis_url"] = debian_redis
    index_search_and_index_again(
        ingestq,
        documents,
        "Which pets may I bring along as a visitor?",
        "Dogs are not allowed ashore",
    )


@pytest.mark.slow
def test_documents_are_queued_by_one_process_and_indexed_by_another(
    ingestq: Ingestq, documents: Path
) -> None:
    # Files, not their folder: nobody waits for the sweep of this one.
    queued = ingestq("add", *sorted(documents.iterdir()), "--json")
    assert queued.code == 0, queued.err
    assert queued.json["documents"] == {"queued": 6, "rejected": 0}
    waiting = ingestq("status", "--json").json
    assert waiting["queue"]["ready"] > 0
    assert waiting["collection"]["documents"] == 0

    worker = ingestq.start("worker")
    try:
        # The folder is named, so these are other documents than those queued above.
        followed = ingestq("add", documents, "--source", "island", "--wait", "--json")
        assert followed.code == 0, followed.err
        assert followed.json["documents"]["indexed"] == 6
    finally:
        worker.terminate()
        _, log = worker.communicate(timeout=60)
    assert worker.returncode == 0, log

    status = ingestq("status", "--json").json
    assert status["queue"] == {
        "ready": 0,
        "deferred": 0,
        "in_flight": 0,
        "oldest_ready_seconds": 0,
        "bytes": 0,
        "interactive": 0,
        "bulk": 0,
        "poison": 0,
    }
    assert status["workers"] == []
    assert status["collection"]["documents"] == 12
    [hit] = ingestq("search", "dogs on the island", "-n", "1", "--json").json["hits"]
    assert hit["doc_id"].endswith("visitor-rules.html")


@pytest.mark.slow
def test_json_lines_are_indexed(ingestq: Ingestq) -> None:
    lines = """
    {"doc_id": "a", "text": "The lighthouse keeper owns two parrots.", "metadata": {"page": 7}}
    {"doc_id": "b", "txt": "misspelt field"}
    not json
    """
    queued = ingestq("add", "-", "--json", stdin=lines)
    assert queued.code == 1
    assert queued.json["documents"] == {"queued": 1, "rejected": 2}
    assert [rejected["doc_id"] for rejected in queued.json["rejected"]] == ["line 3", "line 4"]
    assert "txt" in queued.json["rejected"][0]["reason"]

    (ingestq.folder / "more.txt").write_text("The ferry leaves at noon.")
    ran = ingestq("run", "more.txt", "-v")
    assert ran.code == 0
    [start] = [json.loads(line) for line in ran.err.splitlines() if events.START_TIMED in line]
    for part in ("redis", "qdrant", "model", "parse_process", "embedding_process", "walk"):
        assert start["parts"][part] >= 0, "the documents went through all of them"
    [hit] = ingestq("search", "who keeps birds?", "-n", "1", "--json").json["hits"]
    assert (hit["doc_id"], hit["metadata"]["page"]) == ("a", 7)

    assert ingestq("delete", "a", "--json").json["documents"] == {"queued": 1}
    again = ingestq("run", "more.txt", "--json")
    assert again.json["documents"]["unchanged"] == 1
    assert events.START_TIMED not in again.err
    hits = ingestq("search", "who keeps birds?", "--json").json["hits"]
    assert [hit["text"] for hit in hits] == ["The ferry leaves at noon."]
    assert ingestq("status", "--json").json["collection"]["documents"] == 1
