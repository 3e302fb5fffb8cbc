"""BM25 sparse vectors."""

import pickle

import pytest

from worker.text.bm25 import SparseEncoder
from worker.text.parts import SparseVector

GOLDEN = {
    77905499: 1.6608669757843018,
    481716713: 1.6608669757843018,
    1163057303: 1.8927911520004272,
    1555540962: 1.8927911520004272,
    1563803460: 1.6608669757843018,
}


@pytest.fixture(scope="module")
def encoder() -> SparseEncoder:
    return SparseEncoder()


def words(vector: SparseVector) -> set[int]:
    return set(vector.indices)


def test_vectors_do_not_change_between_releases(encoder: SparseEncoder) -> None:
    """If this fails, change worker.store.schema.SPARSE_ENCODER: old collections no longer match."""
    found = encoder.document("The Invoices INV-2024-00817 and INV-2024 were paid.")
    assert dict(zip(found.indices, found.values, strict=True)) == GOLDEN


def test_a_query_matches_the_words_of_a_document(encoder: SparseEncoder) -> None:
    document = encoder.document("Paid: invoice INV-2024-00817, by the harbour office.")
    query = encoder.query("the invoices inv 2024 00817?")
    assert words(query) < words(document)
    assert set(query.values) == {1.0}


def test_a_repeated_word_weighs_more(encoder: SparseEncoder) -> None:
    [once] = encoder.document("rope").values
    [thrice] = encoder.document("rope rope rope").values
    assert once < thrice < 3 * once


@pytest.mark.parametrize("text", ["", " \n", "the of and", "?!"])
def test_a_text_without_words_has_an_empty_vector(encoder: SparseEncoder, text: str) -> None:
    assert len(encoder.document(text).indices) == len(encoder.query(text).indices) == 0


def test_a_pickled_vector_is_small(encoder: SparseEncoder) -> None:
    vector = encoder.document(" ".join(f"word{i}" for i in range(200)))
    sent = pickle.dumps(vector)
    assert len(sent) < 200 * 8 + 200
    assert pickle.loads(sent) == vector
