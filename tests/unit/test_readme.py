"""README and docs agree with the code: commands, settings, routes, metrics, JSON, links."""

import ast
import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import typer
from pydantic import BaseModel
from redis.asyncio import Redis

from ingestq.api.app import ApiConfig, Services, create_app
from ingestq.api.schemas import (
    DeadLetterResponse,
    HitResponse,
    Progress,
    StatusResponse,
    Submission,
    WorkerState,
)
from ingestq.app.ingestion import Summary
from ingestq.app.settings import PREFIX, DropTable, ScheduleTable, Settings
from ingestq.app.verify import VerifyReport
from ingestq.broker.connection import BrokerConfig, connect
from ingestq.broker.queue.dead_letters import DeadLetters
from ingestq.broker.queue.job_queue import JobQueue
from ingestq.broker.schedule.runs import EntryStatus, Run
from ingestq.cli.application import app
from ingestq.client.client import IngestClient
from ingestq.core import errors, events
from ingestq.core.results import ChunkCounts, DocumentCounts
from ingestq.core.search_query import SearchQuery
from worker.maintenance.rules import VerifyCounts

ROOT: Final = Path(__file__).parents[2]
README: Final = ROOT / "README.md"
DOCS: Final = ROOT / "docs"
PAGES: Final = [README, *sorted(DOCS.rglob("*.md"))]
ALL_PAGES: Final = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob(".github/**/*.md")), *PAGES[1:]]
CONFIGURATION, CLI, HTTP, CLIENT, OPERATIONS = (
    (DOCS / f"{name}.md").read_text(encoding="utf-8")
    for name in ("configuration", "cli", "http", "client", "operations")
)
README_LINES: Final = 150
NOT_SETTINGS: Final = {"INGESTQ_NAME", "INGESTQ_TEST_REDIS_URL", "INGESTQ_TEST_QDRANT_URL"}
"""A placeholder, and variables that only the tests read."""
OPTIONS_OF_OTHERS: Final = {"--served-model-name", "--quick", "--mebibytes"}
"""Options that the docs mention and that belong to vLLM and to the benchmarks."""

FENCE: Final = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
COMMAND: Final = re.compile(r"(?<![\w./-])ingestq\s+(?=\S)([^#&]*)")
LINK: Final = re.compile(r"(?:\]\(|^\[[^\]]+\]: |src(?:set)?=\")([^)\s\"]+)", re.MULTILINE)
OPTION: Final = re.compile(r"(?<![\w-])--?[a-z][a-z-]*")

by_page: Final = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    """Return the fenced blocks of ``language``."""
    return [body for name, body in FENCE.findall(text) if name == language]


def section(text: str, heading: str) -> str:
    """Return the text under a heading of the second level."""
    _, found, rest = f"\n{text}".partition(f"\n## {heading}\n")
    assert found, f"there is no heading {heading!r}"
    return rest.partition("\n## ")[0]


def first_cells(text: str) -> list[str]:
    """Return the code spans in the first column of all tables."""
    cells = (row.split("|")[1] for row in text.splitlines() if row.startswith("| `"))
    return [code for cell in cells for code in re.findall(r"`([^`]+)`", cell)]


# Commands


def leaf_commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from leaf_commands(command, (*path, name))
        else:
            yield (*path, name), command


ROOT_COMMAND: Final = typer.main.get_command(app)
LEAVES: Final = dict(leaf_commands(ROOT_COMMAND))


def options(command: Any) -> set[str]:
    names = {name for option in command.params for name in option.opts if name.startswith("-")}
    return names | {"-h", "--help"}


def commands_in(text: str) -> Iterator[str]:
    """Yield what follows ``ingestq`` in shell blocks and in code spans."""
    for block in blocks(text, ""):
        joined = re.sub(r"\n\s+(?=\[)", " ", block)  # a synopsis may span lines
        for line in joined.splitlines():
            yield from COMMAND.findall(line)
    for span in re.findall(r"`([^`]+)`", FENCE.sub("", text)):
        yield from COMMAND.findall(" ".join(span.split()))


