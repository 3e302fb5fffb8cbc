"""Let documents and accidents happen for ten minutes: ``make soak``.

``SOAK_HOURS`` makes it longer, ``SOAK_SEED`` repeats one. Prints a line now and then, and at the
end a report, which it also writes to ``benchmarks/results/soak.json`` and ``soak.md``. Exits with 1
if anything is lost, stored twice or not found, or if a process ended by itself.
"""

import argparse
import asyncio
import os
import random
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Final

from benchmarks.machine import Machine, describe
from ingestq.broker.connection import BrokerConfig, connected
from ingestq.core.signals import interrupt_once
from ingestq.embedded.redis import embedded_redis
from tests.skewed_redis import library_of
from tests.soak.plan import make_plan
from tests.soak.report import REPOSITORY, Report, commit, load
from tests.soak.soak import soak

RESULTS: Final = REPOSITORY / "benchmarks" / "results" / "soak.json"
HOUR: Final = 3600.0
DEFAULT_HOURS: Final = 1 / 6
LARGEST_SEED: Final = 10_000


async def machine(folder: Path) -> Machine:
    """Return what this runs on."""
    async with embedded_redis(folder) as url, connected(BrokerConfig(url)) as redis:
        return await describe(redis)


def main() -> int:
    """Run a soak; return the exit code."""
    interrupt_once()  # a signal ends it in order: what it has started is killed
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m tests.soak")
    hours = float(os.environ.get("SOAK_HOURS") or DEFAULT_HOURS)
    seed = int(os.environ.get("SOAK_SEED") or random.randrange(LARGEST_SEED))
    parser.add_argument("--hours", type=float, default=hours)
    parser.add_argument("--seed", type=int, default=seed)
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    faketime = shutil.which("faketime")
    if faketime is None:
        print("without the package faketime, no clock is moved", file=sys.stderr)
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    plan = make_plan(args.seed, args.hours * HOUR)
    began_at = commit()
    print(f"seed {args.seed}, {plan.events} events, logs in {folder}", file=sys.stderr, flush=True)
    ran_on = asyncio.run(machine(folder / "probe"))
    library = None if faketime is None else library_of(faketime)
    outcome = asyncio.run(soak(plan, folder, library))
    report = Report(plan, outcome, ran_on, began_at, load())
    report.write(args.output)
    print(report.text())
    if outcome.problems:
        print("the last events:", *outcome.last_events, sep="\n", file=sys.stderr)
        print(f"folders, data and logs are kept in {folder}", file=sys.stderr)
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
