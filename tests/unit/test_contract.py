"""What travels over the queue arrives as it left, or is refused."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestq.core.blobs import QUEUE_WITHIN_MS, new_name, new_space
from ingestq.core.documents import MAX_VERSION, Deletion, Document, Lane, Sweep
from ingestq.core.errors import ContractError
from ingestq.core.jobs import (
    DeleteBatch,
    IngestBatch,
    SweepBatch,
    blobs_in,
    bury,
    decode_job,
    encode_job,
)

texts = st.text(st.characters(exclude_categories=["Cs"]))


collections = st.sampled_from(["", "x", "handbook-2.1_b"])


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
GOOD = {"doc_id": "a", "version": 1, "source": "", "text": ""}
OBJECT = new_name(new_space(), 1_800_000_000_000_000)
IN_BLOB = {"doc_id": "a", "version": 1, "source": "", "blob": OBJECT}


@given(batches)
def test_a_job_arrives_as_it_left(batch: IngestBatch) -> None:
    job = decode_job(encode_job(batch, enqueued_ms=17))
    assert (job.args, job.enqueued_ms) == ((batch,), 17)


@given(st.binary(max_size=200))
def test_anything_else_is_refused(payload: bytes) -> None:
    with pytest.raises(ContractError):
        decode_job(payload)


@pytest.mark.parametrize(
    "change",
    [
        {"type": "ingest/3"},
        {"lane": "unheard of"},
        {"documents": []},
        {"documents": [GOOD | {"version": 0}]},
        {"documents": [GOOD | {"version": MAX_VERSION + 1}]},
        {"documents": [GOOD | {"doc_id": ""}]},
        {"documents": [{"doc_id": "a", "version": 1, "source": ""}]},
        {"documents": [GOOD | {"path": "/"}]},
        {"documents": [GOOD | {"blob": OBJECT}]},
        {"documents": [IN_BLOB | {"blob": "../../etc/passwd"}]},
        {"documents": [IN_BLOB | {"blob": OBJECT + "/../.."}]},
        {"documents": [GOOD, GOOD | {"tenant": "other"}]},
        {"documents": [GOOD, GOOD | {"collection": "other"}]},
        {"documents": [GOOD | {"collection": "a/b"}]},
        {"documents": [GOOD | {"collection": "a\n"}]},
    ],
)
def test_a_batch_of_another_version_or_without_content_is_refused(
    change: dict[str, object],
) -> None:
    batch: dict[str, object] = {"type": "ingest/1", "submission": "s", "documents": [GOOD]}
    job = {"f": "ingest", "a": [batch], "et": 1, "k": {}}
    assert decode_job(msgspec.msgpack.encode(job)).batch is not None
    job["a"] = [batch | change]
    with pytest.raises(ContractError):
        decode_job(msgspec.msgpack.encode(job))


def test_a_job_says_which_objects_it_names_and_until_when_it_may_be_queued() -> None:
    batch: dict[str, object] = {"type": "ingest/1", "submission": "s", "documents": [GOOD, IN_BLOB]}
    payload = msgspec.msgpack.encode({"f": "ingest", "a": [batch], "et": 1, "k": {}})
    assert blobs_in(payload) == {OBJECT}
    [decoded] = decode_job(payload).args
    assert decoded.expires_ms == 1_800_000_000_000 + QUEUE_WITHIN_MS


@given(batches, batches)
def test_only_the_same_batch_has_the_same_id(one: IngestBatch, other: IngestBatch) -> None:
    def identity(batch: IngestBatch) -> object:
        known = [(d.collection, d.tenant, d.doc_id, d.version) for d in batch.documents]
        return batch.submission, known

    assert (one.job_id == other.job_id) == (identity(one) == identity(other))


@given(batches)
def test_a_dead_letter_is_a_job_of_its_document_alone(batch: IngestBatch) -> None:
    report = bury(batch, "because", tries=1)
    assert report.documents.rejected == len(batch.documents)
    buried = [decode_job(dead_letter.payload).batch for dead_letter in report.dead]
    assert buried == [
        IngestBatch(batch.submission, (document,), batch.lane) for document in batch.documents
    ]


@given(batches)
def test_a_batch_is_for_a_collection_unless_it_names_another(batch: IngestBatch) -> None:
    meant = batch.meant_for("x")
    assert meant.collection == (batch.collection or "x")
    assert meant.meant_for("y") == meant
    assert batch.meant_for("") == batch


@pytest.mark.parametrize("collection", ["", "x"])
def test_only_a_worker_that_knows_collections_takes_a_batch_that_names_one(
    collection: str,
) -> None:
    """One that does not, would write it into its own."""
    gone = Deletion(doc_id="a", version=1, collection=collection)
    scan = Sweep(doc_id="a", version=1, seen=b"", collection=collection)
    document = Document(doc_id="a", version=1, source="", text="", collection=collection)
    version = 2 if collection else 1
    for batch in (
        IngestBatch("s", (document,)),
        DeleteBatch("s", (gone,)),
        SweepBatch("s", (scan,)),
    ):
        payload = encode_job(batch, enqueued_ms=1)
        assert f"{batch.function}/{version}".encode() in payload
        assert decode_job(payload).args == (batch,)


def test_ids_of_jobs_that_name_no_collection_are_those_of_earlier_versions() -> None:
    document = Document(doc_id="a", version=1, source="s", text="t", tenant="t")
    assert IngestBatch("s", (document,)).job_id == "ingest-bc18091e7d7e614521d73e94e97f6ae2"
