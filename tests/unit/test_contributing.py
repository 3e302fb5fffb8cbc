"""The make targets in the docs exist, and CI runs the same checks as contributors."""

import os
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

ROOT = Path(__file__).parents[2]
WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"
NAMES_TARGETS = [
    WORKFLOW,
    ROOT / ".devcontainer" / "devcontainer.json",
    ROOT / ".github" / "PULL_REQUEST_TEMPLATE.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "README.md",
    *sorted(ROOT.glob("docs/*.md")),
]
MAKE = re.compile(r'(?:^|`|"|run: )make ([a-z./-]+)', re.MULTILINE)


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def test_every_mentioned_make_target_exists() -> None:
    named = {target for path in NAMES_TARGETS for target in MAKE.findall(path.read_text("utf-8"))}
    assert {"check", "demo", "test", "test-slow"} <= named
    environment = {name: value for name, value in os.environ.items() if "MAKE" not in name}
    for target in sorted(named):
        dry_run = subprocess.run(
            ["make", "--dry-run", target],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert dry_run.returncode == 0, dry_run.stderr


def test_ci_tests_every_python_that_the_package_declares() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    prefix = "Programming Language :: Python :: "
    declared = [name.removeprefix(prefix) for name in project["classifiers"] if prefix in name]
    tested = load(WORKFLOW)["jobs"]["test"]["strategy"]["matrix"]["python"]
    assert tested == [version for version in declared if "." in version]
    assert project["requires-python"] == f">={tested[0]}"


def test_ci_tests_against_the_servers_that_compose_starts() -> None:
    compose = load(ROOT / "docker-compose.yml")["services"]
    services = load(WORKFLOW)["jobs"]["servers"]["services"]
    for name in ("redis", "qdrant"):
        assert services[name]["image"] == compose[name]["image"]


def test_hooks_run_the_checks_of_make_check() -> None:
    [local] = load(ROOT / ".pre-commit-config.yaml")["repos"]
    makefile = (ROOT / "Makefile").read_text("utf-8")
    recipe = re.search(r"^check:.*\n((?:\t.+\n)+)", makefile, re.MULTILINE)
    assert recipe is not None
    commands = [line.strip().replace("$(BIN)", ".venv/bin") for line in recipe[1].splitlines()]
    assert [hook["entry"] for hook in local["hooks"]] == commands
