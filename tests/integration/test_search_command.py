"""``ingestq search`` as a user runs it."""

import httpx
import pytest

from tests.command import Ingestq
from tests.qdrant_proxy import QdrantProxy
from worker.text.parts import INSIDE

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
    assert found(ingestq, "--filter", "year>=2024", "--filter", "title=817,818", "rope") == ["817"]
    nothing = ingestq("search", *only, "invoice")
    assert (nothing.code, nothing.out) == (0, "no results\n")


@pytest.mark.slow
def test_a_hit_shows_where_it_is(ingestq: Ingestq) -> None:
    rows = "\n".join(f"| gannet {i} | {i * 3} |" for i in range(60))
    table = f"| bird | eggs |\n|---|---|\n{rows}\n"
    note = f"---\ntitle: The island\n---\n\n## Nests\n\n{table}\n\n## Boats\n\nTwo."
    (ingestq.folder / "island.md").write_text(note)
    (ingestq.folder / "ferry.txt").write_text("The ferry leaves at noon.")
    assert ingestq("run", ".").code == 0

    [hit] = ingestq("search", "--json", "-n", "1", "--sparse", "nests 59").json["hits"]
    assert hit["context"] == f"The island{INSIDE}Nests"
    assert hit["text"].startswith("| bird | eggs |")
    assert (hit["page"], hit["part"]) == (None, None)
    assert hit["metadata"]["title"] == "The island"
    printed = ingestq("search", "-n", "1", "--sparse", "nests 59").out.splitlines()
    assert printed[0].endswith(f"{ingestq.folder / 'island.md'}  #{hit['chunk_index']}")
    assert printed[1].strip() == hit["context"]
    printed = ingestq("search", "-n", "1", "--sparse", "noon").out.splitlines()
    assert printed[1].strip() == "The ferry leaves at noon.", "the context is the file's name"


@pytest.mark.slow
def test_hits_of_one_document_are_grouped_and_have_neighbours(ingestq: Ingestq) -> None:
    days = "\n\n".join(
        f"## Day {n}\n\n{'Fog and rain. ' * 60}A goose. {'Fog and rain. ' * 60}" for n in range(4)
    )
    (ingestq.folder / "log.md").write_text(days)
    (ingestq.folder / "note.txt").write_text("A goose came.")
    assert ingestq("run", ".").code == 0
    log, note = (str(ingestq.folder / name) for name in ("log.md", "note.txt"))

    assert found(ingestq, "--sparse", "goose").count(log) > 1
    assert sorted(found(ingestq, "--sparse", "--group", "goose")) == [log, note]
    asked = ("search", "--sparse", "--group", "--filter", "title!=note.txt", "--around", "1")
    [hit] = ingestq(*asked, "--json", "goose").json["hits"]
    sides = [chunk["chunk_index"] - hit["chunk_index"] for chunk in hit["before"] + hit["after"]]
    assert set(sides) <= {-1, 1}
    assert sides
    assert "A goose." in hit["snippet"]
    assert len(hit["snippet"]) < len(hit["text"])
    printed = ingestq(*asked, "goose").out
    assert f"  #{hit['chunk_index'] + sides[0]} " in printed
    assert "A goose." in " ".join(printed.split())


def test_a_wrong_query_is_refused(ingestq: Ingestq) -> None:
    ingestq("search", "--dense", "--sparse", "x").failed_with(
        2, "--dense and --sparse cannot be combined"
    )
    ingestq("search", "--filter", "year", "x").failed_with(2, "--filter 'year' is not KEY=VALUE")
    ingestq("search", " ").failed_with(2, "the query is blank")
    far = ingestq("search", "--around", "6", "x")
    assert far.code == 2
    assert "'--around': Input should be less than or equal to 5" in far.err
    ingestq("search", "--filter", "year>soon", "x").failed_with(
        2, "--filter 'year>soon' has no number or date after >; a filter is KEY=VALUE"
    )


@pytest.mark.slow
async def test_a_collection_is_created_as_configured(
    ingestq: Ingestq, proxied_qdrant: QdrantProxy, alias: str
) -> None:
    ingestq.settings |= {
        "qdrant_url": proxied_qdrant.url,
        "collection": alias,
        "hybrid": "false",
        "vector_name": "meaning",
        "quantization": "binary",
        "on_disk": "true",
    }
    index(ingestq)
    async with httpx.AsyncClient(base_url=proxied_qdrant.url) as client:
        answer = await client.get(f"/collections/{alias}")
    config = answer.json()["result"]["config"]
    assert config["params"]["vectors"]["meaning"]["on_disk"]
    assert config["params"]["on_disk_payload"]
    assert not config["params"].get("sparse_vectors")
    assert config["quantization_config"]["binary"]["always_ram"]

    del ingestq.settings["hybrid"]  # a search takes what it finds
    assert found(ingestq, "who has birds?")[0] == "keeper"
    ingestq("search", "--sparse", "x").failed_with(2, f"'{alias}'", "INGESTQ_HYBRID=false")
    ran = ingestq("run", "note.txt")
    ran.failed_with(2, "sparse none, now bm25/2", "INGESTQ_HYBRID", "INGESTQ_COLLECTION")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("hybrid", "perhaps", "boolean"),
        ("quantization", "ternary", "'none', 'scalar' or 'binary'"),
        ("on_disk", "2", "boolean"),
        ("vector_name", "a/b", "pattern"),
        ("vector_name", "bm25", "the sparse vector"),
        ("text_field", "metadata", "something else under this key"),
    ],
)
def test_a_wrong_setting_of_the_collection_is_named(
    ingestq: Ingestq, name: str, value: str, said: str
) -> None:
    ingestq.settings[name] = value
    ingestq("status").failed_with(2, f"INGESTQ_{name.upper()} is '{value}'", said)
