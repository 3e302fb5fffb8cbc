"""The catalog of the bundled Qdrant: what a change leaves, and what a damaged file says."""

from pathlib import Path

import pytest

from ingestq.embedded.qdrant.catalog import (
    Catalog,
    CatalogDamaged,
    Collection,
    read_catalog,
    write_catalog,
)
from ingestq.embedded.qdrant.schema import CollectionConfig, VectorParams

NOTES = Collection(
    3,
    CollectionConfig(
        vectors={"": VectorParams(size=4, distance="Cosine")}, metadata={"fingerprint": {"a": None}}
    ),
    {"doc_id": "keyword", "version": {"type": "integer", "range": True}},
)


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert read_catalog(tmp_path) == Catalog()
    catalog = Catalog().with_collection("notes__1", NOTES).with_alias("notes", "notes__1")
    assert catalog.next_shard == NOTES.shard + 1
    write_catalog(tmp_path, catalog)
    assert read_catalog(tmp_path) == catalog
    assert [path.name for path in tmp_path.iterdir()] == ["catalog.json"]


def test_a_collection_goes_with_its_aliases() -> None:
    catalog = Catalog().with_collection("a", NOTES).with_collection("b", NOTES)
    catalog = catalog.with_alias("x", "a").with_alias("y", "b").without_collection("a")
    assert list(catalog.collections) == ["b"]
    assert catalog.aliases == {"y": "b"}
    assert catalog.next_shard == NOTES.shard + 1, "a number is never used again"


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b'{"format": 1, "collections": {"a": {}}}', b'{"format": 2}', b"\xff\xfe", b"[]"],
)
def test_a_file_that_cannot_be_read_says_what_to_do(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "catalog.json").write_bytes(content)
    with pytest.raises(CatalogDamaged, match=f"Move {tmp_path} away and index the sources again"):
        read_catalog(tmp_path)


def test_a_draft_that_was_never_finished_does_not_count(tmp_path: Path) -> None:
    write_catalog(tmp_path, Catalog().with_collection("notes", NOTES))
    (tmp_path / "catalog.new").write_bytes(b'{"format"')
    assert list(read_catalog(tmp_path).collections) == ["notes"]
    write_catalog(tmp_path, Catalog())
    assert read_catalog(tmp_path) == Catalog()
