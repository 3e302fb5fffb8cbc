"""Compare two sets of vectors of the same texts, by cosine and by search results."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

TOP: Final = 10
"""Chunks that a search returns."""

Matrix = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Vectors:
    """One model's vectors of chunks and of queries, one row a text."""

    chunks: Matrix
    queries: Matrix


@dataclass(frozen=True)
class Agreement:
    """``cosine_min`` and ``cosine_mean``: of the two vectors of each chunk. ``found``: of the `TOP`
    chunks that the reference finds for a query, the share that the other finds too, on average.
    ``known``: the share of queries for which the other finds the chunk that the query is from;
    ``known_by_reference``: for which the reference does."""

    cosine_min: float
    cosine_mean: float
    found: float
    known: float
    known_by_reference: float


def agreement(reference: Vectors, other: Vectors, known: Sequence[int]) -> Agreement:
    """Compare ``other`` with ``reference``; ``known`` is the chunk that each query is from.

    Searches are exact, by cosine, each with chunks and queries of its own.
    """
    reference, other = _normalised(reference), _normalised(other)
    cosines = np.einsum("ij,ij->i", reference.chunks, other.chunks)
    expected, got = _top(reference), _top(other)
    shares = [len(set(a) & set(b)) / len(a) for a, b in zip(expected, got, strict=True)]
    return Agreement(
        cosine_min=float(cosines.min()),
        cosine_mean=float(cosines.mean()),
        found=float(np.mean(shares)),
        known=_share_with(got, known),
        known_by_reference=_share_with(expected, known),
    )


def _normalised(vectors: Vectors) -> Vectors:
    def unit(matrix: Matrix) -> Matrix:
        exact = matrix.astype(np.float64)  # else rounding may make a cosine of more than 1
        scaled: Matrix = exact / np.linalg.norm(exact, axis=1, keepdims=True)
        return scaled

    return Vectors(unit(vectors.chunks), unit(vectors.queries))


def _top(vectors: Vectors) -> list[list[int]]:
    scores = vectors.queries @ vectors.chunks.T
    top: list[list[int]] = np.argsort(-scores, axis=1, kind="stable")[:, :TOP].tolist()
    return top


def _share_with(found: Sequence[Sequence[int]], known: Sequence[int]) -> float:
    return float(np.mean([chunk in some for some, chunk in zip(found, known, strict=True)]))
