"""The floating point operations of a chunk, from the shape of the model."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

FORMULA: Final = "2 L (n (4 d^2 + 2 d f) + 2 n^2 d)"
"""Floating point operations of a BERT encoder's matrix products for a chunk of n tokens: L layers
of width d with f inside. A multiplication and an addition are two. Of a token's row, each layer
makes query, key, value and output (d^2 each), and goes in and out of f (d f each); of each pair of
tokens it makes a score and a weighted value (d each). Softmax, norms, activations, look-ups and
padding are left out."""


@dataclass(frozen=True)
class Shape:
    """L, d and f of `FORMULA`."""

    layers: int
    width: int
    inner: int

    @classmethod
    def of(cls, model_dir: Path) -> "Shape":
        """Return the shape in a model's config.json."""
        config = json.loads((model_dir / "config.json").read_text(encoding="utf-8"))
        return cls(config["num_hidden_layers"], config["hidden_size"], config["intermediate_size"])

    def gflop(self, tokens: Iterable[int]) -> float:
        """Return the billions of operations for chunks with these numbers of tokens."""
        d, f = self.width, self.inner
        return (
            sum(2 * self.layers * (n * (4 * d * d + 2 * d * f) + 2 * n * n * d) for n in tokens)
            / 1e9
        )
