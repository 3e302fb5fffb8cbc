"""ingestq installed into a user's project."""

import asyncio
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from ingestq.app.composition import Broker
from ingestq.broker import keys
from ingestq.core.jobs import decode_job
from tests.command import Ingestq
from tests.packaging.conftest import ROOT, Environment
from tests.waiting import eventually

# Each environment takes many seconds to install.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

PROGRAM = """
import asyncio
from ingestq import Document, IngestClient, Lane, QueueFull, Receipt, SubmissionStatus


async def put(url: str) -> SubmissionStatus:
    async with IngestClient.connect(url) as client:
        version: int = await client.issue_version()
        note = Document(doc_id="note", version=version, source="test", text="A note.")
        try:
            receipt: Receipt = await client.submit_many([note], lane=Lane.INTERACTIVE)
        except QueueFull as error:
            raise SystemExit(f"full: {error}") from error
        return await client.status(receipt.submission)


if __name__ == "__main__":
    import sys

    print(asyncio.run(put(sys.argv[1])).accepted)
"""


IMPORT = """
import time
begin = time.process_time()
from ingestq import IngestClient
imported = time.process_time()
for number in range(1_000_000):
    number * number % 7
print((imported - begin) / (time.process_time() - imported))
"""
"""Prints how long the import takes, compared with a known piece of work: machines differ."""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a project with modules named like parts of ingestq."""
    folder = tmp_path / "project"
    (folder / "worker").mkdir(parents=True)
    for module in ("broker.py", "producers.py", "worker/__init__.py"):
        (folder / module).write_text("raise ImportError('this module is of the project itself')")
    (folder / "program.py").write_text(PROGRAM)
    return folder


def test_the_client_is_small(client_environment: Environment, tmp_path: Path) -> None:
    found = client_environment.distributions(tmp_path)
    assert len(found) < 15, found
    assert found.isdisjoint({"arq", "torch", "qdrant-client", "fastapi", "typer", "pydantic"})


def test_the_client_is_imported_quickly(client_environment: Environment, tmp_path: Path) -> None:
    share = min(float(client_environment.answer(IMPORT, tmp_path)) for _ in range(5))
    assert share < 2, "it takes a tenth of a second where the work takes 75 ms"


def test_everything_public_can_be_imported(client_environment: Environment, tmp_path: Path) -> None:
    script = "import ingestq; [getattr(ingestq, name) for name in ingestq.__all__]; "
    script += "from ingestq import *; print(ingestq.__version__, IngestClient.__name__)"
    assert client_environment.answer(script, tmp_path).split() == ["0.1.0", "IngestClient"]


async def test_a_project_can_have_modules_with_our_names(
    client_environment: Environment, broker: Broker, project: Path
) -> None:
    ran = await asyncio.to_thread(
        client_environment.run,
        *(client_environment.python, "program.py", broker.config.url),
        cwd=project,
    )
    assert (ran.stdout, ran.stderr) == ("1\n", "")
    [job_id] = await broker.redis.zrange(keys.QUEUE, 0, -1)
    job = decode_job(await broker.redis.get(keys.JOB + job_id.decode()))
    assert job.batch is not None
    assert [document.doc_id for document in job.batch.documents] == ["note"]


def test_a_remote_blob_store_says_what_to_install(
    client_environment: Environment, tmp_path: Path
) -> None:
    script = """
import asyncio
from ingestq import IngestClient, UsageError

async def connect():
    try:
        async with IngestClient.connect("redis://127.0.0.1:1", blobs="s3://bucket/prefix"):
            pass
    except UsageError as error:
        print(error)

