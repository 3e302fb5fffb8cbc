"""Measure how long the bundled Qdrant holds a small read up: ``python -m benchmarks.engine``.

A thread reads one point again and again, while another connection sends one large request of each
kind. Prints the longest that a read took beside it. Takes about two minutes.
"""

import argparse
import asyncio
import itertools
import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec
from rich.console import Console
from rich.table import Table

from ingestq.embedded.engine import open_engine

POINTS: Final = 20_000
DIMENSION: Final = 384
WORDS: Final = 60
VOCABULARY: Final = 20_000
TEXT: Final = "A sentence of a chunk, about as long as others. " * 20
MEBIBYTE: Final = 1024 * 1024
GROUP_BYTES: Final = 4 * MEBIBYTE
"""The largest request that ingestq itself sends."""
LARGEST_BYTES: Final = 30 * MEBIBYTE
FLUSH_SECONDS: Final = 4.0
"""A flush begins two seconds after the last write."""
ANSWER_SECONDS: Final = 120.0
PAUSE_SECONDS: Final = 0.002
ROUNDS: Final = 3
NAME: Final = "notes"
PATH: Final = f"/collections/{NAME}"
HEADERS: Final = {"Content-Type": "application/json"}


class Connection:
    """A connection to the engine's ``socket``."""

    def __init__(self, socket: Path) -> None:
        transport = httpx.HTTPTransport(uds=str(socket))
        self._client = httpx.Client(
            transport=transport, base_url="http://qdrant", timeout=ANSWER_SECONDS
        )

    def ask(self, method: str, path: str, body: bytes = b"{}") -> int:
        """Return how many bytes the answer has. Raises RuntimeError if it is an error."""
        answer = self._client.request(method, path, content=body, headers=HEADERS)
        if answer.is_error:
            raise RuntimeError(answer.text)
        return len(answer.content)

    def close(self) -> None:
        self._client.close()


@dataclass
class Probe:
    """Reads one point after the other; knows how long the slowest took since `begin`."""

    socket: Path
    longest: float = 0.0
    _stop: threading.Event = field(default_factory=threading.Event)

    def begin(self) -> None:
        """Forget the reads so far."""
        self.longest = 0.0

    def run(self) -> None:
        """Read until `stop`."""
        connection = Connection(self.socket)
        body = msgspec.json.encode({"ids": [0], "with_payload": True})
        while not self._stop.wait(PAUSE_SECONDS):
            began = time.perf_counter()
            connection.ask("POST", f"{PATH}/points", body)
            self.longest = max(self.longest, time.perf_counter() - began)
        connection.close()

    def stop(self) -> None:
        """End `run`."""
        self._stop.set()


def points(rng: random.Random, first: int) -> Iterator[dict[str, Any]]:
    """Yield the points from the one with the id ``first`` on."""
    for id_ in itertools.count(first):
        words = sorted(rng.sample(range(VOCABULARY), WORDS))
        vector = [round(rng.uniform(-1, 1), 6) for _ in range(DIMENSION)]
        sparse = {"indices": words, "values": [1.5] * WORDS}
        payload = {"doc_id": str(id_ % 100), "chunk_index": id_, "text": TEXT}
        yield {"id": id_, "vector": {"": vector, "bm25": sparse}, "payload": payload}


def upsert(rng: random.Random, size: int, first: int = 0) -> tuple[bytes, int]:
    """Return the body of an upsert of about ``size`` bytes, and how many points it has."""
    parts: list[bytes] = []
    length = 0
    for point in points(rng, first):
        parts.append(msgspec.json.encode(point))
        length += len(parts[-1]) + 1
        if length >= size:
            return b'{"points":[' + b",".join(parts) + b"]}", len(parts)
    raise AssertionError


def measure(console: Console, socket: Path, rounds: int) -> Table:
    """Return a table of the longest reads beside each kind of request to the engine."""
    rng = random.Random(1)  # noqa: S311 - a benchmark
    table = Table("beside", "MB", "s", *(f"longest read {n + 1} (ms)" for n in range(rounds)))
    connection = Connection(socket)
    create(connection)
    console.print(f"writing {POINTS} points")
    written = 0
    while written < POINTS:
        body, count = upsert(rng, GROUP_BYTES, written)
        connection.ask("PUT", f"{PATH}/points?wait=true", body)
        written += count
    probe = Probe(socket)
    thread = threading.Thread(target=probe.run)
    thread.start()
    group, _ = upsert(rng, GROUP_BYTES)
    largest, _ = upsert(rng, LARGEST_BYTES)
    page = msgspec.json.encode({"limit": 256, "with_payload": True, "with_vector": True})
    everything = msgspec.json.encode({"limit": POINTS, "with_vector": True})
    number = itertools.count()

    def index() -> int:
        wanted = {"field_name": f"field_{next(number)}", "field_schema": "keyword"}
        connection.ask("PUT", f"{PATH}/index?wait=true", msgspec.json.encode(wanted))
        wanted = {"field_name": "text", "field_schema": "keyword"}
        connection.ask("PUT", f"{PATH}/index?wait=true", msgspec.json.encode(wanted))
        connection.ask("DELETE", f"{PATH}/index/text?wait=true")
        return 0

    def write(body: bytes) -> Callable[[], int]:
        def ask() -> int:
            connection.ask("PUT", f"{PATH}/points?wait=true", body)
            return len(body)

        return ask

    def wait_for_flush() -> int:
        time.sleep(FLUSH_SECONDS)
        return 0

    kinds: dict[str, Callable[[], int]] = {
        "nothing": wait_for_flush,
        "upsert, largest of ingestq": write(group),
        "upsert, largest possible": write(largest),
        "flush after these": wait_for_flush,
        "scroll, one page": lambda: connection.ask("POST", f"{PATH}/points/scroll", page),
        "scroll, all points": lambda: connection.ask("POST", f"{PATH}/points/scroll", everything),
        "payload index over all points": index,
    }
    try:
        for kind, run in kinds.items():
            longest = []
            for _ in range(rounds):
                probe.begin()
                began = time.perf_counter()
                size = run()
                seconds = time.perf_counter() - began
                longest.append(f"{1000 * probe.longest:.0f}")
            table.add_row(kind, f"{size / 1e6:.1f}", f"{seconds:.2f}", *longest)
    finally:
        probe.stop()
        thread.join()
        connection.close()
    return table


def create(connection: Connection) -> None:
    """Create a collection with an index, as ingestq's."""
    wanted: dict[str, Any] = {
        "vectors": {"size": DIMENSION, "distance": "Cosine"},
        "sparse_vectors": {"bm25": {"modifier": "idf"}},
    }
    connection.ask("PUT", PATH, msgspec.json.encode(wanted))
    index = {"field_name": "doc_id", "field_schema": "keyword"}
    connection.ask("PUT", f"{PATH}/index?wait=true", msgspec.json.encode(index))


async def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine", description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    rounds = parser.parse_args().rounds
    console = Console()
    with tempfile.TemporaryDirectory(prefix="ingestq-bench-") as folder:
        async with open_engine(Path(folder)) as engine:
            table = await asyncio.to_thread(measure, console, engine.socket, rounds)
    console.print(table)


if __name__ == "__main__":
    asyncio.run(main())
