"""``ingestq search`` as a user runs it."""

import pytest
from qdrant_client import QdrantClient

from tests.command import Ingestq

LINES = """
{"doc_id": "817", "text": "Invoice INV-2024-00817 for rope.", "metadata": {"year": 2024}}
{"doc_id": "818", "text": "Invoice INV-2023-00818 for rope.", "metadata": {"year": 2023}}
{"doc_id": "keeper", "text": "The lighthouse keeper owns two parrots.", "metadata": {"year": 2024}}
"""


def index(ingestq: Ingestq) -> None:
    """Index `LINES` and a note."""
    assert ingestq("add", "-", stdin=LINES).code == 0
    (ingestq.folder / "note.txt").write_text("The ferry leaves at noon.")
    assert ingestq("run", "note.txt").code == 0


def found(ingestq: Ingestq, *arguments: str) -> list[str]:
    """The documents that a search finds, best first."""
    return [hit["doc_id"] for hit in ingestq("search", "--json", *arguments).json["hits"]]


def test_a_search_is_by_meaning_and_by_words(ingestq: Ingestq) -> None:
    index(ingestq)
    assert found(ingestq, "00817")[0] == "817"
    assert found(ingestq, "who has birds?")[0] == "keeper"
    assert found(ingestq, "--sparse", "00817") == ["817"]
    assert found(ingestq, "--sparse", "birds") == []
    assert len(found(ingestq, "--dense", "00817")) == 4
    year = ("--filter", "year=2024")
    assert set(found(ingestq, *year, "invoice")) == {"817", "keeper"}
    assert found(ingestq, *year, "--filter", "title=818", "invoice") == []
    assert found(ingestq, "--sparse", "--source", "818", "invoice") == ["818"]
    nothing = ingestq("search", "--tenant", "nobody", "invoice")
    assert (nothing.code, nothing.out) == (0, "nothing was found\n")


def test_a_wrong_question_is_refused(ingestq: Ingestq) -> None:
    ingestq("search", "--dense", "--sparse", "x").failed_with(2, "--dense and --sparse exclude")
    ingestq("search", "--filter", "year", "x").failed_with(2, "--filter 'year' is not KEY=VALUE")


def test_a_collection_is_made_as_configured(ingestq: Ingestq) -> None:
    ingestq.settings |= {"hybrid": "false", "vector_name": "meaning", "on_disk": "true"}
    index(ingestq)
    client = QdrantClient(path=str(ingestq.folder / ".ingestq" / "qdrant"))
    params = client.get_collection("documents").config.params
    client.close()
    assert isinstance(params.vectors, dict)
    assert params.vectors["meaning"].on_disk
    assert params.sparse_vectors is None

    del ingestq.settings["hybrid"]  # a search takes what it finds
    assert found(ingestq, "who has birds?")[0] == "keeper"
    ingestq("search", "--sparse", "x").failed_with(2, "'documents'", "INGESTQ_HYBRID=false")
    ran = ingestq("run", "note.txt")
    ran.failed_with(2, "sparse none, now bm25/1", "INGESTQ_HYBRID", "INGESTQ_COLLECTION")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("hybrid", "perhaps", "boolean"),
        ("quantization", "ternary", "'none', 'scalar' or 'binary'"),
        ("on_disk", "2", "boolean"),
        ("vector_name", "a/b", "pattern"),
        ("vector_name", "bm25", "the sparse vector"),
    ],
)
def test_a_setting_of_the_collection_is_wrong(
    ingestq: Ingestq, name: str, value: str, said: str
) -> None:
    ingestq.settings[name] = value
    ingestq("status").failed_with(2, f"INGESTQ_{name.upper()} is '{value}'", said)
