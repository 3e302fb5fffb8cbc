"""Test texts, with which a faster engine is compared with sentence-transformers."""

from typing import Final

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
"""Test texts: from one character to more than most models read, in several scripts, with code and
numbers. Texts of different lengths share a batch."""
