"""Whatever a request holds, the bundled Qdrant's engine can apply its log again.

The engine applies requests that it cannot read back from its log; a shard with one of them would
never open again.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import qdrant_edge as edge

from ingestq.core.errors import StoreFull
from ingestq.embedded.qdrant import files
from ingestq.embedded.qdrant.catalog import Collection
from ingestq.embedded.qdrant.collections import OpenCollections
from ingestq.embedded.qdrant.errors import Refused, engine_error
from ingestq.embedded.qdrant.files import create_shard, load_shard
from ingestq.embedded.qdrant.filters import DEEPEST_FILTER
from ingestq.embedded.qdrant.points import DEEPEST_PAYLOAD
from ingestq.embedded.qdrant.queries import FacetRequest, facet
from ingestq.embedded.qdrant.schema import (
    CreateCollection,
    FieldIndex,
    index_operation,
    shard_config,
)
from ingestq.embedded.qdrant.shard import Points
from ingestq.embedded.qdrant.updates import Batch, checked
from worker.http_answers import FailedAnswer
from worker.store.answers import qdrant_error

CREATED = {
    "vectors": {"size": 2, "distance": "Dot"},
    "sparse_vectors": {"bm25": {"modifier": "idf"}},
}
COLLECTION = Collection(0, msgspec.convert(CREATED, CreateCollection).config())
POINT = {"id": 1, "vector": [1, 0]}


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def nested(levels: int) -> Any:
    only: Any = {"must": [{"key": "a", "match": {"any": [1]}}]}
    for _ in range(levels):
        only = {"must": [{"nested": {"key": "a", "filter": only}}]}
    return only


@pytest.fixture
def shard(tmp_path: Path) -> Iterator[Points]:
    opened = create_shard(tmp_path / "shard", shard_config(COLLECTION.config))
    opened.update(edge.UpdateOperation.upsert_points([edge.Point(9, [0.0, 1.0], {"kept": True})]))
    yield Points(opened)
    opened.close()


def copied(tmp_path: Path) -> Path:
    """Return a copy of the open shard's folder, as a crash would leave it."""
    # The engine makes the next files of its log meanwhile, under names of their own.
    unfinished = shutil.ignore_patterns("tmp-*")
    return Path(shutil.copytree(tmp_path / "shard", tmp_path / "copy", ignore=unfinished))


def reopened(tmp_path: Path) -> int:
    """Return how many points there are after the log was applied again."""
    shard = load_shard(copied(tmp_path), {})
    try:
        return shard.count(edge.CountRequest())
    finally:
        shard.close()


def _batch(*operations: Any) -> Batch:
    return msgspec.json.decode(msgspec.json.encode({"operations": operations}), type=Batch)


def write(shard: Points, *operations: Any) -> None:
    batch = _batch(*operations)
    for _ in checked(batch, shard, COLLECTION):
        pass


def upsert(**options: Any) -> Any:
    point = {**POINT, **options.pop("point", {})}
    return {"upsert": {"points": [point], **options}}


@pytest.mark.parametrize(
    "operation",
    [
        pytest.param(upsert(point={"payload": {"a": deep(DEEPEST_PAYLOAD - 1)}}), id="payload"),
        pytest.param(upsert(update_filter=nested(DEEPEST_FILTER)), id="filter"),
        pytest.param(
            {"set_payload": {"payload": {"a": 1}, "key": ".".join("k" * 90), "points": [9]}},
            id="key",
        ),
        pytest.param(upsert(point={"id": 2**64 - 1, "payload": {"n": 2**70}}), id="numbers"),
        pytest.param(upsert(point={"vector": {}, "payload": {"": "\0"}}), id="empty"),
        pytest.param(
            upsert(point={"vector": {"bm25": {"indices": [2**32 - 1], "values": [0]}}}), id="word"
        ),
        pytest.param(upsert(point={"payload": {"a": "x" * 20_000_000}}), id="20 MB"),
    ],
)
def test_what_is_accepted_can_be_read_back(tmp_path: Path, shard: Points, operation: Any) -> None:
    write(shard, operation)
    expected = shard.edge.count(edge.CountRequest())
    assert reopened(tmp_path) == expected


