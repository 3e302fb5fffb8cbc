"""Collections, their configuration and metadata, payload indexes, and aliases."""

import asyncio
from typing import Any, Final

import pytest
from qdrant_client import AsyncQdrantClient, models
from qdrant_client.http.exceptions import UnexpectedResponse

from tests.conformance.conftest import Create
from tests.conformance.data import (
    BOOL,
    INTEGER,
    KEYWORD,
    SPARSE,
    VECTOR,
    IndexParams,
    equals,
    ids,
    must,
    payloads,
    point,
    write,
)

FINGERPRINT: Final = {"fingerprint": {"model": "é", "sizes": [1, 2], "sparse": None}, "n": 1}


def created(alias: str, collection: str) -> models.CreateAliasOperation:
    return models.CreateAliasOperation(
        create_alias=models.CreateAlias(collection_name=collection, alias_name=alias)
    )


def deleted(alias: str) -> models.DeleteAliasOperation:
    return models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=alias))


def renamed(old: str, new: str) -> models.RenameAliasOperation:
    return models.RenameAliasOperation(
        rename_alias=models.RenameAlias(old_alias_name=old, new_alias_name=new)
    )


async def aliases_of(client: AsyncQdrantClient, *names: str) -> dict[str, str]:
    """Return the aliases of these collections, and what each stands for."""
    found = (await client.get_aliases()).aliases
    return {a.alias_name: a.collection_name for a in found if a.collection_name in names}


async def test_a_collection_comes_and_goes(client: AsyncQdrantClient, create: Create) -> None:
    name = await create()
    assert await client.collection_exists(name)
    assert name in {c.name for c in (await client.get_collections()).collections}
    await write(client, name, point(1))
    assert await client.delete_collection(name)
    assert not await client.collection_exists(name)
    assert name not in {c.name for c in (await client.get_collections()).collections}
    assert not await client.delete_collection(name), "it is gone already"

    assert await client.create_collection(name, VECTOR)
    assert await payloads(client, name) == {}, "nothing of the old collection is in the new one"


async def test_a_collection_is_described(client: AsyncQdrantClient, create: Create) -> None:
    name = await create(
        vectors_config=models.VectorParams(size=4, distance=models.Distance.COSINE, on_disk=True),
        sparse_vectors_config={
            "bm25": models.SparseVectorParams(
                modifier=models.Modifier.IDF, index=models.SparseIndexParams(on_disk=True)
            )
        },
        quantization_config=models.BinaryQuantization(
            binary=models.BinaryQuantizationConfig(always_ram=True)
        ),
        on_disk_payload=True,
        hnsw_config=models.HnswConfigDiff(m=24, ef_construct=111),
        shard_number=1,
        replication_factor=1,
        write_consistency_factor=1,
    )
    info = await client.get_collection(name)
    assert info.status in (models.CollectionStatus.GREEN, models.CollectionStatus.GREY)
    params = info.config.params
    assert isinstance(params.vectors, models.VectorParams)
    assert (params.vectors.size, params.vectors.distance) == (4, models.Distance.COSINE)
    assert params.vectors.on_disk
    assert params.sparse_vectors is not None
    assert params.sparse_vectors["bm25"].modifier is models.Modifier.IDF
    assert params.on_disk_payload
    assert params.shard_number == 1
    assert (info.config.hnsw_config.m, info.config.hnsw_config.ef_construct) == (24, 111)
    assert isinstance(info.config.quantization_config, models.BinaryQuantization)
    assert info.config.metadata is None


async def test_named_vectors_are_described(client: AsyncQdrantClient, create: Create) -> None:
    name = await create(vectors_config={"meaning": VECTOR})
    params = (await client.get_collection(name)).config.params
    assert isinstance(params.vectors, dict)
    assert set(params.vectors) == {"meaning"}
    assert params.sparse_vectors is None


async def test_a_collection_without_vectors(client: AsyncQdrantClient, create: Create) -> None:
    name = await create(vectors_config={})
    await write(client, name, point(1, {"a": 1}, {}), point(2, {"a": 2}, {}))
    assert await ids(client, name, must(equals("a", 2))) == {2}
    [record] = await client.retrieve(name, [1], with_vectors=True)
    assert (record.payload, record.vector or {}) == ({"a": 1}, {})
    assert (await client.count(name)).count == 2
    params = (await client.get_collection(name)).config.params
    assert not params.vectors
    with pytest.raises(UnexpectedResponse, match="vector name") as refused:
        await client.upsert(name, [point(3)], wait=True)
    assert refused.value.status_code == 400
    assert await ids(client, name) == {1, 2}


