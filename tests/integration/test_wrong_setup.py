"""An unreachable service or a wrong setting: one line that says what to do."""

from pathlib import Path

import pytest
from qdrant_client import models

from tests.bundled import bundled_qdrant
from tests.command import Ingestq
from tests.qdrant_proxy import QdrantProxy

NOBODY = "127.0.0.1:1"


@pytest.fixture
def note(ingestq: Ingestq) -> Path:
    path = ingestq.folder / "note.txt"
    path.write_text("A short note.")
    return path


@pytest.mark.parametrize(
    "command",
    [("add", "note.txt", "--json"), ("status", "--json"), ("verify", "--json"), ("worker",)],
)
def test_an_unreachable_redis_is_named(
    ingestq: Ingestq, note: Path, command: tuple[str, ...]
) -> None:
    ingestq.settings["redis_url"] = f"redis://:secret@{NOBODY}/0"
    ran = ingestq(*command)
    ran.failed_with(3, "Redis does not answer", NOBODY, "INGESTQ_REDIS_URL")
    assert "secret" not in ran.err
    if "--json" in command:
        assert ran.json.keys() == {"error"}
        assert f"ingestq: {ran.json['error']}\n" in ran.err


@pytest.mark.parametrize("command", [("search", "x"), ("status",)])
def test_an_unreachable_qdrant_is_named(ingestq: Ingestq, command: tuple[str, ...]) -> None:
    ingestq.settings["qdrant_url"] = f"http://{NOBODY}"
    ingestq(*command).failed_with(3, "Qdrant does not answer", NOBODY, "INGESTQ_QDRANT_URL")


def test_an_unreachable_qdrant_stops_a_run(ingestq: Ingestq, note: Path) -> None:
    ingestq.settings["qdrant_url"] = f"http://{NOBODY}"
    ingestq("run", note).failed_with(3, "Qdrant does not answer")


@pytest.mark.parametrize(
    "model",
    ["./no-such-model", pytest.param("nobody/no-such-model-anywhere", marks=pytest.mark.slow)],
)
def test_a_missing_model_is_named(ingestq: Ingestq, note: Path, model: str) -> None:
    ingestq.settings["model"] = model
    ran = ingestq("run", note)
    ran.failed_with(2, f"'{model}' cannot be loaded", "INGESTQ_MODEL")
    assert ran.err.count("\n") == 2, "the model is being loaded, and why it was not"


async def test_a_collection_with_another_dimension_is_refused(ingestq: Ingestq, note: Path) -> None:
    config = models.VectorParams(size=768, distance=models.Distance.COSINE)
    async with bundled_qdrant(ingestq.folder / ".ingestq") as qdrant:
        await qdrant.ask(lambda client: client.create_collection("documents", config))
        ran = await ingestq.ended("run", note)
    ran.failed_with(2, "768 dimensions", "384", "INGESTQ_COLLECTION")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pool_size", "0"),
        ("pool_size", "many"),
        ("collection", "a/b"),
        ("redis_url", "http://here"),
        ("blob_url", "memory://here"),
        ("max_document_bytes", "-1"),
        ("api_port", "70000"),
    ],
)
def test_a_wrong_setting_is_named(ingestq: Ingestq, name: str, value: str) -> None:
    ingestq.settings[name] = value
    said = ingestq.refusal()
    assert f"INGESTQ_{name.upper()}" in said
    assert value in said


def test_a_wrong_settings_file_is_named(ingestq: Ingestq) -> None:
    file = ingestq.folder / "ingestq.toml"
    file.write_text("pool_sise = 2")
    ingestq("status").failed_with(2, "ingestq.toml", "pool_sise")
    file.write_text("pool_size = ")
    assert "ingestq.toml" in ingestq.refusal()


def test_an_unusable_data_directory_is_named(ingestq: Ingestq) -> None:
    (ingestq.folder / "file").touch()
    ingestq.settings["data_dir"] = "file"
    ingestq("status").failed_with(2, "INGESTQ_DATA_DIR")


