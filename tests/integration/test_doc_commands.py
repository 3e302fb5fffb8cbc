"""The commands in the docs do what the pages say, and exports say what is wrong with a file."""

import gzip
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.command import SECONDS, Ingestq
from tests.doc_commands import ROOT, blocks, run
from tests.pdf_files import GrayImage, encrypted_pdf, full_page, lines_of, write_pdf
from tests.redis_servers import free_port

SAID = {
    "backup": (
        "imported into documents: 2 documents, 2 chunks, 0 deletions\n",
        "0 indexed, 2 unchanged, 0 rejected\n",
        "consistent: 2 documents, 2 chunks;",
        "2 documents were there already\n",  # --merge
        "imported into copy: 2 documents",  # by way of stdout and stdin
        '{"format":"ingestq-export","version":1,',
        "Geese leave the lake",
    ),
    "http": ('"accepted":1,"duplicates":0,"rejected":0', '"hits":['),
}
"""What the pages do not show of the output."""
REDIS = "redis://localhost:6379/0"
BEFORE = {
    "http": "ingestq up &",
    "operations": "ingestq run inbox --source inbox || test $? = 1",
}
"""What a reader of the page has done."""
TOGETHER = (("http", "monitoring"), ("retrieval", "capacity", "operations", "traces"))
"""Pages that are run one after another in one folder, to save time."""
DOCUMENTS = ROOT / "examples/documents"
PAGES = {
    page.stem: page.read_text("utf-8")
    for pattern in ("*.md", "docs/**/*.md", "examples/**/*.md", "deploy/**/*.md", "benchmarks/*.md")
    for page in sorted(ROOT.glob(pattern))
    if re.search(r"^ *```(sh|bash|shell)\b", page.read_text("utf-8"), re.MULTILINE)
}
"""All pages with commands to run."""
RUNS = [*TOGETHER, *((page,) for page in PAGES if not any(page in pages for pages in TOGETHER))]


def prepared(pages: Sequence[str], folder: Path) -> None:
    """Put into ``folder`` what the pages take for granted."""
    if {"tutorial", "README"} & {*pages}:  # they begin in a clone
        (folder / "examples").symlink_to(ROOT / "examples")
    if "backup" in pages:
        notes = folder / "notes"
        notes.mkdir()
        (notes / "geese.md").write_text("Geese leave the lake when the first frost comes.")
        (notes / "tide.md").write_text("The tide rises twice a day.")
        (folder / "key").write_text("secret")
    if "http" in pages:
        shutil.copy(DOCUMENTS / "observatory-handbook.pdf", folder / "report.pdf")
        (folder / "documents.jsonl").write_text('{"doc_id": "tide", "text": "It rises."}\n')
    if "retrieval" in pages:
        handbook(folder)
        inbox = folder / "inbox"
        inbox.mkdir()
        (inbox / "scan.pdf").write_bytes(encrypted_pdf())
        (folder / "handbook/survey.pdf").rename(inbox / "survey.pdf")
        sample = folder / "sample"
        sample.mkdir()
        (sample / "gulls.md").write_text("Forty-one gulls sat on the northern cliff.")
    if "cli" in pages:
        handbook(folder)
        (folder / "scan.pdf").write_bytes(encrypted_pdf())
        (folder / "documents.jsonl").write_text(
            '{"doc_id": "tide", "text": "It rises.", "metadata": {"year": 2026}}\n'
            '{"doc_id": "manual", "path": "handbook/tide-mill-manual.pdf", "source": "mill"}\n'
        )
        (folder / "ingestq.toml").write_text(
            '[[schedule]]\nname = "handbook"\npath = "handbook"\n'
            'cron = "0 3 * * mon-fri"\ntimezone = "Europe/Berlin"\n'
        )


def handbook(folder: Path) -> None:
    """Write the example documents, and one with a page without text."""
    shutil.copytree(DOCUMENTS, folder / "handbook")
    blank = full_page(GrayImage(60, 80, bytes([255]) * 60 * 80))
    survey = write_pdf([lines_of("The northern meadow was surveyed in May."), blank])
    (folder / "handbook/survey.pdf").write_bytes(survey)


@pytest.fixture
def output_of(ingestq: Ingestq, request: pytest.FixtureRequest) -> Callable[[Sequence[str]], str]:
    """Runs the commands of pages in an empty folder, and returns what they print.

    Ports and the Redis of the page are free ones and ours, because others may use those.
    """

    def output_of(pages: Sequence[str]) -> str:
        prepared(pages, ingestq.folder)
        ingestq.settings["api_port"] = str(free_port())
        text = "".join(f"```sh\n{BEFORE.get(page, ':')}\n```\n{PAGES[page]}" for page in pages)
        if REDIS in text:
            text = text.replace(REDIS, f"{request.getfixturevalue('debian_redis')}?db=9")
        for theirs, ours in (
            ("8765", ingestq.settings["api_port"]),
            ("8000", str(free_port())),
        ):
            text = text.replace(theirs, ours)
        return run(text, ingestq.folder, ingestq.environment())

    return output_of


