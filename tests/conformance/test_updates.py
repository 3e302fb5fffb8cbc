"""What writes change: upserts, conditional ones, payloads, deletions, and batches of them."""

import asyncio
from typing import Any, Final

import pytest
from qdrant_client import AsyncQdrantClient, models
from qdrant_client.http.exceptions import UnexpectedResponse

from tests.conformance.conftest import Create
from tests.conformance.data import (
    INTEGER,
    KEYWORD,
    SPARSE,
    equals,
    has_id,
    ids,
    is_empty,
    must,
    must_not,
    payloads,
    point,
    should,
    within,
    write,
)

GOOSE: Final = "8c5d7a31-4c43-4a0e-9b0f-0a36e2a4a8f1"
SHORT: Final = [1.0, 2.0]
"""A vector that every collection here refuses."""


def upsert(
    *points: models.PointStruct,
    only: models.Filter | None = None,
    mode: models.UpdateMode | None = None,
) -> models.UpsertOperation:
    return models.UpsertOperation(
        upsert=models.PointsList(points=list(points), update_filter=only, update_mode=mode)
    )


def set_payload(payload: dict[str, Any], only: models.Filter) -> models.SetPayloadOperation:
    return models.SetPayloadOperation(set_payload=models.SetPayload(payload=payload, filter=only))


def delete(only: models.Filter) -> models.DeleteOperation:
    return models.DeleteOperation(delete=models.FilterSelector(filter=only))


async def test_an_upsert_replaces_the_whole_point(client: AsyncQdrantClient, name: str) -> None:
    await write(client, name, point(1, {"a": 1, "b": 2}), point(GOOSE, {"a": 1}))
    await write(client, name, point(1, {"a": 3}))
    assert await payloads(client, name) == {1: {"a": 3}, GOOSE: {"a": 1}}


async def test_points_in_columns(client: AsyncQdrantClient, name: str) -> None:
    batch = models.Batch(ids=[1, GOOSE], vectors=[[1.0] * 4, [2.0] * 4], payloads=[{"a": 1}, {}])
    await client.upsert(name, batch, wait=True)
    assert await payloads(client, name) == {1: {"a": 1}, GOOSE: {}}


async def test_a_vector_that_is_left_out_is_gone(client: AsyncQdrantClient, create: Create) -> None:
    name = await create(sparse_vectors_config=SPARSE)
    words = models.SparseVector(indices=[1], values=[1.0])
    await write(client, name, point(1, vector={"": [1.0] * 4, "bm25": words}))
    await write(client, name, point(1, vector={"": [2.0] * 4}))
    [record] = await client.retrieve(name, [1], with_vectors=["", "bm25"])
    dense = record.vector[""] if isinstance(record.vector, dict) else record.vector
    assert dense == [2.0] * 4
    assert not isinstance(record.vector, dict) or "bm25" not in record.vector


@pytest.mark.parametrize("indexed", [True, False])
async def test_a_conditional_upsert_inserts_what_is_missing_and_replaces_what_matches(
    client: AsyncQdrantClient, name: str, indexed: bool
) -> None:
    if indexed:
        await client.create_payload_index(name, "version", INTEGER, wait=True)
    await write(client, name, point(1, {"version": 1}), point(2, {"version": 3}), point(3))
    news = [point(i, {"version": 2, "new": True}) for i in (1, 2, 3, 4)]
    only = must(within("version", lt=2))
    done = await client.upsert(name, news, update_filter=only, wait=True)
    assert done.status is models.UpdateStatus.COMPLETED
    new = {"version": 2, "new": True}
    assert await payloads(client, name) == {1: new, 2: {"version": 3}, 3: {}, 4: new}


async def test_an_upsert_of_what_is_absent(client: AsyncQdrantClient, name: str) -> None:
    absent = must_not(has_id(1))
    for version in (1, 2):
        new = [point(1, {"version": version})]
        await client.upsert(name, new, update_filter=absent, wait=True)
    assert await payloads(client, name) == {1: {"version": 1}}
    await client.delete(name, [1], wait=True)
    await client.upsert(name, [point(1, {"version": 3})], update_filter=absent, wait=True)
    assert await payloads(client, name) == {1: {"version": 3}}


def not_newer(version: int, attempt: int, epoch: int) -> models.Filter:
    same_epoch, same_version = equals("epoch", epoch), equals("version", version)
    return should(
        within("epoch", lt=epoch),
        must(same_epoch, within("version", lt=version)),
        must(same_epoch, same_version, within("attempt", lte=attempt)),
    )