@pytest.mark.parametrize(
    ("operation", "status"),
    [
        (upsert(point={"payload": {"a": deep(DEEPEST_PAYLOAD)}}), 400),
        (upsert(update_filter=nested(DEEPEST_FILTER + 1)), 400),
        (
            {
                "set_payload": {
                    "payload": {"a": deep(20)},
                    "key": ".".join("k" * DEEPEST_PAYLOAD),
                    "points": [9],
                }
            },
            400,
        ),
        (upsert(point={"vector": {"bm25": {"indices": [1, 2], "values": [1]}}}), 422),
        (upsert(point={"vector": {"bm25": {"indices": [1, 1], "values": [1, 1]}}}), 422),
        (upsert(point={"vector": [1, 2, 3]}), 400),
        (upsert(point={"vector": {"other": [1, 2]}}), 400),
        (upsert(point={"vector": {"bm25": [1, 2]}}), 400),
        (upsert(point={"id": -1}), 400),
        (upsert(point={"id": "abc"}), 400),
        ({"delete": {}}, 400),
        ({"set_payload": {"payload": {}}}, 422),
        ({}, 400),
    ],
)
def test_what_is_refused_is_not_logged(
    tmp_path: Path, shard: Points, operation: Any, status: int
) -> None:
    with pytest.raises(Refused) as refused:
        write(shard, operation, {"delete": {"points": [9]}})
    assert refused.value.status == status
    assert shard.edge.count(edge.CountRequest()) == 1
    assert reopened(tmp_path) == 1


def test_what_the_engine_refuses_is_skipped_when_it_is_applied_again(
    tmp_path: Path, shard: Points
) -> None:
    missing = {"set_payload": {"payload": {"a": 1}, "points": [9, 77]}}
    with pytest.raises(Exception, match="No point with id 77") as refused:
        write(shard, upsert(), missing, {"delete": {"points": [9]}})
    assert engine_error(refused.value).status == 404
    assert reopened(tmp_path) == 2


def test_a_point_that_cannot_be_read_is_named(shard: Points) -> None:
    unreadable = {"id": 2, "vector": [1, "0"]}
    with pytest.raises(Refused, match=r"at `\$\.points\[1\]\.vector\[1\]`") as refused:
        write(shard, upsert(), {"upsert": {"points": [POINT, unreadable]}})
    assert refused.value.status == 400
    assert shard.edge.count(edge.CountRequest()) == 1


async def test_a_request_that_is_refused_is_no_fault_of_the_engine(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    opened = await OpenCollections.open(tmp_path)
    await opened.create("notes", msgspec.convert(CREATED, CreateCollection))
    for operation, status in (
        ({"set_payload": {"payload": {"a": 1}, "points": [77]}}, 404),
        ({"delete_payload": {"keys": ["a["], "points": [77]}}, 400),
    ):
        with pytest.raises(Refused) as refused:
            await opened.write("notes", _batch(operation), is_durable=True)
        assert refused.value.status == status
    await opened.close()
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


async def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = await OpenCollections.open(tmp_path)
    await opened.create("notes", msgspec.convert(CREATED, CreateCollection))
    update = _batch(upsert())
    with monkeypatch.context() as patched:
        patched.setattr(files, "LEAST_FREE_BYTES", 2**60)
        with pytest.raises(Refused) as refused:
            await opened.write("notes", update, is_durable=True)
    body = msgspec.json.encode({"status": {"error": str(refused.value)}})
    error = qdrant_error("here", FailedAnswer(refused.value.status, {}, body))
    assert isinstance(error, StoreFull)
    await opened.write("notes", update, is_durable=True)
    await opened.close()


async def test_an_index_that_a_full_disk_prevented_is_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = await OpenCollections.open(tmp_path)
    await opened.create("notes", msgspec.convert(CREATED, CreateCollection))
    index = FieldIndex("doc_id", "keyword")
    with monkeypatch.context() as patched:
        patched.setattr(files, "LEAST_FREE_BYTES", 2**60)
        await opened.create_index("notes", index)
        wanted = FacetRequest(key="doc_id", exact=True)
        with pytest.raises(Refused, match="No appropriate index"):
            await opened.read("notes", facet, wanted)
    assert (await opened.describe("notes"))["payload_schema"] == {}
    await opened.create_index("notes", index)
    assert await opened.read("notes", facet, wanted) == {"hits": []}
    assert (await opened.describe("notes"))["payload_schema"].keys() == {"doc_id"}
    await opened.close()


def test_an_index_that_a_crash_prevented_is_created_on_opening(
    tmp_path: Path, shard: Points
) -> None:
    shard.update(index_operation("there", "keyword"))
    opened = load_shard(copied(tmp_path), {"there": "keyword", "not.yet": {"type": "integer"}})
    assert opened.info().payload_schema.keys() == {"there", "not.yet"}
    opened.close()