@pytest.mark.slow
@pytest.mark.parametrize("pages", RUNS, ids="+".join)
@pytest.mark.timeout(1200)
def test_the_commands_of_the_pages_do_what_they_say(
    pages: Sequence[str], output_of: Callable[[Sequence[str]], str]
) -> None:
    output = output_of(pages)
    for said in (said for page in pages for said in SAID.get(page, ())):
        assert said in output


def test_every_command_to_run_is_run() -> None:
    assert {*SAID, *BEFORE, *(page for pages in TOGETHER for page in pages)} <= {*PAGES}
    for page, text in PAGES.items():
        fences = re.findall(r"^ *```(?:sh|bash|shell)\b", text, re.MULTILINE)
        assert len(blocks(text)) == len(fences), f"{page} has a block in sh that is not run"


def test_a_block_is_repeated_until_its_output_is_there(tmp_path: Path) -> None:
    page = """\
```sh
name=tide
```
```text title="log"
```
```sh
echo $name >> log
wc -l log
```
```text
3 log
```
"""
    assert run(page, tmp_path, dict(os.environ)) == "3 log\n"


@pytest.mark.parametrize(
    ("line", "found"), [("3 of … files", True), ("3 of … sheets", False), ("of 4 files", True)]
)
def test_an_ellipsis_stands_for_anything(line: str, found: bool) -> None:
    [block] = blocks(f"```sh\ntrue\n```\n```text\n{line}\n```\n")
    assert (block.missing("3 of 4 files\nno sheets") == []) is found


@pytest.mark.parametrize(
    ("printed", "found"),
    [
        ({"id": 1, "hits": []}, True),
        ({"id": None, "hits": [{"text": ""}, {"text": "tide"}]}, True),
        ({"id": 1, "hits": [{"text": ""}, {}]}, False),
        ({"id": 1, "hits": None}, False),
        ({"id": 1}, False),
        ({"id": 1, "hits": [], "more": 1}, False),
    ],
)
def test_json_has_the_fields_that_are_shown(printed: object, found: bool) -> None:
    shown = '{"id": 7, "hits": [{"text": "…"}]}'
    [block] = blocks(f"```sh\ntrue\n```\n\n```json\n{shown}\n```\n")
    assert (block.missing(f"loading\n{json.dumps(printed)}\n") == []) is found


def test_a_command_that_fails_fails_the_page(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="false"):
        run("```sh\nfalse\ntrue\n```\n", tmp_path, dict(os.environ))


@pytest.mark.slow
def test_what_cannot_be_written_or_read_is_said(ingestq: Ingestq) -> None:
    (ingestq.folder / "note.md").write_text("The tide rises twice a day.")
    assert ingestq("run", "note.md").code == 0
    assert ingestq("export", "backup.gz").code == 0
    file = ingestq.folder / "backup.gz"
    whole = file.read_bytes()
    ingestq("export", "backup.gz").failed_with(2, "backup.gz exists; pass --force")
    assert file.read_bytes() == whole
    ingestq("export", "none/backup.gz").failed_with(2, "none/backup.gz cannot be written: No such")
    ingestq("export", "-", "--json").failed_with(2, "--json prints to stdout")
    ingestq("import", "backup.gz").failed_with(2, "a collection 'documents' already", "--merge")
    ingestq.settings["collection"] = "other"
    ingestq("import", "backup.gz").failed_with(
        2, "of the collection 'documents'; pass --collection"
    )
    ingestq("export", "other.gz").failed_with(2, "nothing is indexed under 'other' yet")
    full = " ".join(map(str, ingestq.command("export", "-", "--collection", "documents")))
    ended = subprocess.run(
        ["bash", "-c", f"{full} > /dev/full"],
        cwd=ingestq.folder,
        env=ingestq.environment(),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert ended.returncode == 2, ended.stderr
    assert "ingestq: stdout cannot be written: No space left on device" in ended.stderr
    left = {path.name for path in ingestq.folder.iterdir()}
    assert left == {".ingestq", "note.md", "backup.gz"}, "no draft"


@pytest.mark.slow
def test_a_file_that_is_no_whole_export_changes_nothing(ingestq: Ingestq) -> None:
    header = b'{"format":"ingestq-export","version":%d,"ingestq":"9.1.0"}\n'
    file = ingestq.folder / "backup.gz"
    for content, said in (
        (b"# Notes", "is not an export"),
        (gzip.compress(header % 2), "written by ingestq 9.1.0"),
    ):
        file.write_bytes(content)
        ingestq("import", "backup.gz").failed_with(2, "backup.gz", said)
    ingestq("import", "-", "--merge").failed_with(2, "name a file")
    assert [path.name for path in ingestq.folder.iterdir()] == ["backup.gz"]
