"""The built distribution, installed as a user installs it, once for all test processes."""

import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).parents[2]
SECONDS = 150
"""Longer than a command takes on a busy machine."""
INSTALL_SECONDS = 600


@dataclass(frozen=True)
class Environment:
    """A virtual environment with only what pip installed."""

    folder: Path

    @property
    def python(self) -> str:
        return str(self.folder / "bin" / "python")

    @property
    def command(self) -> str:
        return str(self.folder / "bin" / "ingestq")

    def run(
        self, *arguments: str, cwd: Path, seconds: float = SECONDS
    ) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment, without access to other packages of this machine."""
        clean = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("INGESTQ_", "PYTHON"))
        }
        return subprocess.run(
            arguments,
            cwd=cwd,
            env=clean,
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
        )

    def answer(self, script: str, cwd: Path) -> str:
        """Run a script that must succeed, and return what it prints."""
        ran = self.run(self.python, "-c", script, cwd=cwd)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    def distributions(self, cwd: Path) -> set[str]:
        listed = (
            "import importlib.metadata as m; print(*{d.name.lower() for d in m.distributions()})"
        )
        return set(self.answer(listed, cwd).split()) - {"pip", "setuptools"}


Once = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Once:
    """Returns the folder with a name; the first test process that asks for it fills it."""
    base = tmp_path_factory.getbasetemp()

    def made(name: str, fill: Callable[[Path], object]) -> Path:
        folder = (base if worker_id == "master" else base.parent) / name
        filled = folder.with_suffix(".filled")
        with FileLock(folder.with_suffix(".lock")):
            if not filled.exists():
                shutil.rmtree(folder, ignore_errors=True)  # what another could not fill
                folder.mkdir()
                fill(folder)
                filled.touch()
        return folder

    return made


@pytest.fixture(scope="session")
def distribution(once: Once) -> Path:
    """Build sdist and wheel from this checkout, the wheel from the sdist; return their folder."""

    def build(folder: Path) -> None:
        building = [sys.executable, "-m", "build", "--no-isolation"]
        built = subprocess.run(
            [*building, "--outdir", folder, ROOT], capture_output=True, text=True, check=False
        )
        assert built.returncode == 0, built.stdout + built.stderr

    return once("dist", build)


@pytest.fixture(scope="session")
def wheel(distribution: Path) -> Path:
    [wheel] = distribution.glob("*.whl")
    return wheel


def installed(once: Once, name: str, requirement: str) -> Environment:
    """Return an environment with ``requirement``, in the newest versions that it allows."""

    def install(folder: Path) -> None:
        venv.create(folder, with_pip=True)
        environment = Environment(folder)
        pip = (environment.python, "-m", "pip", "install", "--quiet", requirement)
        ran = environment.run(*pip, cwd=folder, seconds=INSTALL_SECONDS)
        assert ran.returncode == 0, ran.stderr

    return Environment(once(name, install))


@pytest.fixture(scope="session")
def client_environment(wheel: Path, once: Once) -> Environment:
    """The environment after ``pip install ingestq``."""
    return installed(once, "client", str(wheel))


@pytest.fixture(scope="session")
def cli_environment(wheel: Path, once: Once) -> Environment:
    """The environment after ``pip install 'ingestq[cli]'``."""
    return installed(once, "cli", f"{wheel}[cli]")