async def test_metadata_is_kept_and_merged(client: AsyncQdrantClient, create: Create) -> None:
    name = await create(metadata=FINGERPRINT)

    async def metadata() -> dict[str, Any] | None:
        return (await client.get_collection(name)).config.metadata

    assert await metadata() == FINGERPRINT
    assert await client.update_collection(name, metadata={"retired_ms": 5})
    assert await metadata() == FINGERPRINT | {"retired_ms": 5}
    assert await client.update_collection(name, metadata={"retired_ms": None, "n": 2})
    assert await metadata() == FINGERPRINT | {"n": 2}


async def test_metadata_may_come_later(client: AsyncQdrantClient, name: str) -> None:
    assert await client.update_collection(name, metadata={"a": [1]})
    assert (await client.get_collection(name)).config.metadata == {"a": [1]}


async def test_payload_indexes_are_described(client: AsyncQdrantClient, name: str) -> None:
    tenant = models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, is_tenant=True)
    wanted: dict[str, IndexParams] = {
        "doc_id": KEYWORD,
        "tenant": tenant,
        "version": INTEGER,
        "r.version": INTEGER,
        "stale": BOOL,
    }
    for field, params in wanted.items():
        done = await client.create_payload_index(name, field, params, wait=True)
        assert done.status is models.UpdateStatus.COMPLETED
    await client.create_payload_index(name, "plain", models.PayloadSchemaType.FLOAT, wait=True)
    schema = (await client.get_collection(name)).payload_schema
    assert {field: info.data_type for field, info in schema.items()} == {
        "doc_id": models.PayloadSchemaType.KEYWORD,
        "tenant": models.PayloadSchemaType.KEYWORD,
        "version": models.PayloadSchemaType.INTEGER,
        "r.version": models.PayloadSchemaType.INTEGER,
        "stale": models.PayloadSchemaType.BOOL,
        "plain": models.PayloadSchemaType.FLOAT,
    }
    assert schema["tenant"].params == tenant
    assert schema["version"].params == INTEGER

    await client.create_payload_index(name, "doc_id", KEYWORD, wait=True)  # once more
    done = await client.delete_payload_index(name, "plain", wait=True)
    assert done.status is models.UpdateStatus.COMPLETED
    assert set((await client.get_collection(name)).payload_schema) == set(wanted)


async def test_a_new_index_serves_at_once(client: AsyncQdrantClient, name: str) -> None:
    await client.create_payload_index(name, "doc_id", KEYWORD, wait=True)
    assert (await client.facet(name, "doc_id", exact=True)).hits == []
    await client.create_payload_index(name, "version", INTEGER, wait=True)
    assert await client.scroll(name, order_by="version") == ([], None)


async def test_indexes_are_created_at_the_same_time(client: AsyncQdrantClient, name: str) -> None:
    wanted: dict[str, IndexParams] = {
        "doc_id": KEYWORD,
        "source": KEYWORD,
        "version": INTEGER,
        "stale": BOOL,
    }
    written = point(1, {"doc_id": "a", "version": 1})
    await asyncio.gather(
        *(client.create_payload_index(name, f, p, wait=True) for f, p in wanted.items()),
        *(client.create_payload_index(name, f, p, wait=True) for f, p in wanted.items()),
        client.upsert(name, [written], wait=True),
    )
    schema = (await client.get_collection(name)).payload_schema
    assert {f: info.points for f, info in schema.items()} == {
        "doc_id": 1,
        "source": 0,
        "version": 1,
        "stale": 0,
    }


async def test_an_alias_stands_for_its_collection(
    client: AsyncQdrantClient, create: Create
) -> None:
    name = await create(metadata=FINGERPRINT)
    alias = f"{name}-alias"
    assert await client.update_collection_aliases([created(alias, name)])
    assert await aliases_of(client, name) == {alias: name}
    await write(client, alias, point(1, {"a": 1}))
    await client.create_payload_index(alias, "a", INTEGER, wait=True)
    await client.set_payload(alias, {"b": 2}, [1], wait=True)
    assert await payloads(client, alias) == await payloads(client, name) == {1: {"a": 1, "b": 2}}
    assert (await client.get_collection(alias)).config.metadata == FINGERPRINT
    assert (await client.query_points(alias, [1.0] * 4)).points[0].id == 1
    assert not await client.collection_exists(f"{alias}-other")
    assert alias not in {c.name for c in (await client.get_collections()).collections}


