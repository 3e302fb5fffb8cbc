"""Moves are counted one to one, and deletions of moved files wait."""

from itertools import permutations

from hypothesis import given
from hypothesis import strategies as st

from ingestq.core.documents import Deletion
from producers.watch.moves import Departures
from worker.pipeline.moves import pairs

versions = st.lists(st.integers(1, 8), max_size=5)


@given(versions, versions)
def test_pairs_are_the_most_that_can_be_made_one_to_one(
    gone: list[int], arrived: list[int]
) -> None:
    orders = permutations(arrived + [0] * len(gone), len(gone))
    most = max(sum(new > old for old, new in zip(gone, order, strict=True)) for order in orders)
    assert pairs(gone, arrived) == most


def test_one_of_a_hundred_copies_stands_for_one() -> None:
    assert pairs([1] * 100, [2]) == 1
    assert pairs([1], [2] * 100) == 1


def test_what_was_there_before_is_no_move() -> None:
    assert pairs([5], [4]) == pairs([5], [5]) == 0


def test_a_deletion_is_held_back_unless_the_file_comes_back() -> None:
    departures = Departures(3)
    gone, back = (Deletion(doc_id=doc_id, version=1) for doc_id in "ab")
    assert departures.add([gone, back], now=10, most=2)
    assert departures.due(now=12.9) == []
    due = departures.due(now=13)
    assert due == ["a", "b"]
    departures.cancel({"b": object()})
    assert departures.take(due) == [gone]
    assert departures.due(now=99) == []


def test_too_many_deletions_need_a_scan_even_if_they_come_in_pieces() -> None:
    departures = Departures(3)
    some = [Deletion(doc_id=str(i), version=1) for i in range(11)]
    assert departures.add(some[:4], now=10, most=10)
    assert departures.add(some[4:10], now=12, most=10)
    assert not departures.add(some[10:], now=12.9, most=10)
    assert departures.due(now=99) == []


def test_deletions_far_apart_need_no_scan() -> None:
    departures = Departures(3)
    for now in range(0, 100, 10):
        deletion = Deletion(doc_id=str(now), version=1)
        assert departures.add([deletion], now, most=1)
        assert departures.take(departures.due(now + 3)) == [deletion]
