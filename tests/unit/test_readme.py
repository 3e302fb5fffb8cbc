"""README and docs agree with the code: commands, settings, routes, metrics, JSON, links."""

import ast
import json
import os
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
    QueueState,
    StatusResponse,
    Submission,
    WorkerState,
)
from ingestq.app.backup import ExportResult, ImportResult
from ingestq.app.evaluation import AbsentDocument, EvalReport, QuestionResult
from ingestq.app.ingestion import Summary
from ingestq.app.questions import Question
from ingestq.app.retrieval_measures import MEASURES
from ingestq.app.settings import PREFIX, Settings, load_settings
from ingestq.app.settings_tables import DropTable, HooksTable, ScheduleTable
from ingestq.app.verify import VerifyReport
from ingestq.broker.connection import BrokerConfig, connect
from ingestq.broker.queue.dead_letters import DeadLetters
from ingestq.broker.queue.job_queue import JobQueue
from ingestq.broker.revoked_sessions import RevokedSessions
from ingestq.broker.schedule.runs import EntryStatus, Run
from ingestq.cli.application import app
from ingestq.client.client import IngestClient
from ingestq.core import errors, events
from ingestq.core.health import HEALTH_PATHS, HealthCheck
from ingestq.core.results import ChunkCounts, DocumentCounts
from ingestq.core.search_query import Mode, SearchQuery, SearchResult
from tests import settings_table
from worker.maintenance.export import LeftOut
from worker.maintenance.export_file import Totals
from worker.maintenance.restore import RestoreCounts
from worker.maintenance.rules import VerifyCounts

ROOT: Final = Path(__file__).parents[2]
README: Final = ROOT / "README.md"
DOCS: Final = ROOT / "docs"
PAGES: Final = [README, *sorted(DOCS.rglob("*.md"))]
ALL_PAGES: Final = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob(".github/**/*.md")), *PAGES[1:]]
CONFIGURATION, CLI, HTTP, CLIENT, LOGS, OPERATIONS, MONITORING = (
    (DOCS / f"{name}.md").read_text(encoding="utf-8")
    for name in ("configuration", "cli", "http", "client", "logs", "operations", "monitoring")
)
EXPLAINED: Final = "".join(settings_table.split(CONFIGURATION)[::2])
"""The settings with their meaning: all but the table of values."""
README_LINES: Final = 150
NOT_SETTINGS: Final = {
    "INGESTQ_NAME",
    "INGESTQ_CONFIG",
    "INGESTQ_TEST_REDIS_URL",
    "INGESTQ_TEST_QDRANT_URL",
}
"""A placeholder, the name of the settings file, and variables that only the tests read."""
OPTIONS_OF_OTHERS: Final = {
    "--served-model-name",
    "--quick",
    "--mebibytes",
    "--documents",
    "--sets",
    "--rrf-k",
    "--candidates",
    "--no-peers",
    "--context",
    "--qdrant",
    "--engine",
}
"""Options that the docs mention and that belong to vLLM and to the benchmarks."""

FENCE: Final = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
COMMAND: Final = re.compile(r"(?<![\w./-])ingestq\s+(?=\S)([^#&]*)")
SHELL_COMMAND: Final = re.compile(
    r"(?:^|[|;&] *|-- )(?:\w+=\S+ )*ingestq +([^#&|;<>)\n]+)", re.MULTILINE
)
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
    names = {
        name
        for option in command.params
        for name in (*option.opts, *option.secondary_opts)
        if name.startswith("-")
    }
    return names | {"-h", "--help"}


def commands_in(text: str) -> Iterator[str]:
    """Yield what follows ``ingestq`` in shell blocks, synopses and code spans."""
    for block in blocks(text, "sh") + blocks(text, "console"):
        yield from SHELL_COMMAND.findall(block.replace("\\\n", " "))
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
def test_commands_say_whether_tests_run_them(page: Path) -> None:
    """In ``sh`` they are run, in ``console`` not; without a language only forms are shown."""
    if page.name != "cli.md":
        assert [block for block in blocks(read(page), "") if COMMAND.search(block)] == []


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
    assert known - set(first_cells(EXPLAINED)) == set()


def as_written(default: object) -> str:
    """Return the value of a setting as it is written in the environment."""
    if isinstance(default, bool):
        return str(default).lower()
    return ",".join(default) if isinstance(default, tuple) else str(default)


def test_documented_defaults_are_the_defaults() -> None:
    documented = dict(re.findall(r"^\| `INGESTQ_(\w+)` \| `([^`]+)`", EXPLAINED, re.MULTILINE))
    fields = {name.upper(): field for name, field in Settings.model_fields.items()}
    literal = {
        name: as_written(field.default)
        for name, field in fields.items()
        if field.default_factory is None and field.default not in (None, "", ())
    }
    assert {name: documented.get(name) for name in literal} == literal


