"""What traces cost: ``python -m benchmarks.tracing``.

Runs ``ingestq run`` over the same small documents with and without spans, alternating, and compares
the processor time of all its processes for each document. Spans go to a collector on this machine.
The time of a run with one document, which is that of the start, is subtracted.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Final

from rich.console import Console

ENDPOINT: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"
WORDS: Final = 120
"""Of a document: one chunk, so that the cost of its spans shows most."""


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def collector() -> Iterator[str]:
    """Yield the URL of a collector that drops what it gets."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def write_documents(folder: Path, count: int) -> None:
    """Write ``count`` different documents."""
    folder.mkdir()
    for n in range(count):
        words = (f"word{(n * 7919 + i * 104_729) % 50_021}" for i in range(WORDS))
        (folder / f"{n}.txt").write_text(" ".join(words), encoding="utf-8")


def cpu_seconds(documents: Path, endpoint: str | None) -> float:
    """Return the processor time of a first run over ``documents``."""
    environment = {name: value for name, value in os.environ.items() if "OTEL_" not in name}
    with tempfile.TemporaryDirectory() as data:
        environment |= {"INGESTQ_DATA_DIR": data, "INGESTQ_POOL_SIZE": "1"}
        if endpoint is not None:
            environment[ENDPOINT] = endpoint
        command: list[str | Path] = [
            Path(sys.executable).parent / "ingestq",
            "run",
            documents,
            "--json",
        ]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(  # noqa: S603
            command, env=environment, check=True, capture_output=True
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, collector() as url:
        one, many = Path(folder, "one"), Path(folder, "many")
        write_documents(one, 1)
        write_documents(many, options.documents)
        taken: dict[str | None, list[float]] = {None: [], url: []}
        for _ in range(options.rounds):
            for endpoint, rounds in taken.items():
                seconds = cpu_seconds(many, endpoint) - cpu_seconds(one, endpoint)
                rounds.append(seconds * 1000 / (options.documents - 1))
        off, on = (statistics.median(rounds) for rounds in taken.values())
        out = Console(highlight=False)
        for name, rounds in zip(("without spans", "with spans"), taken.values(), strict=True):
            each = ", ".join(f"{ms:.2f}" for ms in sorted(rounds))
            out.print(f"{name}: ms of processor time a document: {each}")
        out.print(f"spans cost {on - off:.2f} ms, {(on - off) / off:.1%}")


if __name__ == "__main__":
    main()
