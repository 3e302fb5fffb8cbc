"""The built distribution, installed as a user installs it."""

import os
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


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

    def run(self, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment, without access to other packages of this machine."""
        clean = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("INGESTQ_", "PYTHON"))
        }
        return subprocess.run(
            arguments, cwd=cwd, env=clean, capture_output=True, text=True, check=False, timeout=120
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


@pytest.fixture(scope="session")
def distribution(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build sdist and wheel from this checkout, the wheel from the sdist; return their folder."""
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    built = subprocess.run(build, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


@pytest.fixture(scope="session")
def wheel(distribution: Path) -> Path:
    [wheel] = distribution.glob("*.whl")
    return wheel


def installed(folder: Path, requirement: str) -> Environment:
    """Create an environment with ``requirement``, in the newest versions that it allows."""
    venv.create(folder, with_pip=True)
    environment = Environment(folder)
    pip = (environment.python, "-m", "pip", "install", "--quiet", requirement)
    ran = environment.run(*pip, cwd=folder)
    assert ran.returncode == 0, ran.stderr
    return environment


@pytest.fixture(scope="session")
def client_environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """The environment after ``pip install ingestq``."""
    return installed(tmp_path_factory.mktemp("client") / "venv", str(wheel))


@pytest.fixture(scope="session")
def cli_environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """The environment after ``pip install 'ingestq[cli]'``."""
    return installed(tmp_path_factory.mktemp("cli") / "venv", f"{wheel}[cli]")
