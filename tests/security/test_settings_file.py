"""A folder that came from somewhere decides nothing: who may write ingestq.toml, and what in it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command import Ingestq
from tests.qdrant_proxy import QdrantProxy

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
ANOTHER = 12345
GENERATOR = """
[[schedule]]
name = "products"
cron = "0 3 * * *"
generator = "export:products"
"""
EXPORT = """
from pathlib import Path

Path("ran").touch()

async def products():
    yield {"doc_id": "a", "text": "A short text."}
"""


@pytest.fixture
def file(ingestq: Ingestq) -> Path:
    """A settings file with a wrong setting, so that whoever reads it says so."""
    path = ingestq.folder / "ingestq.toml"
    path.write_text("pool_size = 0", encoding="utf-8")
    path.chmod(0o644)
    ingestq.folder.chmod(0o755)
    del ingestq.settings["pool_size"]  # it would count for more
    return path


def write(file: Path, content: str) -> None:
    file.write_text(content, encoding="utf-8")


def test_a_file_that_only_the_user_can_write_is_used(ingestq: Ingestq, file: Path) -> None:
    ingestq("status").failed_with(2, "pool_size in ingestq.toml is 0")


@pytest.mark.parametrize("writable", ["file", "folder"])
def test_a_file_that_others_can_write_is_refused(
    ingestq: Ingestq, file: Path, writable: str
) -> None:
    path = file if writable == "file" else ingestq.folder
    path.chmod(0o777)
    refused = ingestq.refusal()
    for said in ("other users can write", f"chmod go-w {path}", f"INGESTQ_CONFIG={file}"):
        assert said in refused
    path.chmod(0o755)
    assert "pool_size in ingestq.toml is 0" in ingestq.refusal()


def test_a_file_that_another_group_can_write_is_refused(ingestq: Ingestq, file: Path) -> None:
    file.chmod(0o664)
    private = file.stat().st_gid == file.stat().st_uid
    said = "pool_size in ingestq.toml is 0" if private else "other users can write"
    assert said in ingestq.refusal()


@AS_ROOT
def test_a_file_of_a_shared_group_is_refused(ingestq: Ingestq, file: Path) -> None:
    os.chown(file, -1, ANOTHER)
    file.chmod(0o664)
    assert "other users can write to ingestq.toml" in ingestq.refusal()


def test_a_file_in_a_folder_like_tmp_is_used(ingestq: Ingestq, file: Path) -> None:
    ingestq.folder.chmod(0o1777)
    assert "pool_size in ingestq.toml is 0" in ingestq.refusal()


@AS_ROOT
@pytest.mark.parametrize("given", ["file", "folder"])
def test_a_file_of_another_user_is_refused_unless_it_is_named(
    ingestq: Ingestq, file: Path, given: str
) -> None:
    os.chown(file if given == "file" else ingestq.folder, ANOTHER, ANOTHER)
    refused = ingestq("status", "--json")
    refused.failed_with(2, f"another user (uid {ANOTHER})", f"INGESTQ_CONFIG={file}")
    assert refused.json.keys() == {"error"}
    ingestq.settings["config"] = str(file)
    assert f"pool_size in {file} is 0" in ingestq.refusal()


@AS_ROOT
def test_a_link_to_a_file_of_another_user_is_refused(ingestq: Ingestq, file: Path) -> None:
    target = file.rename(ingestq.folder / "target.toml")
    os.chown(target, ANOTHER, ANOTHER)
    file.symlink_to(target)
    assert f"another user (uid {ANOTHER})" in ingestq.refusal()


def test_a_file_in_another_folder_can_be_named(ingestq: Ingestq, file: Path) -> None:
    (ingestq.folder / "conf").mkdir()
    named = file.rename(ingestq.folder / "conf" / "other.toml")
    assert ingestq("dead", "list").code == 0, "no file is found"
    ingestq.settings["config"] = "conf/other.toml"
    assert "pool_size in conf/other.toml is 0" in ingestq.refusal()
    named.unlink()
    assert "INGESTQ_CONFIG: conf/other.toml cannot be read: No such file" in ingestq.refusal()


@pytest.mark.parametrize("kind", ["pipe", "folder", "dangling", "binary", "huge"])
def test_what_is_no_settings_file_is_one_line(ingestq: Ingestq, file: Path, kind: str) -> None:
    file.unlink()
    match kind:
        case "pipe":
            os.mkfifo(file)
        case "folder":
            file.mkdir()
        case "dangling":
            file.symlink_to("nowhere")
        case "binary":
            file.write_bytes(b"\xff\xfe")
        case "huge":
            file.write_text("#" * 2_000_000, encoding="utf-8")
    said = ingestq.refusal()
    assert "ingestq.toml" in said
    assert "\n" not in said


@pytest.mark.slow
def test_a_found_file_cannot_run_code(ingestq: Ingestq, file: Path) -> None:
    file.write_text(GENERATOR, encoding="utf-8")
    (ingestq.folder / "export.py").write_text(EXPORT, encoding="utf-8")
    for command in (("status",), ("schedule", "run", "products"), ("scheduler",), ("up",)):
        ingestq(*command).failed_with(2, "a generator, which is code", f"INGESTQ_CONFIG={file}")
    assert not (ingestq.folder / "ran").exists()
    ingestq.settings["config"] = "ingestq.toml"
    assert ingestq("schedule", "list").code == 0
    assert not (ingestq.folder / "ran").exists()


@pytest.mark.slow
async def test_a_found_file_cannot_choose_where_a_key_is_sent(
    ingestq: Ingestq, file: Path, proxied_qdrant: QdrantProxy
) -> None:
    write(file, f'qdrant_url = "{proxied_qdrant.url}"')
    assert (await ingestq.ended("search", "x")).code == 0, "no key is sent"
    ingestq.settings["qdrant_api_key"] = "sk-mine"
    refused = await ingestq.ended("search", "x")
    refused.failed_with(2, "qdrant_url", "INGESTQ_QDRANT_API_KEY", f"INGESTQ_CONFIG={file}")
    ingestq.settings["qdrant_url"] = proxied_qdrant.url
    assert (await ingestq.ended("search", "x")).code == 0, "the environment has the URL, too"
    del ingestq.settings["qdrant_url"]
    ingestq.settings["config"] = "ingestq.toml"
    assert (await ingestq.ended("search", "x")).code == 0, "the user trusts the file"


def test_a_key_of_the_environment_is_not_sent_whatever_case_it_has(
    ingestq: Ingestq, file: Path
) -> None:
    file.write_text(
        'embeddings_url = "http://127.0.0.1:1/v1"\nembeddings_api_key = "x"', encoding="utf-8"
    )
    assert "names" not in ingestq("status").err
    ran = subprocess.run(
        ingestq.command("status"),
        cwd=ingestq.folder,
        env=ingestq.environment() | {"ingestq_embeddings_api_key": "sk-mine"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 2
    assert "the embeddings_url to which INGESTQ_EMBEDDINGS_API_KEY would be sent" in ran.stderr


def test_a_working_directory_that_is_gone_is_one_line(ingestq: Ingestq) -> None:
    gone = ingestq.folder / "gone"
    gone.mkdir()
    command = f"cd {gone} && rmdir {gone} && exec {ingestq.command()[0]} status"
    ran = subprocess.run(
        ["sh", "-c", command],
        env=ingestq.environment() | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 2, ran.stderr
    assert "the working directory does not exist any more" in ran.stderr
    assert "Traceback" not in ran.stderr