def wrong_in(command: str) -> str | None:
    """Return what does not exist of a command as the docs write it, or None."""
    words, used = command.split(), set(OPTION.findall(command))
    if words[0].startswith("-") or words[0].isupper():  # `ingestq COMMAND --help`
        unknown = used - options(ROOT_COMMAND)
        return f"options {sorted(unknown)}" if unknown else None
    groups = {path[0] for path in LEAVES if len(path) > 1}
    if words[0] in groups:
        names = re.split(r"\\?\|", words[1]) if len(words) > 1 else []
        paths: list[tuple[str, ...]] = [(words[0], name) for name in names]
    else:
        paths = [(words[0],)]
    missing = [path for path in paths if path not in LEAVES]
    if missing:
        return f"commands {missing}"
    unknown = used.difference(*(options(LEAVES[path]) for path in paths)) if paths else used
    return f"options {sorted(unknown)}" if unknown else None


@by_page
def test_every_command_exists_with_its_options(page: Path) -> None:
    found = {command: wrong_in(command) for command in commands_in(read(page))}
    assert {command: wrong for command, wrong in found.items() if wrong} == {}


@by_page
def test_every_mentioned_option_exists(page: Path) -> None:
    known = set().union(*map(options, [ROOT_COMMAND, *LEAVES.values()])) | OPTIONS_OF_OTHERS
    spans = re.findall(r"`(--[a-z-]+)[^`]*`", FENCE.sub("", read(page)))
    assert set(spans) - known == set()


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_every_command_is_documented_with_all_its_options(path: tuple[str, ...]) -> None:
    text = section(CLI, f"ingestq {path[0]}")
    synopsis = re.compile(rf"^ingestq {path[0]}" + "".join(rf"\s+{name}" for name in path[1:]))
    assert any(synopsis.match(line) for line in "".join(blocks(text, "")).splitlines())
    long = {name for name in options(LEAVES[path]) if name.startswith("--")} - {"--help"}
    assert long - set(OPTION.findall(text)) == set()


# Settings


def test_every_variable_is_a_setting() -> None:
    named = {name for page in PAGES for name in re.findall(r"INGESTQ_[A-Z]\w*", read(page))}
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    assert named - known - NOT_SETTINGS == set()


def test_every_setting_is_documented() -> None:
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    assert known - set(first_cells(CONFIGURATION)) == set()


def test_documented_defaults_are_the_defaults() -> None:
    documented = dict(re.findall(r"^\| `INGESTQ_(\w+)` \| `([^`]+)`", CONFIGURATION, re.MULTILINE))
    fields = {name.upper(): field for name, field in Settings.model_fields.items()}
    literal = {
        name: str(field.default).lower() if isinstance(field.default, bool) else str(field.default)
        for name, field in fields.items()
        if field.default_factory is None and field.default not in (None, "", ())
    }
    assert {name: documented.get(name) for name in literal} == literal


@pytest.mark.parametrize(
    ("heading", "table"), [("Watched folders", DropTable), ("Schedule", ScheduleTable)]
)
def test_every_key_of_a_table_is_documented(heading: str, table: type[BaseModel]) -> None:
    cells = first_cells(section(CONFIGURATION, heading))
    assert {cell for cell in cells if not cell.startswith(PREFIX)} == set(table.model_fields)


# HTTP


async def search(query: SearchQuery) -> list[object]:
    raise NotImplementedError


async def index(tenant: str, doc_id: str, collection: str) -> None:
    raise NotImplementedError


def routes() -> set[str]:
    config = BrokerConfig("redis://nobody.invalid")
    redis: Redis = connect(config)
    client, dead_letters = IngestClient(JobQueue(redis, config)), DeadLetters(redis, config)
    schema = create_app(Services(client, dead_letters, search, index), ApiConfig(1)).openapi()
    return {
        f"{method.upper()} {path}"
        for path, methods in schema["paths"].items()
        for method in methods
    }


