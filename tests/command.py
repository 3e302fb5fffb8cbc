"""Runs the installed ``ingestq`` command, as a user does."""

import asyncio
import functools
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from ingestq.app.settings import load_settings
from ingestq.broker.connection import BrokerConfig, connected
from ingestq.broker.keys import RESULT
from ingestq.broker.queue.job_queue import JobQueue
from ingestq.core import events
from ingestq.core.errors import UsageError
from ingestq.embedded.redis import embedded_redis
from tests import forked_command
from tests.waiting import eventually

SECONDS = 150


class Printed(dict[str, Any]):
    """The JSON that a command has printed; all of it is shown when a key is missing."""

    def __missing__(self, key: str) -> Any:
        raise AssertionError(f"the command printed no {key!r}: {dict(self)}")


@dataclass(frozen=True)
class CommandResult:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert len(self.out.splitlines()) == 1, f"not one line of JSON: {self.out!r} {self.err!r}"
        printed = json.loads(self.out)
        return Printed(printed) if isinstance(printed, dict) else printed

    def failed_with(self, code: int, *said: str) -> None:
        """Assert the exit ``code``, and one error line on stderr that contains all of ``said``."""
        assert self.code == code, (self.code, self.err)
        assert "Traceback" not in self.err
        [error] = self.errors
        for words in said:
            assert words in error

    @property
    def errors(self) -> list[str]:
        """What the command said that it failed of: in a line of its own, or in one of its log."""
        return [error for line in self.err.splitlines() if (error := _error_in(line)) is not None]


def _error_in(line: str) -> str | None:
    if line.startswith("ingestq: "):
        return line
    if not line.startswith("{"):
        return None
    logged = json.loads(line)
    return str(logged["error"]) if logged["event"] == events.COMMAND_FAILED else None


@dataclass
class Ingestq:
    """The command in ``folder``, with the settings in ``settings`` and no others."""

    folder: Path
    settings: dict[str, str] = field(default_factory=dict)

    def __call__(self, *arguments: str | Path, stdin: str | None = None) -> CommandResult:
        command, environment = self.command(*arguments), self.environment()
        ended = subprocess.run(
            _forked(command, environment) or command,
            cwd=self.folder,
            env=environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        return CommandResult(ended.returncode, ended.stdout, ended.stderr)

    def refusal(self) -> str:
        """Return why the command would refuse its settings, without the cost of starting it."""
        settings = {k: v for k, v in self.environment().items() if k.startswith("INGESTQ_")}
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.folder)
            for name in [name for name in os.environ if name.startswith("INGESTQ_")]:
                patch.delenv(name)
            for name, value in settings.items():
                patch.setenv(name, value)
            with pytest.raises(UsageError) as refused:
                load_settings()
        return str(refused.value)

    async def ended(self, *arguments: str | Path) -> CommandResult:
        """Run the command in a thread, for tests that serve it something meanwhile."""
        return await asyncio.to_thread(self, *arguments)

    def start(self, *arguments: str | Path, **more: Any) -> subprocess.Popen[str]:
        """Start the command and return its process; ``more`` goes to Popen."""
        return subprocess.Popen(
            self.command(*arguments),
            cwd=self.folder,
            env=self.environment(),
            text=True,
            **({"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | more),
        )

    async def is_in_the_middle(self) -> None:
        """Wait until a started command has finished a job, and has others to do."""
        async with embedded_redis(self.folder / ".ingestq") as url:
            config = BrokerConfig(url)
            async with connected(config) as redis:
                await eventually(lambda: redis.keys(RESULT + "*"), seconds=SECONDS)
                depth = await JobQueue(redis, config).depth()
                assert depth.ready + depth.in_flight, "too fast"

    @staticmethod
    def command(*arguments: str | Path) -> list[str | Path]:
        return [Path(sys.executable).parent / "ingestq", *arguments]

    def environment(self) -> dict[str, str]:
        shared = "INGESTQ_CACHE_DIR"
        inherited = {
            k: v for k, v in os.environ.items() if not k.startswith("INGESTQ_") or k == shared
        }
        return inherited | {f"INGESTQ_{name.upper()}": v for name, v in self.settings.items()}


CHANGING: Final = (
    forked_command.SETTING,
    "PYTEST_CURRENT_TEST",
    # A test that parses in its own process has them.
    "RAYON_NUM_THREADS",
    "TOKIO_WORKER_THREADS",
)


def _lasting(environment: Mapping[str, str]) -> dict[str, str]:
    """Return ``environment`` without the settings of ``ingestq``, and what tests change anyway."""
    return {name: value for name, value in environment.items() if not name.startswith(CHANGING)}


ENVIRONMENT: Final = _lasting(os.environ)
"""What the forked commands of this test process have."""


@functools.cache
def _command_server() -> tuple["subprocess.Popen[str]", str]:
    """Start the server of forked commands, which ends with this process; return it and its socket.

    Once for the test process.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", forked_command.__name__, "serve", *Ingestq.command()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=ENVIRONMENT,
        text=True,
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def _forked(
    command: Sequence[str | Path], environment: Mapping[str, str]
) -> Sequence[str | Path] | None:
    """Return what runs ``command`` in a forked process, if that makes no difference."""
    name, *arguments = command
    if [name] != Ingestq.command() or _lasting(environment) != ENVIRONMENT:
        return None
    _, socket = _command_server()
    return [sys.executable, "-S", "-E", forked_command.__file__, "run", socket, *arguments]
