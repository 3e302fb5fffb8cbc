"""The measures of retrieval have the values of their definitions."""

from math import log2

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestq.app.retrieval_measures import (
    DEPTH,
    MEASURES,
    Ranks,
    means,
    ndcg,
    recall,
    reciprocal_rank,
)

a_rank = st.none() | st.integers(1, 2 * DEPTH)
ranks_of_a_question = st.lists(a_rank, min_size=1, max_size=20)
one_expected = st.lists(a_rank, min_size=1, max_size=1)


@pytest.mark.parametrize(
    ("ranks", "at_1", "at_5", "at_10", "reciprocal", "gain"),
    [
        ([1], 1, 1, 1, 1, 1),
        ([2], 0, 1, 1, 1 / 2, 1 / log2(3)),
        ([3], 0, 1, 1, 1 / 3, 1 / 2),
        ([7], 0, 0, 1, 1 / 7, 1 / 3),
        ([11], 0, 0, 0, 0, 0),
        ([None], 0, 0, 0, 0, 0),
        ([1, 2], 1 / 2, 1, 1, 1, 1),
        ([3, 1], 1 / 2, 1, 1, 1, (1 + 1 / 2) / (1 + 1 / log2(3))),
        ([None, 7], 0, 0, 1 / 2, 1 / 7, (1 / 3) / (1 + 1 / log2(3))),
        ([1, 1], 1, 1, 1, 1, 1),  # one hit has both
        ([1, 1, 2], 2 / 3, 1, 1, 1, 1),
        ([10, 10], 0, 0, 1, 1 / 10, (1 / log2(11)) / (1 + 1 / log2(3))),
    ],
)
def test_a_question_has_the_values_computed_by_hand(
    ranks: Ranks, at_1: float, at_5: float, at_10: float, reciprocal: float, gain: float
) -> None:
    measured = {name: measure(ranks) for name, measure in MEASURES.items()}
    assert measured == pytest.approx(
        {
            "recall@1": at_1,
            "recall@5": at_5,
            "recall@10": at_10,
            "mrr@10": reciprocal,
            "ndcg@10": gain,
        }
    )


def test_figures_are_means_over_all_questions() -> None:
    assert means([[1], [2], [None], [4]]) == pytest.approx(
        {
            "recall@1": 1 / 4,
            "recall@5": 3 / 4,
            "recall@10": 3 / 4,
            "mrr@10": (1 + 1 / 2 + 1 / 4) / 4,
            "ndcg@10": (1 + 1 / log2(3) + 1 / log2(5)) / 4,
        }
    )


@given(ranks_of_a_question)
def test_all_measures_are_from_0_to_1(ranks: Ranks) -> None:
    assert all(0 <= measure(ranks) <= 1 + 1e-12 for measure in MEASURES.values())


@given(ranks_of_a_question, st.integers(1, DEPTH))
def test_more_hits_never_lower_recall_or_reciprocal_rank(ranks: Ranks, k: int) -> None:
    assert recall(ranks, k) <= recall(ranks, k + 1)
    assert reciprocal_rank(ranks, k) <= reciprocal_rank(ranks, k + 1)


@given(st.data(), ranks_of_a_question)
def test_the_order_of_what_is_expected_does_not_matter(data: st.DataObject, ranks: Ranks) -> None:
    mixed = data.draw(st.permutations(ranks))
    assert [m(mixed) for m in MEASURES.values()] == [m(ranks) for m in MEASURES.values()]


@given(ranks_of_a_question, st.integers(0, 19))
def test_a_better_rank_never_lowers_a_measure(ranks: list[int | None], at: int) -> None:
    at %= len(ranks)
    rank = ranks[at]
    better = [*ranks[:at], DEPTH if rank is None else max(1, rank - 1), *ranks[at + 1 :]]
    for measure in MEASURES.values():
        assert measure(better) >= measure(ranks) - 1e-12


@given(one_expected)
def test_reciprocal_rank_and_gain_of_one_document_are_bounded_by_recall(ranks: Ranks) -> None:
    assert reciprocal_rank(ranks, DEPTH) <= ndcg(ranks, DEPTH) <= recall(ranks, DEPTH)


@given(st.lists(ranks_of_a_question, min_size=1, max_size=20))
def test_recall_means_rise_with_the_cutoff(questions: list[Ranks]) -> None:
    figures = means(questions)
    assert figures["recall@1"] <= figures["recall@5"] <= figures["recall@10"] <= 1


@given(st.integers(1, 3 * DEPTH))
def test_only_the_ideal_search_has_the_full_gain(n: int) -> None:
    ideal = list(range(1, n + 1))
    assert ndcg(ideal, DEPTH) == pytest.approx(1)
    assert ndcg([rank + 1 for rank in ideal], DEPTH) < 1