@pytest.mark.parametrize("command", [("status",), ("run", "."), ("dead", "list"), ("doctor",)])
def test_with_json_a_wrong_setting_is_a_json_error(
    ingestq: Ingestq, command: tuple[str, ...]
) -> None:
    ingestq.settings["pool_size"] = "0"
    ran = ingestq(*command, "--json")
    ran.failed_with(2, "INGESTQ_POOL_SIZE is '0'")
    assert ran.json.keys() == {"error"}
    assert f"ingestq: {ran.json['error']}\n" == ran.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("search", "--limit", "0", "x", "--json"), "--limit"),
        (("search", "--json"), "QUERY"),
        (("search", "x", "--no-such-option", "--json"), "--no-such-option"),
        (("no-such-command", "--json"), "no-such-command"),
        (("search", "--dense", "--sparse", "x", "--json"), "--dense and --sparse"),
    ],
)
def test_with_json_a_wrong_command_line_is_a_json_error(
    ingestq: Ingestq, arguments: tuple[str, ...], said: str
) -> None:
    ran = ingestq(*arguments)
    assert ran.code == 2
    assert said in ran.json["error"]
    assert said in ran.err


@pytest.mark.parametrize("name", ["embeddings_api_key", "api_token"])
def test_a_secret_of_the_wrong_type_is_not_printed(ingestq: Ingestq, name: str) -> None:
    (ingestq.folder / "ingestq.toml").write_text(f"{name} = 5678123", encoding="utf-8")
    said = ingestq.refusal()
    assert f"{name} in ingestq.toml is '***'" in said
    assert "5678123" not in said


def test_the_password_in_a_wrong_url_is_not_printed(ingestq: Ingestq) -> None:
    ingestq.settings["blob_url"] = "memory://key:hunter2@bucket"
    ran = ingestq("status")
    ran.failed_with(2, "INGESTQ_BLOB_URL is 'memory://bucket'")
    assert "hunter2" not in ran.err


async def test_the_doctor_finds_a_misspelt_variable_and_prints_no_secrets_of_urls(
    ingestq: Ingestq, proxied_qdrant: QdrantProxy
) -> None:
    (ingestq.folder / "other.toml").touch()
    ingestq.settings |= {
        "qdrant_url": proxied_qdrant.url.replace("://", "://user:hunter2@"),
        "config": "other.toml",
        "colection": "notes",
    }
    ran = await ingestq.ended("doctor")
    assert ran.code == 0, ran.out
    assert "INGESTQ_COLECTION is not an ingestq setting" in ran.out
    assert "INGESTQ_CONFIG" not in ran.out, "it names the file"
    assert "http://127.0.0.1" in ran.out
    assert "user" not in ran.out
    assert "hunter2" not in ran.out + ran.err


@pytest.mark.slow
def test_the_doctor_says_what_to_fix_and_which_limits_are_in_force(ingestq: Ingestq) -> None:
    ingestq.settings |= {
        "redis_url": f"redis://{NOBODY}",
        "blob_url": "blobs",
        "parse_memory_bytes": str(700 * 1024 * 1024),
        "oom_score_adj": "321",
    }
    (ingestq.folder / "blobs").touch()
    ran = ingestq("doctor", "--json")
    assert ran.code == 3
    wrong = [finding for finding in ran.json["findings"] if finding["result"] == "wrong"]
    assert [finding["check"] for finding in wrong] == ["redis", "blobs"]
    assert "INGESTQ_REDIS_URL" in wrong[0]["detail"]
    assert "INGESTQ_BLOB_URL" in wrong[1]["detail"]
    details = {finding["check"]: finding["detail"] for finding in ran.json["findings"]}
    for words in ("700 MiB", "60 s", "321", "mode 700"):
        assert words in details["parse process"]
    assert "4,096 MiB" in details["embedding process"]


def test_the_bundled_redis_has_no_replicas(ingestq: Ingestq) -> None:
    ingestq.settings["redis_replicas"] = "1"
    (ingestq.folder / "note.txt").write_text("A short note.")
    ingestq("add", "note.txt").failed_with(2, "INGESTQ_REDIS_REPLICAS is 1", "INGESTQ_REDIS_URL")


def test_a_missing_file_of_certificates_is_named(ingestq: Ingestq) -> None:
    ingestq.settings |= {"qdrant_url": f"https://{NOBODY}", "qdrant_ca_file": "ca.pem"}
    ingestq("status").failed_with(2, "INGESTQ_QDRANT_CA_FILE is 'ca.pem'", "No such file")
