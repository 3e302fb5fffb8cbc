"""What travels over the queue arrives as it left, or is refused."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.contract import (
    MAX_VERSION,
    Document,
    IngestBatch,
    Lane,
    bury,
    decode_job,
    encode_job,
    objects_in,
)
from broker.errors import ContractError
from broker.spool.names import QUEUE_WITHIN_MS, new_name, new_space

texts = st.text(st.characters(exclude_categories=["Cs"]))


def documents_of(tenant: str) -> st.SearchStrategy[Document]:
    return st.builds(
        Document,
        doc_id=texts.filter(bool),
        version=st.integers(1, MAX_VERSION),
        source=texts,
        tenant=st.just(tenant),
        text=texts,
        path=st.none(),
        media_type=st.none() | texts,
        metadata=st.dictionaries(texts, st.none() | st.booleans() | st.integers(-9, 9) | texts),
    )


def batches_of(tenant: str) -> st.SearchStrategy[IngestBatch]:
    documents = st.lists(documents_of(tenant), min_size=1, max_size=4).map(tuple)
    return st.builds(IngestBatch, texts, documents, st.sampled_from(Lane))


batches = texts.flatmap(batches_of)
GOOD = {"doc_id": "a", "version": 1, "source": "", "text": ""}
OBJECT = new_name(new_space(), 1_800_000_000_000_000)
SPOOLED = {"doc_id": "a", "version": 1, "source": "", "spooled": OBJECT}


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
        {"type": "ingest/2"},
        {"lane": "unheard of"},
        {"documents": []},
        {"documents": [GOOD | {"version": 0}]},
        {"documents": [GOOD | {"version": MAX_VERSION + 1}]},
        {"documents": [GOOD | {"doc_id": ""}]},
        {"documents": [{"doc_id": "a", "version": 1, "source": ""}]},
        {"documents": [GOOD | {"path": "/"}]},
        {"documents": [GOOD | {"spooled": OBJECT}]},
        {"documents": [SPOOLED | {"spooled": "../../etc/passwd"}]},
        {"documents": [SPOOLED | {"spooled": OBJECT + "/../.."}]},
        {"documents": [GOOD, GOOD | {"tenant": "other"}]},
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
    batch: dict[str, object] = {"type": "ingest/1", "submission": "s", "documents": [GOOD, SPOOLED]}
    payload = msgspec.msgpack.encode({"f": "ingest", "a": [batch], "et": 1, "k": {}})
    assert objects_in(payload) == {OBJECT}
    [decoded] = decode_job(payload).args
    assert decoded.expires_ms == 1_800_000_000_000 + QUEUE_WITHIN_MS


@given(batches, batches)
def test_only_the_same_batch_has_the_same_id(one: IngestBatch, other: IngestBatch) -> None:
    def identity(batch: IngestBatch) -> object:
        return batch.submission, [(d.tenant, d.doc_id, d.version) for d in batch.documents]

    assert (one.job_id == other.job_id) == (identity(one) == identity(other))


@given(batches)
def test_a_dead_letter_is_a_job_of_its_document_alone(batch: IngestBatch) -> None:
    report = bury(batch, "because", tries=1)
    assert report.documents.rejected == len(batch.documents)
    buried = [decode_job(letter.payload).batch for letter in report.dead]
    assert buried == [
        IngestBatch(batch.submission, (document,), batch.lane) for document in batch.documents
    ]
