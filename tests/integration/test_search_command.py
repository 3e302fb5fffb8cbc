"""``ingestq search`` as a user runs it."""

import httpx
import pytest

from tests.command import Ingestq
from tests.qdrant_standin import qdrant_standin

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
    """Return the documents that a search finds, best first."""
    return [hit["doc_id"] for hit in ingestq("search", "--json", *arguments).json["hits"]]


@pytest.mark.slow
def test_a_search_finds_by_meaning_and_by_words(ingestq: Ingestq) -> None:
    index(ingestq)
    assert found(ingestq, "who keeps birds? 00817")[:2] in (["817", "keeper"], ["keeper", "817"])
    assert found(ingestq, "--dense", "who keeps birds? 00817")[0] == "keeper"
    assert found(ingestq, "--sparse", "who keeps birds? 00817")[0] == "817"
    only = ("--filter", "year=2024", "--filter", "title=818", "--source", "818", "--tenant", "")
    assert found(ingestq, *only[2:], "invoice") == ["818"]
    nothing = ingestq("search", *only, "invoice")
    assert (nothing.code, nothing.out) == (0, "no results\n")


def test_a_wrong_query_is_refused(ingestq: Ingestq) -> None:
    ingestq("search", "--dense", "--sparse", "x").failed_with(
        2, "--dense and --sparse cannot be combined"
    )
    ingestq("search", "--filter", "year", "x").failed_with(2, "--filter 'year' is not KEY=VALUE")


@pytest.mark.slow
async def test_a_collection_is_created_as_configured(ingestq: Ingestq) -> None:
    async with qdrant_standin() as standin:
        ingestq.settings |= {
            "qdrant_url": standin.url,
            "hybrid": "false",
            "vector_name": "meaning",
            "quantization": "binary",
            "on_disk": "true",
        }
        index(ingestq)
        async with httpx.AsyncClient(base_url=standin.url) as client:
            answer = await client.get("/collections/documents")
        config = answer.json()["result"]["config"]
        assert config["params"]["vectors"]["meaning"]["on_disk"]
        assert config["params"]["on_disk_payload"]
        assert config["params"]["sparse_vectors"] is None
        assert config["quantization_config"]["binary"]["always_ram"]

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
def test_a_wrong_setting_of_the_collection_is_named(
    ingestq: Ingestq, name: str, value: str, said: str
) -> None:
    ingestq.settings[name] = value
    ingestq("status").failed_with(2, f"INGESTQ_{name.upper()} is '{value}'", said)
