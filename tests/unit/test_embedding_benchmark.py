"""What the embedding benchmark computes, on cases that can be worked out by hand."""

import numpy as np
import pytest

from benchmarks.embedding.agreement import Matrix, Vectors, agreement
from benchmarks.embedding.children import BATCH_TOKENS, perfect_batches
from benchmarks.embedding.corpus import MODEL_DIR, real_prose
from benchmarks.embedding.flops import Shape


def on_a_circle(*degrees: float) -> Matrix:
    radians = np.deg2rad(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def test_the_work_of_a_chunk_follows_from_the_shape_of_the_model() -> None:
    shape = Shape.of(MODEL_DIR)
    assert shape == Shape(layers=6, width=384, inner=1536)
    # 6 layers of 209 x (4 x 384 x 384 + 2 x 384 x 1536) + 2 x 209 x 209 x 384, two operations each
    assert shape.gflop([209]) == pytest.approx(4.840399872)
    assert shape.gflop([209, 209]) == pytest.approx(2 * 4.840399872)


def test_equal_vectors_agree() -> None:
    chunks = on_a_circle(*range(0, 90, 3))
    vectors = Vectors(chunks, chunks[:20])
    found = agreement(vectors, vectors, range(20))
    assert (found.cosine_min, found.cosine_mean) == pytest.approx((1, 1))
    assert (found.found, found.known, found.known_by_reference) == (1, 1, 1)


def test_vectors_disagree_by_what_a_search_finds() -> None:
    chunks = on_a_circle(*range(0, 60, 3))  # 20 chunks: the first ten are found from 0 degrees
    reference = Vectors(chunks, on_a_circle(0))
    turned = Vectors(2 * chunks, on_a_circle(57))  # lengths do not matter
    found = agreement(reference, turned, [0])
    assert found.cosine_min == pytest.approx(1)
    assert (found.found, found.known, found.known_by_reference) == (0, 0, 1)


def test_perfect_batches_hold_every_text_once_and_are_alike() -> None:
    corpus = real_prose(150)
    tokens = dict(zip(corpus.chunks, corpus.tokens, strict=True))
    batches = perfect_batches(corpus.chunks, corpus.tokens, 2)
    assert len(batches) % 2 == 0
    assert sorted(text for batch in batches for text in batch) == sorted(corpus.chunks)
    for batch in batches:
        assert sum(tokens[text] for text in batch) <= BATCH_TOKENS + max(corpus.tokens)
        lengths = [tokens[text] for text in batch]
        assert lengths == sorted(lengths, reverse=True)


def test_the_parts_of_a_corpus_are_alike_and_queries_come_from_their_chunks() -> None:
    corpus = real_prose(150)
    parts = corpus.parts(3)
    assert sorted(c for part in parts for c in part.chunks) == sorted(corpus.chunks)
    queries = corpus.queries(50)
    assert len({query.chunk for query in queries}) == 50
    for query in queries:
        chunk = " ".join(corpus.chunks[query.chunk].split())
        assert query.text in chunk
        assert query.text != chunk
