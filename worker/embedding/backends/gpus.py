"""Divides the GPUs of this machine among the embedding processes."""

from typing import Final

import torch
from filelock import FileLock, Timeout

from worker.embedding.cache import Card
from worker.process_pool.process import pool_folder

MOST_PROCESSES: Final = 4
"""Processes on a GPU. While one computes, the others tokenize and take their next batch."""
PROCESS_BYTES: Final = 2**30
"""What a process takes of a GPU's memory besides the model's weights, for CUDA and a batch."""


def processes_on(gpus: int, weights_bytes: int) -> int:
    """Return how many processes should share ``gpus``, each with weights of so many bytes.

    Together they fill at most half of the memory, unless a single one needs more. Raises
    RuntimeError if CUDA does not work.
    """
    memory = min(torch.cuda.get_device_properties(index).total_memory for index in range(gpus))
    room = memory // 2 // (weights_bytes + PROCESS_BYTES)
    return gpus * max(1, min(room, MOST_PROCESSES))


def claim_gpu(card: Card) -> str:
    """Claim a place on a GPU that no other process of the same pool has; return the device.

    A file lock in the folder of the pool marks the claim: it ends with the process, however that
    ends. Raises RuntimeError if all places are taken.
    """
    for place in range(card.gpu_processes):
        lock = FileLock(pool_folder() / f"gpu-{place}.lock")
        try:
            lock.acquire(blocking=False)
        except Timeout:
            continue
        _claimed.append(lock)
        return f"cuda:{place % card.gpus}"
    raise RuntimeError("all places on the GPUs are taken by other processes of this worker")


_claimed: Final[list[FileLock]] = []
"""Kept for the life of the process, because a lock is released when it is garbage-collected."""
