"""The machine and versions that a benchmark ran on."""

import os
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from redis.asyncio import Redis


@dataclass(frozen=True)
class Machine:
    """Machine and versions; ``load`` is the machine's one-minute load average at the start."""

    cpu: str
    cores: int
    load: float
    python: str
    arq: str
    redis: str
    date: str


async def describe(redis: Redis) -> Machine:
    """Return the details of this machine and of the server behind ``redis``."""
    info = await redis.info("server")
    name = info.get("server_name", "redis")
    return Machine(
        cpu=_cpu(),
        cores=len(os.sched_getaffinity(0)),
        load=os.getloadavg()[0],
        python=platform.python_version(),
        arq=version("arq"),
        redis=f"{name} {info.get(f'{name}_version', info['redis_version'])}",
        date=datetime.now(UTC).date().isoformat(),
    )


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"