asyncio.run(connect())
"""
    assert "pip install 'ingestq[blobs]'" in client_environment.answer(script, tmp_path)


async def test_a_worker_runs_beside_modules_with_our_names(
    client_environment: Environment, broker: Broker, ingestq: Ingestq, project: Path
) -> None:
    ingestq.folder = project
    ingestq.settings["redis_url"] = broker.config.url
    worker = ingestq.start("worker")
    try:
        client = (client_environment.python, "program.py", broker.config.url)
        queued = await asyncio.to_thread(client_environment.run, *client, cwd=project)
        assert queued.returncode == 0, queued.stderr
        await eventually(broker.queue.is_empty, seconds=600)
    finally:
        worker.terminate()
        _, said = await asyncio.to_thread(worker.communicate)
    assert worker.returncode == 0, said
    found = await ingestq.ended("search", "note", "--json")
    assert [hit["doc_id"] for hit in found.json["hits"]] == ["note"]


def test_programs_of_users_are_type_checked(
    client_environment: Environment, project: Path, tmp_path: Path
) -> None:
    checked = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache")),
            *("--python-executable", client_environment.python, "program.py"),
        ],
        cwd=project,
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_programs_with_wrong_types_are_rejected(
    client_environment: Environment, project: Path, tmp_path: Path
) -> None:
    (project / "program.py").write_text(PROGRAM.replace("version: int", "version: str"))
    checked = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache")),
            *("--python-executable", client_environment.python, "program.py"),
        ],
        cwd=project,
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 1
    assert 'variable has type "str"' in checked.stdout


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [(("status",), "cli"), (("--version",), "cli"), (("worker",), "worker"), (("up",), "all")],
)
def test_the_command_without_its_extra_says_what_to_install(
    client_environment: Environment, tmp_path: Path, arguments: tuple[str, ...], extra: str
) -> None:
    ran = client_environment.run(client_environment.command, *arguments, cwd=tmp_path)
    assert ran.returncode == 2
    [line] = ran.stderr.splitlines()
    assert f"pip install 'ingestq[{extra}]'" in line


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (("worker",), "worker"),
        (("run", "."), "worker"),
        (("search", "tea"), "worker"),
        (("api",), "api"),
        (("up",), "all"),
        (("mcp",), "mcp"),
    ],
)
def test_a_command_says_which_extra_it_needs(
    cli_environment: Environment, tmp_path: Path, arguments: tuple[str, ...], extra: str
) -> None:
    ran = cli_environment.run(cli_environment.command, *arguments, cwd=tmp_path)
    assert ran.returncode == 2, (ran.stdout, ran.stderr)
    assert "Traceback" not in ran.stderr
    assert f"pip install 'ingestq[{extra}]'" in ran.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("address", "extra"),
    [
        ("https://127.0.0.1:9/sitemap.xml", "web"),
        ("imaps://somebody@127.0.0.1:9/INBOX", "imap"),
        ("s3://bucket/folder", "s3"),
    ],
)
def test_an_address_says_which_extra_it_needs(
    cli_environment: Environment, tmp_path: Path, address: str, extra: str
) -> None:
    ran = cli_environment.run(cli_environment.command, "add", address, cwd=tmp_path)
    assert ran.returncode == 2, (ran.stdout, ran.stderr)
    [line] = ran.stderr.splitlines()
    assert f"pip install 'ingestq[{extra}]'" in line


def test_the_commands_queue_without_a_worker(cli_environment: Environment, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("A note.")
    queued = cli_environment.run(cli_environment.command, "add", "note.txt", cwd=tmp_path)
    assert queued.returncode == 0, queued.stderr


def test_version_lists_the_versions(cli_environment: Environment, tmp_path: Path) -> None:
    ran = cli_environment.run(cli_environment.command, "--version", cwd=tmp_path)
    lines = ran.stdout.splitlines()
    assert lines[0] == "ingestq 0.1.0"
    assert lines[1].startswith("Python 3.")
    assert "arq not installed" in lines
    assert any(line.startswith("redis ") and line[6].isdigit() for line in lines)


def test_wheel_and_sdist_contain_data_files(distribution: Path, wheel: Path) -> None:
    packed = set(zipfile.ZipFile(wheel).namelist())
    assert {
        "ingestq/py.typed",
        "ingestq/broker/lua/claim.lua",
        "ingestq/api/dashboard/templates/page.html",
        "ingestq/api/dashboard/assets/style.css",
        "worker/embedding/calibration.txt",
    } <= packed
    assert {name.partition("/")[0] for name in packed if ".dist-info" not in name} == {
        "ingestq",
        "producers",
        "worker",
    }
    [sdist] = distribution.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "tests/conftest.py"} <= names


def test_the_image_is_built_from_what_it_copies(wheel: Path, tmp_path: Path) -> None:
    """The context that .dockerignore leaves makes the same wheel, and metadata before the code."""
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    copies = re.findall(r"^COPY (?!--)(.+)$", dockerfile, re.MULTILINE)
    first, *later = map(str.split, copies)
    context = tmp_path / "context"
    context.mkdir()
    for name in first[:-1]:
        shutil.copy(ROOT / name, context)
    (context / "ingestq").mkdir()
    shutil.copy(ROOT / "ingestq/__init__.py", context / "ingestq")
    for folder in ("producers", "worker"):
        (context / folder).mkdir()
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", str(context), "--outdir"]
    subprocess.run([*build, str(tmp_path / "metadata")], check=True, capture_output=True)
    for source, target in later:
        if (ROOT / source).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / source, context / target, ignore=ignored, dirs_exist_ok=True)
    subprocess.run([*build, str(tmp_path / "whole")], check=True, capture_output=True)
    [early], [whole] = ((tmp_path / name).glob("*.whl") for name in ("metadata", "whole"))
    assert zipfile.ZipFile(early).read(metadata_of(early)) == zipfile.ZipFile(wheel).read(
        metadata_of(wheel)
    )
    assert set(zipfile.ZipFile(whole).namelist()) == set(zipfile.ZipFile(wheel).namelist())


def metadata_of(wheel: Path) -> str:
    [name] = [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith("/METADATA")]
    return name
