"""What travels over the queue arrives as it left, or is refused."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.contract import Document, IngestBatch, bury, decode_job, encode_job
from broker.errors import ContractError

texts = st.text(st.characters(exclude_categories=["Cs"]))
documents = st.builds(
    Document,
    doc_id=texts.filter(bool),
    version=st.integers(1, 2**63 - 1),
    source=texts,
    tenant=texts,
    text=texts,
    path=st.none(),
    media_type=st.none() | texts,
    metadata=st.dictionaries(texts, st.none() | st.booleans() | st.integers(-9, 9) | texts),
)
batches = st.builds(IngestBatch, texts, st.lists(documents, max_size=4).map(tuple))


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
        {"documents": [{"doc_id": "a", "version": 0, "source": "", "text": ""}]},
        {"documents": [{"doc_id": "", "version": 1, "source": "", "text": ""}]},
        {"documents": [{"doc_id": "a", "version": 1, "source": ""}]},
        {"documents": [{"doc_id": "a", "version": 1, "source": "", "text": "", "path": "/"}]},
    ],
)
def test_a_batch_of_another_version_or_without_content_is_refused(
    change: dict[str, object],
) -> None:
    batch = {"type": "ingest/1", "submission": "s", "documents": []}
    job = {"f": "ingest", "a": [batch | change], "et": 1, "k": {}}
    with pytest.raises(ContractError):
        decode_job(msgspec.msgpack.encode(job))


@given(batches, batches)
def test_only_the_same_batch_has_the_same_id(one: IngestBatch, other: IngestBatch) -> None:
    def identity(batch: IngestBatch) -> object:
        return batch.submission, [(d.tenant, d.doc_id, d.version) for d in batch.documents]

    assert (one.job_id == other.job_id) == (identity(one) == identity(other))


@given(batches)
def test_a_dead_letter_is_a_job_of_its_document_alone(batch: IngestBatch) -> None:
    report = bury(batch, "because", tries=1)
    assert report.documents.rejected == len(batch.documents)
    buried = [decode_job(letter.payload).args[0].documents for letter in report.dead]
    assert buried == [(document,) for document in batch.documents]