@pytest.mark.parametrize("indexed", [True, False])
async def test_a_fence_of_three_numbers_lets_no_older_write_pass(
    client: AsyncQdrantClient, name: str, indexed: bool
) -> None:
    fields = ("version", "attempt", "epoch")
    for field in fields if indexed else ():
        await client.create_payload_index(name, field, INTEGER, wait=True)
    now = (2**50, 5, 1)
    writes = {
        (2**50, 5, 1): True,  # once more
        (2**50, 4, 1): False,
        (2**50 - 1, 9, 1): False,
        (2**60, 9, 0): False,
        (2**50, 6, 1): True,
        (2**50 + 1, 0, 1): True,
        (1, 1, 2): True,
    }
    await write(client, name, point(1, dict(zip(fields, now, strict=True))))
    for number, (fence, passes) in enumerate(writes.items()):
        payload = dict(zip(fields, fence, strict=True)) | {"by": number}
        await client.upsert(name, [point(1, payload)], update_filter=not_newer(*fence), wait=True)
        assert (await payloads(client, name))[1].get("by") == number or not passes
        if passes:
            now = fence
        stored = (await payloads(client, name))[1]
        assert tuple(stored[field] for field in fields) == now


async def test_of_two_first_writers_one_wins(client: AsyncQdrantClient, name: str) -> None:
    ids_, absent = range(20), must_not(within("by", gte=0))
    await asyncio.gather(
        *(
            client.upsert(
                name, [point(i, {"by": by}) for i in ids_], update_filter=absent, wait=True
            )
            for by in range(8)
        )
    )
    stored = await payloads(client, name)
    assert set(stored) == set(ids_)
    assert len({payload["by"] for payload in stored.values()}) == 1, "one upsert is one step"


async def test_update_modes(client: AsyncQdrantClient, name: str) -> None:
    await write(client, name, point(1, {"by": 0}))

    async def both(by: int, mode: models.UpdateMode) -> dict[models.ExtendedPointId, Any]:
        news = [point(1, {"by": by}), point(by, {"by": by})]
        await client.upsert(name, news, update_mode=mode, wait=True)
        return await payloads(client, name)

    assert await both(2, models.UpdateMode.INSERT_ONLY) == {1: {"by": 0}, 2: {"by": 2}}
    assert await both(3, models.UpdateMode.UPDATE_ONLY) == {1: {"by": 3}, 2: {"by": 2}}
    assert (await both(4, models.UpdateMode.UPSERT)).keys() == {1, 2, 4}


async def test_an_update_only_with_a_condition(client: AsyncQdrantClient, name: str) -> None:
    await write(client, name, point(1, {"n": 1}), point(2, {"n": 2}))
    await client.upsert(
        name,
        [point(i, {"n": 9}) for i in (1, 2, 3)],
        update_filter=must(equals("n", 1)),
        update_mode=models.UpdateMode.UPDATE_ONLY,
        wait=True,
    )
    assert await payloads(client, name) == {1: {"n": 9}, 2: {"n": 2}}


async def test_setting_a_payload_keeps_other_keys_and_null_removes_one(
    client: AsyncQdrantClient, name: str
) -> None:
    await write(client, name, point(1, {"a": 1, "b": {"x": 1}}), point(2, {"a": 1, "n": None}))
    done = await client.set_payload(
        name, {"a": None, "b": {"y": [1, None]}, "c": ""}, must(has_id(1, 2)), wait=True
    )
    assert done.status is models.UpdateStatus.COMPLETED
    new = {"b": {"y": [1, None]}, "c": ""}
    assert await payloads(client, name) == {1: new, 2: {"n": None} | new}
    assert await ids(client, name, must(is_empty("a"))) == {1, 2}


async def test_a_payload_is_set_only_where_the_condition_holds(
    client: AsyncQdrantClient, name: str
) -> None:
    await client.create_payload_index(name, "state", KEYWORD, wait=True)
    await write(client, name, *(point(i, {"state": s}) for i, s in enumerate("aab")))
    for new in ("c", "d"):  # the second finds nothing
        only = must(has_id(0, 2), equals("state", "a"))
        await client.set_payload(name, {"state": new}, only, wait=True)
    assert await payloads(client, name) == {0: {"state": "c"}, 1: {"state": "a"}, 2: {"state": "b"}}
    assert await ids(client, name, must(equals("state", "a"))) == {1}
    assert await ids(client, name, must(equals("state", "c"))) == {0}


