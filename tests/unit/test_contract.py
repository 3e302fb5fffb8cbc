"""Jobs survive encoding and decoding unchanged, and anything else is refused."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestq.core.blobs import MAX_UPLOAD_AGE_MS, new_blob_name, new_blob_space
from ingestq.core.documents import MAX_VERSION, Deletion, Document, Lane, Sweep, with_collection
from ingestq.core.errors import ContractError
from ingestq.core.jobs import (
    DeleteBatch,
    IngestBatch,
    SweepBatch,
    blobs_in,
    dead_letter_batch,
    dead_letter_key,
    decode_job,
    encode_job,
)

texts = st.text(st.characters(exclude_categories=["Cs"]))


collections = st.sampled_from(["x", "handbook-2.1_b"])


def documents_of(tenant: str, collection: str) -> st.SearchStrategy[Document]:
    return st.builds(
        Document,
        doc_id=texts.filter(bool),
        version=st.integers(1, MAX_VERSION),
        source=texts,
        tenant=st.just(tenant),
        collection=st.just(collection),
        text=texts,
        path=st.none(),
        media_type=st.none() | texts,
        metadata=st.dictionaries(texts, st.none() | st.booleans() | st.integers(-9, 9) | texts),
    )


def batches_of(owner: tuple[str, str]) -> st.SearchStrategy[IngestBatch]:
    documents = st.lists(documents_of(*owner), min_size=1, max_size=4).map(tuple)
    return st.builds(IngestBatch, texts, documents, st.sampled_from(Lane))


batches = st.tuples(texts, collections).flatmap(batches_of)
GOOD: dict[str, Any] = {"doc_id": "a", "version": 1, "source": "", "text": ""}
NAMED = GOOD | {"collection": "notes"}
BLOB = new_blob_name(new_blob_space(), 1_800_000_000_000_000)
IN_BLOB = {
    "doc_id": "a",
    "version": 1,
    "source": "",
    "blob": BLOB,
    "collection": "notes",
}


@given(batches)
def test_a_job_is_decoded_as_it_was_encoded(batch: IngestBatch) -> None:
    job = decode_job(encode_job(batch, enqueued_ms=17))
    assert (job.args, job.enqueued_ms) == ((batch,), 17)


@given(st.binary(max_size=200))
def test_bytes_that_are_no_job_are_refused(payload: bytes) -> None:
    with pytest.raises(ContractError):
        decode_job(payload)


@pytest.mark.parametrize(
    "change",
    [
        {"type": "ingest/2"},
        {"lane": "unheard of"},
        {"documents": []},
        {"documents": [NAMED | {"version": 0}]},
        {"documents": [NAMED | {"version": MAX_VERSION + 1}]},
        {"documents": [NAMED | {"doc_id": ""}]},
        {"documents": [{"doc_id": "a", "version": 1, "source": "", "collection": "notes"}]},
        {"documents": [NAMED | {"path": "/"}]},
        {"documents": [NAMED | {"blob": BLOB}]},
        {"documents": [IN_BLOB | {"blob": "../../etc/passwd"}]},
        {"documents": [IN_BLOB | {"blob": BLOB + "/../.."}]},
        {"documents": [NAMED, NAMED | {"tenant": "other"}]},
        {"documents": [NAMED, NAMED | {"collection": "other"}]},
        {"documents": [GOOD]},
        {"documents": [GOOD | {"collection": None}]},
        {"documents": [GOOD | {"collection": ""}]},
        {"documents": [GOOD | {"collection": "a/b"}]},
        {"documents": [GOOD | {"collection": "a\n"}]},
    ],
)
def test_an_invalid_batch_is_refused(
    change: dict[str, object],
) -> None:
    batch: dict[str, object] = {"type": "ingest/1", "submission": "s", "documents": [NAMED]}
    job = {"f": "ingest", "a": [batch], "et": 1, "k": {}}
    assert decode_job(msgspec.msgpack.encode(job)).batch is not None
    job["a"] = [batch | change]
    with pytest.raises(ContractError):
        decode_job(msgspec.msgpack.encode(job))


@pytest.mark.parametrize("batches_in_job", [0, 2])
def test_a_job_without_exactly_one_batch_is_refused(batches_in_job: int) -> None:
    batch = {"type": "ingest/1", "submission": "s", "documents": [NAMED]}
    job = {"f": "ingest", "a": [batch] * batches_in_job, "et": 1, "k": {}}
    with pytest.raises(ContractError):
        decode_job(msgspec.msgpack.encode(job))


def test_a_job_lists_its_blobs_and_when_they_expire() -> None:
    batch: dict[str, object] = {
        "type": "ingest/1",
        "submission": "s",
        "documents": [NAMED, IN_BLOB],
    }
    payload = msgspec.msgpack.encode({"f": "ingest", "a": [batch], "et": 1, "k": {}})
    assert blobs_in(payload) == {BLOB}
    [decoded] = decode_job(payload).args
    assert decoded.expires_ms == 1_800_000_000_000 + MAX_UPLOAD_AGE_MS


@given(batches, batches)
def test_two_jobs_have_the_same_id_only_if_their_batches_are_equal(
    one: IngestBatch, other: IngestBatch
) -> None:
    def identity(batch: IngestBatch) -> object:
        known = [(d.collection, d.tenant, d.doc_id, d.version) for d in batch.documents]
        return batch.submission, known

    assert (one.job_id == other.job_id) == (identity(one) == identity(other))


@given(batches)
def test_each_dead_letter_holds_a_job_of_one_document(batch: IngestBatch) -> None:
    report = dead_letter_batch(batch, "because", tries=1)
    assert report.documents.rejected == len(batch.documents)
    dead = [decode_job(dead_letter.payload).batch for dead_letter in report.dead]
    assert dead == [
        IngestBatch(batch.submission, (document,), batch.lane) for document in batch.documents
    ]


@given(batches)
def test_the_collection_is_filled_in_unless_the_document_names_one(batch: IngestBatch) -> None:
    for document in batch.documents:
        assert with_collection("other", document) == document
        unset = msgspec.structs.replace(document, collection=None)
        assert with_collection(batch.collection, unset) == document


@pytest.mark.parametrize("collection", [None, "", "a/b", "a\n"])
def test_a_batch_without_a_valid_collection_is_refused(collection: str | None) -> None:
    with pytest.raises(ValueError, match="collection"):
        IngestBatch("s", (Document(**GOOD, collection=collection),))
    with pytest.raises(ValueError, match="collection"):
        DeleteBatch("s", (Deletion(doc_id="a", version=1, collection=collection),))
    with pytest.raises(ValueError, match="collection"):
        SweepBatch("s", (Sweep(doc_id="a", version=1, seen=b"", found=0, collection=collection),))


@given(st.lists(st.tuples(collections, texts, texts), min_size=2, max_size=2, unique=True))
def test_different_documents_have_different_dead_letter_keys(
    names: list[tuple[str, str, str]],
) -> None:
    assert dead_letter_key(*names[0]) != dead_letter_key(*names[1])


def test_colons_in_tenants_and_ids_do_not_mix_up_dead_letter_keys() -> None:
    assert dead_letter_key("x", "a", "b:c") != dead_letter_key("x", "a:b", "c")