async def test_aliases_change_in_one_step(client: AsyncQdrantClient, create: Create) -> None:
    old, new = await create(), await create()
    live, previous = f"{old}-live", f"{old}-previous"
    await write(client, old, point(1, {"of": "old"}))
    await write(client, new, point(1, {"of": "new"}))
    await client.update_collection_aliases([created(live, old)])
    stop = asyncio.Event()

    async def read() -> list[str]:
        seen = []
        while not stop.is_set():
            [record] = await client.retrieve(live, [1])
            seen.append((record.payload or {})["of"])
        return seen

    reading = [asyncio.create_task(read()) for _ in range(3)]
    await client.update_collection_aliases([created(live, new), created(previous, old)])
    assert await aliases_of(client, old, new) == {live: new, previous: old}
    await client.update_collection_aliases(
        [deleted(live), created(live, old), renamed(previous, f"{previous}-2")]
    )
    stop.set()
    for seen in await asyncio.gather(*reading):
        assert set(seen) <= {"old", "new"}, "there is no moment without the alias"
    assert await aliases_of(client, old, new) == {live: old, f"{previous}-2": old}


async def test_an_alias_that_does_not_exist(client: AsyncQdrantClient, name: str) -> None:
    assert await client.update_collection_aliases([deleted(f"{name}-none")])
    with pytest.raises(UnexpectedResponse, match="does not exists") as refused:
        await client.update_collection_aliases([renamed(f"{name}-none", f"{name}-new")])
    assert refused.value.status_code == 404


async def test_changes_before_a_refused_one_stay(client: AsyncQdrantClient, name: str) -> None:
    alias = f"{name}-alias"
    with pytest.raises(UnexpectedResponse) as refused:
        await client.update_collection_aliases(
            [
                created(alias, name),
                created(f"{alias}-2", f"{name}-none"),
                created(f"{alias}-3", name),
            ]
        )
    assert refused.value.status_code == 404
    assert await aliases_of(client, name) == {alias: name}


async def test_the_aliases_of_a_deleted_collection_go_with_it(
    client: AsyncQdrantClient, create: Create
) -> None:
    name, other = await create(), await create()
    alias = f"{name}-alias"
    await client.update_collection_aliases([created(alias, name), created(f"{alias}-2", other)])
    await client.delete_collection(name)
    found = {a.alias_name: a.collection_name for a in (await client.get_aliases()).aliases}
    assert alias not in found
    assert found[f"{alias}-2"] == other
    with pytest.raises(UnexpectedResponse) as refused:
        await client.count(alias)
    assert refused.value.status_code == 404


async def test_a_name_is_either_a_collection_or_an_alias(
    client: AsyncQdrantClient, create: Create
) -> None:
    name, other = await create(), await create()
    alias = f"{name}-alias"
    await client.update_collection_aliases([created(alias, name)])
    for status, message, request in (
        (409, "already exists", client.create_collection(name, VECTOR)),
        (400, "Alias with the same name", client.create_collection(alias, VECTOR)),
        (409, "already exists", client.update_collection_aliases([created(other, name)])),
        (409, "already exists", client.update_collection_aliases([renamed(alias, other)])),
        (
            404,
            "Not found: Collection",
            client.update_collection_aliases([created(alias, f"{name}-no")]),
        ),
    ):
        with pytest.raises(UnexpectedResponse, match=message) as refused:
            await request
        assert refused.value.status_code == status
    assert await aliases_of(client, name, other) == {alias: name}


async def test_names_of_other_letters(client: AsyncQdrantClient, create: Create) -> None:
    name = await create("-é ü%20+")
    assert await client.collection_exists(name)
    await write(client, name, point(1))
    assert await ids(client, name) == {1}
    alias = f"{name}-&="
    await client.update_collection_aliases([created(alias, name)])
    assert await ids(client, alias) == {1}


async def test_one_of_two_that_create_the_same_collection_is_refused(
    client: AsyncQdrantClient, name: str
) -> None:
    await client.delete_collection(name)
    outcomes = await asyncio.gather(
        *(client.create_collection(name, VECTOR) for _ in range(2)), return_exceptions=True
    )
    assert True in outcomes
    refused = [outcome for outcome in outcomes if outcome is not True]
    assert all(isinstance(outcome, UnexpectedResponse) for outcome in refused)
    assert await client.collection_exists(name)


async def test_sparse_vectors_alone(client: AsyncQdrantClient, create: Create) -> None:
    name = await create(vectors_config={}, sparse_vectors_config=SPARSE)
    words = models.SparseVector(indices=[1], values=[1.0])
    await write(client, name, point(1, vector={"bm25": words}), point(2, vector={}))
    found = await client.query_points(name, words, using="bm25")
    assert [hit.id for hit in found.points] == [1]


async def test_a_server_says_its_version(client: AsyncQdrantClient) -> None:
    version = (await client.info()).version
    assert tuple(map(int, version.split(".")[:2])) >= (1, 18)