def test_the_table_of_routes_is_complete() -> None:
    assert set(first_cells(section(HTTP, "Routes"))) == routes()


def test_the_table_of_metrics_is_complete() -> None:
    metrics = {value for name, value in vars(events).items() if name.startswith("METRIC_")}
    assert set(first_cells(section(HTTP, "Health and metrics"))) == metrics


def test_the_log_events_exist() -> None:
    found = re.findall(r"^\| `(\w+\.\w+)`", section(OPERATIONS, "Monitoring"), re.MULTILINE)
    assert found
    assert set(found) <= {value for value in vars(events).values() if isinstance(value, str)}


def test_the_errors_of_the_client_exist() -> None:
    found = first_cells(section(CLIENT, "Receipts and errors"))
    assert found
    assert [name for name in found if not hasattr(errors, name)] == []


# JSON of the commands


def example(command: str, number: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(blocks(section(CLI, command), "json")[number])
    return found


def keys(of: type[BaseModel]) -> set[str]:
    return set(of.model_fields)


def test_the_summary_is_as_documented() -> None:
    summary = Summary(DocumentCounts(), ChunkCounts(), 1.0, "documents", (), 0).as_json()
    assert_same_keys(example("ingestq run"), summary)


def test_hits_are_as_documented() -> None:
    assert example("ingestq search")["hits"][0].keys() == keys(HitResponse)


def test_the_status_is_as_documented() -> None:
    documented = example("ingestq status")
    assert keys(StatusResponse) <= documented.keys()
    assert documented["queue"].keys() == keys(StatusResponse.model_fields["queue"].annotation)  # type: ignore[arg-type]
    assert documented["workers"][0].keys() == keys(WorkerState)
    submission = example("ingestq status", 1)
    assert submission.keys() == keys(Submission)
    assert submission["chunks"].keys() == keys(Progress.model_fields["chunks"].annotation)  # type: ignore[arg-type]


def test_dead_letters_are_as_documented() -> None:
    assert example("ingestq dead")["dead_letters"][0].keys() == keys(DeadLetterResponse)


def test_the_schedule_is_as_documented() -> None:
    run = Run(entry="handbook", due_ms=0, started_ms=0)
    entry = EntryStatus(
        name="", cron="", timezone="", action="", source="", next_ms=None, runs=(run,)
    )
    [documented] = example("ingestq schedule")["schedule"]
    assert_same_keys(documented, entry.as_json())
    assert_same_keys(documented["runs"][0], run.as_json())


def test_findings_are_as_documented() -> None:
    assert_same_keys(example("ingestq verify"), VerifyReport(VerifyCounts()).as_json())


def assert_same_keys(documented: Mapping[str, Any], real: Mapping[str, Any]) -> None:
    assert documented.keys() == real.keys()
    for key, value in real.items():
        if isinstance(value, Mapping):
            assert_same_keys(documented[key], value)


# The pages themselves


def test_the_readme_is_at_most_150_lines() -> None:
    assert len(read(README).splitlines()) <= README_LINES


@by_page
def test_examples_are_valid(page: Path) -> None:
    text = read(page)
    for block in blocks(text, "python"):
        compile(block, page.name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    for block in blocks(text, "json"):
        json.loads(block)
    for block in blocks(text, "toml"):
        tomllib.loads(block)


def anchors(page: Path) -> list[str]:
    """Return the anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", read(page)), re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


@pytest.mark.parametrize("page", ALL_PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_have_targets(page: Path) -> None:
    for link in LINK.findall(FENCE.sub("", read(page))):
        path, _, anchor = link.partition("#")
        if ":" in path:
            continue  # elsewhere on the web
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@by_page
def test_headings_are_unique(page: Path) -> None:
    found = anchors(page)
    assert sorted(found) == sorted(set(found))
