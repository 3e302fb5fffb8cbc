"""Texts with which a backend proves itself, and how near its vectors came."""

from typing import Final

import numpy as np

from worker.embedding.backends import LoadedModel
from worker.embedding.cache import Proof

SENTENCE: Final = "The keeper of the lighthouse writes the weather of each hour into a thick book. "
PROBES: Final = (
    "a",
    "No.",
    "ALL CAPITALS, Some Capitals, naïve façade — “quotes” …",
    SENTENCE,
    SENTENCE * 3,
    "def area(radius: float) -> float:\n    return math.pi * radius**2  # square metres\n",
    "| year | harvest |\n|---|---|\n| 1931 | 12.5 t |\n| 1932 | 9.75 t |\n",
    "Der Leuchtturmwärter schreibt jede Stunde das Wetter in ein dickes Buch.",
    "Смотритель маяка записывает погоду каждого часа.",
    "灯台守は毎時間の天気を厚い本に書き込む。",
    "حارس المنارة يكتب حالة الطقس كل ساعة في كتاب سميك.",
    "🌊🗼📖",
    " ".join(f"{n} {n * n} {n * n * n}" for n in range(12)),
    SENTENCE * 10,
    "Of wind, tide and cloud. " * 30,
    SENTENCE * 40,
)
"""Of one character up to more than most models read; of several scripts, code and numbers. Those of
other lengths share a batch."""


def prove(model: LoadedModel, reference: LoadedModel) -> Proof:
    """Compare the vectors of the probes, as documents and as queries.

    Raises ValueError if ``model`` gives no vectors of that size, or no numbers.
    """
    documents = model.embed_documents(PROBES), reference.embed_documents(PROBES)
    queries = [(model.embed_query(text), reference.embed_query(text)) for text in PROBES]
    mine = np.vstack([documents[0], *(row for row, _ in queries)])
    theirs = np.vstack([documents[1], *(row for _, row in queries)])
    cosines = np.einsum("ij,ij->i", mine, theirs)
    if not np.isfinite(cosines).all():
        raise ValueError("it gives vectors that are no numbers")
    return Proof(float(cosines.min()), float(cosines.mean()))
