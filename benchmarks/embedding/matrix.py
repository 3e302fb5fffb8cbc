"""Measure this machine's rate of matrix products: ``python -m benchmarks.embedding.matrix``.

Runs in a process of its own, because nothing else in the benchmark's process loads torch. Prints
JSON: GFLOP/s by type and number of threads.
"""

import json
import sys
import time
from typing import Final

import torch

SIZES: Final = (1024, 2048)
"""Rows and columns; the faster of them counts."""
SECONDS: Final = 1.0
"""Time for which each product is repeated; the fastest one counts."""
KINDS: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def rate(kind: torch.dtype, size: int, threads: int) -> float:
    """Return the GFLOP/s of one kind of product."""
    torch.set_num_threads(threads)
    left, right = (torch.randn(size, size).to(kind) for _ in range(2))
    fastest = float("inf")
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        started = time.perf_counter()
        left @ right
        fastest = min(fastest, time.perf_counter() - started)
    return 2 * size**3 / fastest / 1e9


def main() -> None:
    rates = {
        name: {
            threads: max(rate(kind, size, threads) for size in SIZES)
            for threads in map(int, sys.argv[1:])
        }
        for name, kind in KINDS.items()
    }
    sys.stdout.write(json.dumps(rates) + "\n")


if __name__ == "__main__":
    main()
