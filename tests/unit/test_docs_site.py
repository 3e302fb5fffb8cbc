"""What the pages of the docs say of the tests, of messages and of measurements is true."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from ingestq.core import events
from ingestq.core.metrics import CATALOGUE

ROOT: Final = Path(__file__).parents[2]
DOCS: Final = ROOT / "docs"
PACKAGES: Final = ("ingestq", "producers", "worker")
GUARANTEES: Final = 13
ELLIPSIS: Final = "…"


def read(name: str) -> str:
    return (DOCS / f"{name}.md").read_text("utf-8")


def sections(text: str) -> dict[str, str]:
    """Return the text under each heading of the second level."""
    parts = re.split(r"^## (.+)\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


KEPT: Final = {
    name: text for name, text in sections(read("guarantees")).items() if "Tests:" in text
}


def test_every_guarantee_is_there() -> None:
    assert len(KEPT) == GUARANTEES


@pytest.mark.parametrize("guarantee", KEPT)
def test_the_tests_of_a_guarantee_exist(guarantee: str) -> None:
    named = re.findall(r"`(tests/[\w/.]+)`", KEPT[guarantee].partition("Tests:")[2])
    assert named
    for name in named:
        path = ROOT / name
        assert path.is_dir() or re.search(
            r"^(async )?def test_", path.read_text("utf-8"), re.MULTILINE
        )


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.stem)
def test_the_files_that_commands_name_exist(page: Path) -> None:
    shell = re.findall(
        r"^```(?:sh|console)?\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    for path in re.findall(r"(?<![\w/.])(?:deploy|examples|benchmarks)/[\w./*-]*", "".join(shell)):
        assert list(ROOT.glob(path)), path


def texts_of_the_code() -> Iterator[str]:
    """Yield the texts in the packages; what is filled in is an ellipsis."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value
                elif isinstance(node, ast.JoinedStr):
                    yield "".join(
                        str(part.value) if isinstance(part, ast.Constant) else ELLIPSIS
                        for part in node.values
                    )


def test_symptoms_are_what_ingestq_says() -> None:
    rows = [line.split("|")[1] for line in read("troubleshooting").splitlines() if "| `" in line]
    symptoms = {symptom for row in rows for symptom in re.findall(r"`([^`]+)`", row)}
    known = {
        *events.CATALOGUE,
        *(metric.name for metric in CATALOGUE),
        *("doctor", "/readyz", "ingestq status", "held back"),
    }
    said = "\n".join(texts_of_the_code())
    unknown = [
        symptom
        for symptom in symptoms - known
        if not all(part.strip() in said for part in symptom.split(ELLIPSIS))
    ]
    assert len(symptoms) > len(known & symptoms)
    assert unknown == []


def test_the_compared_speeds_are_the_measured_ones() -> None:
    measured = (DOCS / "performance.md").read_text("utf-8")
    rows = re.findall(r"^\| ([^|]+) \| ([\d.]+) \| ([\d.]+) \|$", read("comparison"), re.MULTILINE)
    assert rows
    for name, rate, ratio in rows:
        name = name.replace("`INGESTQ_PRECISION=fast`", "`fast`")
        assert re.search(
            rf"^\| {re.escape(name)} \| {re.escape(rate)} \(.+\) \| {re.escape(ratio)} \|",
            measured,
            re.MULTILINE,
        ), name


def test_the_rates_of_the_calculator_are_the_measured_ones() -> None:
    results = json.loads((ROOT / "benchmarks/results/index.json").read_text("utf-8"))
    cores = results["machine"]["cores"]
    measured = {each["name"]: each["ours"]["median"] / cores for each in results["measurements"]}
    script = (DOCS / "javascripts/capacity.js").read_text("utf-8")
    for rate, name in (("coreRate", "end to end"), ("pipelineRate", "static model")):
        [used] = re.findall(rf"{rate}: {{.*value: (\d+)", script)
        assert float(used) == pytest.approx(measured[name], rel=0.05)
