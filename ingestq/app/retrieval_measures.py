"""Measures of retrieval, from the ranks at which a search found what a question expects.

Ranks count from 1. All measures are from 0 to 1, and higher is better.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

DEPTH: Final = 10
"""How many hits of a search are looked at."""

Ranks = Sequence[int | None]
"""For everything that is expected, the rank of the first hit that has it; None if no hit has it."""


def recall(ranks: Ranks, k: int) -> float:
    """Return the share of what is expected that is among the first ``k`` hits.

    See Manning, Raghavan and Schütze, Introduction to Information Retrieval, 2008, section 8.3.
    """
    return len(_first(ranks, k)) / len(ranks)


def reciprocal_rank(ranks: Ranks, k: int) -> float:
    """Return 1 divided by the rank of the first right hit; 0 if the first ``k`` have none.

    Its mean over questions is the MRR of Voorhees, The TREC-8 Question Answering Track Report,
    1999.
    """
    first = _first(ranks, k)
    return 1 / first[0] if first else 0.0


def ndcg(ranks: Ranks, k: int) -> float:
    """Return the normalized discounted cumulative gain of the first ``k`` hits.

    See Järvelin and Kekäläinen 2002, https://doi.org/10.1145/582415.582418. What is expected is
    worth 1 at its first hit, divided by log2(rank + 1) as in Burges et al. 2005,
    https://doi.org/10.1145/1102351.1102363. The ideal search finds one expected item at each rank
    from 1. If a hit has two of them, the second counts at the next rank, so that no search is
    better than ideal.
    """
    gain, taken = 0.0, 0
    for rank in _first(ranks, k):
        taken = max(rank, taken + 1)
        if taken <= k:
            gain += _discount(taken)
    return gain / sum(_discount(rank) for rank in range(1, min(len(ranks), k) + 1))


def _first(ranks: Ranks, k: int) -> list[int]:
    return sorted(rank for rank in ranks if rank is not None and rank <= k)


def _discount(rank: int) -> float:
    return 1 / math.log2(rank + 1)


MEASURES: Final[Mapping[str, Callable[[Ranks], float]]] = {
    **{f"recall@{k}": partial(recall, k=k) for k in (1, 5, DEPTH)},
    f"mrr@{DEPTH}": partial(reciprocal_rank, k=DEPTH),
    f"ndcg@{DEPTH}": partial(ndcg, k=DEPTH),
}
"""What is reported of a search, by name."""


def means(questions: Sequence[Ranks]) -> dict[str, float]:
    """Return the mean of each of `MEASURES` over at least one question."""
    return {
        name: math.fsum(map(measure, questions)) / len(questions)
        for name, measure in MEASURES.items()
    }
