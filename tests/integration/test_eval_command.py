"""``ingestq eval`` as a user runs it."""

import json
import unicodedata
from typing import Any

import pytest

from ingestq.app.retrieval_measures import MEASURES
from tests.command import Ingestq

FILES = {
    "parrots.txt": "The lighthouse keeper owns two parrots.",
    "ferry.txt": "The ferry to the island leaves at noon.",
    "invoice.txt": "Invoice INV-2024-00817 for a rope.",
    unicodedata.normalize("NFD", "café.txt"): "The coffee house opens at seven.",
}
QUESTIONS = [
    {"question": "who keeps birds?", "doc_id": "notes/parrots.txt"},
    {"question": "INV-2024-00817", "text": "a ROPE"},
    {"question": "when does the boat go?", "doc_id": "notes/ferry.txt", "text": "at noon"},
    {"question": "breakfast drinks", "doc_id": unicodedata.normalize("NFC", "notes/café.txt")},
]


def index(ingestq: Ingestq) -> None:
    """Index `FILES`."""
    folder = ingestq.folder / "notes"
    folder.mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(text, encoding="utf-8")
    assert ingestq("run", "notes", "--source", "notes").code == 0


def ask(ingestq: Ingestq, *questions: dict[str, Any]) -> str:
    """Write ``questions`` to a file and return its name."""
    lines = "\n".join(map(json.dumps, questions))
    (ingestq.folder / "questions.jsonl").write_text(lines, encoding="utf-8")
    return "questions.jsonl"


@pytest.mark.slow
def test_figures_of_a_collection(ingestq: Ingestq) -> None:
    index(ingestq)
    file = ask(ingestq, *QUESTIONS)

    measured = ingestq("eval", file, "--json", "--misses", "3")
    assert measured.code == 0, measured.err
    report = measured.json
    assert (report["collection"], report["questions"], report["absent"]) == ("documents", 4, [])
    assert list(report["modes"]) == ["dense", "sparse", "hybrid"]
    assert report["modes"]["dense"] == dict.fromkeys(MEASURES, 1.0)
    assert report["modes"]["hybrid"]["recall@10"] == 1.0
    [birds, boat, drinks] = report["misses"]["sparse"]  # no word in common
    assert report["modes"]["sparse"]["recall@10"] == 0.25
    assert birds | {"line": 1, "rank": None, "doc_id": ["notes/parrots.txt"]} == birds
    assert (boat["line"], boat["text"], drinks["line"]) == (3, ["at noon"], 4)
    assert report["misses"]["dense"] == []
    assert "searching 4/4 questions" in measured.err

    table = ingestq("eval", file, "--mode", "dense", "--mode", "sparse", "--misses", "1")
    assert table.code == 0
    assert [line.split("│")[1].strip() for line in table.out.splitlines() if "│" in line] == [
        "dense",
        "sparse",
    ]
    for name in MEASURES:
        assert name in table.out
    assert "line 1: who keeps birds?" in table.out
    assert "not found; no hits" in table.out
    assert "line 4" not in table.out


@pytest.mark.slow
def test_documents_that_cannot_be_found_are_named(ingestq: Ingestq) -> None:
    index(ingestq)
    file = ask(ingestq, QUESTIONS[0], {"question": "rope", "doc_id": ["gone", "notes/invoice.txt"]})
    measured = ingestq("eval", file, "--mode", "hybrid")
    assert measured.code == 1
    assert "line 2: 'gone' has no chunks in the collection" in measured.err
    assert "counts as not found" in measured.err
    assert "line 1" not in measured.err
    report = ingestq("eval", file, "--mode", "hybrid", "--json").json
    assert report["absent"] == [{"line": 2, "doc_id": "gone"}]
    assert report["modes"]["hybrid"]["recall@10"] == 0.75

    filtered = ingestq("eval", file, "--source", "notes/ferry.txt", "--json")
    assert filtered.code == 1
    assert [a["doc_id"] for a in filtered.json["absent"]] == [
        "notes/parrots.txt",
        "gone",
        "notes/invoice.txt",
    ]
    assert filtered.json["modes"]["hybrid"] == dict.fromkeys(MEASURES, 0.0)


@pytest.mark.slow
def test_a_wrong_call_is_refused(ingestq: Ingestq) -> None:
    file = ask(ingestq, {"question": "a", "doc_id": "x"}, {"question": "b"})
    ingestq("eval", file).failed_with(2, "questions.jsonl, line 2: it needs doc_id, text or both")
    broken = ingestq("eval", file, "--json")
    broken.failed_with(2, "line 2")
    assert "line 2" in broken.json["error"]
    ingestq("eval", "missing.jsonl").failed_with(2, "missing.jsonl cannot be read: No such file")
    ingestq("eval", file, "--filter", "year").failed_with(2, "--filter 'year' is not KEY=VALUE")
    file = ask(ingestq, {"question": "a", "doc_id": "x"})
    ingestq("eval", file).failed_with(2, "collection 'documents' does not exist yet")
    unknown = ingestq("eval", file, "--mode", "magic", "--json")
    assert unknown.code == 2
    assert "magic" in unknown.json["error"]


@pytest.mark.slow
def test_a_collection_without_words_is_measured_by_meaning(ingestq: Ingestq) -> None:
    ingestq.settings["hybrid"] = "false"
    index(ingestq)
    file = ask(ingestq, *QUESTIONS)
    measured = ingestq("eval", file, "--json")
    assert measured.code == 0, measured.err
    assert measured.json["modes"] == {"dense": dict.fromkeys(MEASURES, 1.0)}
    ingestq("eval", file, "--mode", "sparse").failed_with(2, "INGESTQ_HYBRID=false")