async def test_overwriting_replaces_the_payload_and_keeps_the_vector(
    client: AsyncQdrantClient, name: str
) -> None:
    await write(client, name, point(1, {"a": 1, "b": 2}, [4.0, 3.0, 2.0, 1.0]))
    await client.overwrite_payload(name, {"c": None, "d": 1}, [1], wait=True)
    [record] = await client.retrieve(name, [1], with_vectors=True)
    assert (record.payload, record.vector) == ({"c": None, "d": 1}, [4.0, 3.0, 2.0, 1.0])


async def test_setting_the_payload_of_a_missing_point_sets_the_others(
    client: AsyncQdrantClient, name: str
) -> None:
    await write(client, name, point(1))
    with pytest.raises(UnexpectedResponse, match="No point with id 2 found") as refused:
        await client.set_payload(name, {"a": 1}, [1, 2], wait=True)
    assert refused.value.status_code == 404
    assert await payloads(client, name) == {1: {"a": 1}}


async def test_deletions(client: AsyncQdrantClient, name: str) -> None:
    await write(client, name, *(point(i, {"n": i % 3}) for i in range(9)), point(GOOSE))
    await client.delete(name, [0, 99, GOOSE], wait=True)
    assert await ids(client, name) == set(range(1, 9))
    await client.delete(name, models.PointIdsList(points=[1]), wait=True)
    await client.delete(
        name, models.FilterSelector(filter=must(has_id(2, 3, 4), equals("n", 1))), wait=True
    )
    assert await ids(client, name) == {2, 3, 5, 6, 7, 8}
    done = await client.delete(name, must(equals("n", 77)), wait=True)
    assert done.status is models.UpdateStatus.COMPLETED
    await client.delete(name, models.Filter(), wait=True)
    assert await ids(client, name) == set()


async def test_a_deleted_point_may_come_back(client: AsyncQdrantClient, name: str) -> None:
    for n in range(3):
        await write(client, name, point(1, {"n": n}), point(2))
        await client.delete(name, [1], wait=True)
        assert await ids(client, name) == {2}
    await write(client, name, point(1, {"new": True}))
    assert (await payloads(client, name))[1] == {"new": True}


async def test_the_operations_of_a_batch_are_applied_in_order(
    client: AsyncQdrantClient, name: str
) -> None:
    await write(client, name, point(1, {"n": 0}))
    results = await client.batch_update_points(
        name,
        [
            set_payload({"n": 1}, must(equals("n", 0))),
            upsert(point(2, {"n": 5}), only=must_not(has_id(2))),
            set_payload({"n": 2}, must(equals("n", 1))),
            upsert(point(2, {"n": 6}), only=must_not(has_id(2))),
            upsert(point(3), mode=models.UpdateMode.UPDATE_ONLY),
            upsert(point(4)),
            delete(must(has_id(4))),
            models.OverwritePayloadOperation(
                overwrite_payload=models.SetPayload(payload={"whole": True}, points=[2])
            ),
        ],
        wait=True,
    )
    assert [result.status for result in results] == [models.UpdateStatus.COMPLETED] * 8
    assert await payloads(client, name) == {1: {"n": 2}, 2: {"whole": True}}


async def test_what_stands_before_a_refused_operation_of_a_batch_stays(
    client: AsyncQdrantClient, name: str
) -> None:
    operations = [upsert(point(1)), upsert(point(2, vector=SHORT)), upsert(point(3))]
    with pytest.raises(UnexpectedResponse, match="expected dim: 4, got 2") as refused:
        await client.batch_update_points(name, operations, wait=True)
    assert refused.value.status_code == 400
    assert await ids(client, name) == {1}


async def test_a_batch_that_cannot_be_read_changes_nothing(
    client: AsyncQdrantClient, name: str
) -> None:
    with pytest.raises(UnexpectedResponse) as refused:
        await client.batch_update_points(
            name, [upsert(point(1)), upsert(point("chunk-2"))], wait=True
        )
    assert refused.value.status_code == 400
    assert await ids(client, name) == set()


async def test_many_fenced_upserts_in_one_batch(client: AsyncQdrantClient, name: str) -> None:
    for version in (2, 1, 3):
        operations = [
            upsert(
                *(point(10 * document + i, {"version": version, "d": document}) for i in range(5)),
                only=must(equals("d", document), within("version", lte=version)),
            )
            for document in range(40)
        ]
        results = await client.batch_update_points(name, operations, wait=True)
        assert len(results) == len(operations)
        stored = await payloads(client, name)
        assert len(stored) == 200
        assert {payload["version"] for payload in stored.values()} == {max(version, 2)}
