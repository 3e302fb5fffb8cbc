"""Measure a bucket against a folder with the same files: ``python -m benchmarks.remote``.

Runs ``ingestq run`` of both, in turns, each time with an empty index, on a server of S3 in the same
machine (moto's, from PyPI). Prints the medians of the seconds, and what each spent of processor
time, ingestq and server apart: the server is a substitute that needs more of it than a real one.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console

from benchmarks.prose import Prose
from tests.s3_server import Bucket, S3Server, s3_server

SEED: Final = 20261126
CHARACTERS: Final = 800
FOLDERS: Final = 20
UPLOADS: Final = 8
SETTLED_SECONDS: Final = 10
TARGET: Final = 1.5
USER_TICKS: Final = 11
"""Place of the processor time after the name of the program; see proc_pid_stat(5)."""


@dataclass(frozen=True)
class Measurement:
    """Seconds of a run: in all, of the indexing, of ingestq's and of the server's processors."""

    wall: float
    indexing: float
    own_cpu: float
    server_cpu: float


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--objects", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args(argv)
    progress = Console(stderr=True)
    with tempfile.TemporaryDirectory() as made, s3_server(Path(made)) as server:
        folder = Path(made)
        texts = _texts(args.objects)
        _write(texts, folder / "files")
        bucket = Bucket(server, "benchmark")
        server.client.create_bucket(Bucket=bucket.name)
        with ThreadPoolExecutor(UPLOADS) as threads:
            list(threads.map(lambda item: bucket.put(dict([item])), texts.items()))
        measured: dict[str, list[Measurement]] = {"folder": [], "bucket": []}
        for number in range(args.rounds):
            for kind, place in (("folder", str(folder / "files")), ("bucket", bucket.url)):
                one = _measure(place, server, folder / f"{kind}{number}", args.objects)
                progress.print(kind, one, f"load {os.getloadavg()[0]:.1f}")
                measured[kind].append(one)
    _show(measured)


def _texts(count: int) -> Mapping[str, str]:
    prose = Prose(SEED)
    return {f"{n % FOLDERS}/{n}.txt": prose.text(CHARACTERS, markdown=False) for n in range(count)}


def _write(texts: Mapping[str, str], folder: Path) -> None:
    old = time.time() - SETTLED_SECONDS
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        os.utime(path, (old, old))


def _measure(place: str, server: S3Server, folder: Path, objects: int) -> Measurement:
    folder.mkdir()
    before, spent = _server_seconds(server), os.times()
    began = time.perf_counter()
    ended = subprocess.run(  # noqa: S603 - what it runs is written here
        [Path(sys.executable).parent / "ingestq", "run", place, "--json"],
        cwd=folder,
        env={**os.environ, **server.environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    wall = time.perf_counter() - began
    summary, now = json.loads(ended.stdout), os.times()
    assert summary["documents"]["indexed"] == objects, summary
    own = now.children_user + now.children_system - spent.children_user - spent.children_system
    return Measurement(wall, summary["seconds"], own, _server_seconds(server) - before)


def _server_seconds(server: S3Server) -> float:
    status = Path(f"/proc/{server.pid}/stat").read_text(encoding="ascii")
    ticks = status.rpartition(")")[2].split()[USER_TICKS : USER_TICKS + 2]
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


def _show(measured: Mapping[str, Sequence[Measurement]]) -> None:
    names = Measurement.__dataclass_fields__
    console = Console()
    console.print("", *names, sep="\t")
    medians = {
        kind: {name: statistics.median(getattr(one, name) for one in ones) for name in names}
        for kind, ones in measured.items()
    }
    for kind, values in medians.items():
        console.print(kind, *(f"{value:.1f}" for value in values.values()), sep="\t")
    ratio = medians["bucket"]["indexing"] / medians["folder"]["indexing"]
    console.print(f"a bucket takes {ratio:.2f} times as long; the target is {TARGET}")


if __name__ == "__main__":
    main()