def test_the_table_of_allowed_values_is_that_of_the_code() -> None:
    _, written, _ = settings_table.split(CONFIGURATION)
    assert written == settings_table.table(), "run `python -m tests.settings_table`"


@pytest.mark.parametrize(
    ("heading", "table"),
    [("Watched folders", DropTable), ("Schedule", ScheduleTable), ("Hooks", HooksTable)],
)
def test_every_key_of_a_table_is_documented(heading: str, table: type[BaseModel]) -> None:
    cells = first_cells(section(CONFIGURATION, heading))
    assert {cell for cell in cells if not cell.startswith(PREFIX)} == set(table.model_fields)


# HTTP


async def search(query: SearchQuery) -> SearchResult[object]:
    raise NotImplementedError


async def index(tenant: str, doc_id: str, collection: str) -> None:
    raise NotImplementedError


def openapi() -> dict[str, Any]:
    config = BrokerConfig("redis://nobody.invalid")
    redis: Redis = connect(config)
    client, dead_letters = IngestClient(JobQueue(redis, config)), DeadLetters(redis, config)
    revoked = RevokedSessions(redis, config)
    services = Services(client, dead_letters, revoked, search, index)
    return create_app(services, ApiConfig(1)).openapi()


def test_the_table_of_routes_is_complete() -> None:
    routes = {
        f"{method.upper()} {path}"
        for path, methods in openapi()["paths"].items()
        for method in methods
    }
    assert set(first_cells(section(HTTP, "Routes"))) == routes


def test_the_parameters_of_a_search_are_complete() -> None:
    parameters = openapi()["paths"]["/search"]["get"]["parameters"]
    names = {parameter["name"] for parameter in parameters if parameter["in"] == "query"}
    assert set(first_cells(section(HTTP, "Search"))) == names


def test_the_fields_of_a_document_are_complete() -> None:
    body = openapi()["paths"]["/documents"]["post"]["requestBody"]["content"]["application/json"]
    fields = set(body["schema"]["properties"])
    assert set(first_cells(section(HTTP, "Queue a document"))) == fields


def test_every_status_that_openapi_names_is_documented() -> None:
    answers = {
        status
        for methods in openapi()["paths"].values()
        for operation in methods.values()
        for status in operation["responses"]
        if status.startswith(("4", "5"))
    }
    documented = set(re.findall(r"^\| (\d{3}) \|", section(HTTP, "Errors"), re.MULTILINE))
    assert answers <= documented


def test_the_table_of_health_checks_is_complete() -> None:
    cells = first_cells(section(MONITORING, "Health checks"))
    assert set(cells) == {*HEALTH_PATHS, *(check.value for check in HealthCheck)}


def test_the_table_of_alerts_is_complete() -> None:
    rules = re.findall(r"- alert: (\w+)", read(ROOT / "deploy/prometheus/alerts.yml"))
    assert set(first_cells(section(MONITORING, "Alerts"))) == set(rules)


def test_the_log_events_exist() -> None:
    found = first_cells(section(LOGS, "What to watch"))
    assert found
    assert set(found) <= set(events.CATALOGUE)


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
    assert documented["queue"].keys() == keys(QueueState)
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


def test_exports_and_imports_are_as_documented() -> None:
    exported = ExportResult("documents", Totals(), LeftOut()).as_json()
    assert_same_keys(example("ingestq export"), exported)
    imported = ImportResult("documents", RestoreCounts(), None).as_json()
    assert_same_keys(example("ingestq import"), imported)


def test_an_evaluation_is_as_documented() -> None:
    question = Question(1, "?", ("gone",))
    answers = {mode: [QuestionResult(question, [None], None)] for mode in Mode}
    report = EvalReport("documents", answers, [AbsentDocument(1, "gone")]).as_json(misses=1)
    documented = example("ingestq eval")
    assert_same_keys(documented, report)
    assert_same_keys(documented["absent"][0], report["absent"][0])
    for mode in Mode:
        assert_same_keys(documented["modes"][mode], MEASURES)
        assert_same_keys(documented["misses"][mode][0], report["misses"][mode][0])


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


@by_page
def test_settings_files_are_valid(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(name)
    file = tmp_path / "ingestq.toml"
    monkeypatch.setenv("INGESTQ_CONFIG", str(file))
    for block in blocks(read(page), "toml"):
        file.write_text(block, encoding="utf-8")
        load_settings()


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
