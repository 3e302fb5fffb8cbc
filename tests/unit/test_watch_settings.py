"""Which folders are watched: by the command line and by ingestq.toml."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ingestq.app.settings import Settings, load_settings
from ingestq.app.settings_file import find_settings_file
from ingestq.app.watch import RemoteFolder, WatchRequest, watched_folders
from ingestq.core.errors import UsageError
from producers.watch.folder import WatchedFolder
from worker.embedding.config import find_model

NOBODY = "~nobody-at-all"

TABLES = """
[[drop]]
path = "in"
source = "notes"
tenant = "island"
include = ["*.md"]
exclude = ["draft.*"]
metadata = {shelf = 7, tags = ["a"]}

[[drop]]
path = "in/sub"
collection = "handbook"
"""
TWICE = """
[[drop]]
path = "in"

[[drop]]
path = "in"
collection = "{collection}"
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in" / "sub").mkdir(parents=True)
    (tmp_path / "note.txt").write_text("x")
    return tmp_path


def watched(
    *folders: str, source: str | None = None, toml: str = ""
) -> list[WatchedFolder | RemoteFolder]:
    Path("ingestq.toml").write_text(toml, encoding="utf-8")
    wanted = WatchRequest(folders, source, allow_mass_delete=False)
    return watched_folders(wanted, load_settings())


def test_drop_tables_name_the_folders(here: Path) -> None:
    assert watched(toml=TABLES) == [
        WatchedFolder(
            here / "in",
            "notes",
            "island",
            ("*.md",),
            ("draft.*",),
            {"shelf": 7, "tags": ["a"]},
            "documents",
        ),
        WatchedFolder(here / "in" / "sub", collection="handbook"),
    ]


def test_named_folders_replace_the_tables(here: Path) -> None:
    named = WatchedFolder(here / "in", "x", collection="documents")
    assert watched("in", source="x", toml=TABLES) == [named]
    none = WatchRequest((), None, allow_mass_delete=False)
    Path("ingestq.toml").write_text("", encoding="utf-8")
    assert watched_folders(none, load_settings(), required=False) == []


def test_one_folder_may_feed_two_collections() -> None:
    folders = watched(toml=TWICE.format(collection="handbook"))
    assert [folder.collection for folder in folders] == ["documents", "handbook"]
    assert load_settings().collections == ("documents", "handbook")


def test_a_folder_is_hot_by_table_or_by_option(here: Path) -> None:
    tables = '[[drop]]\npath = "in/sub"\nmode = "hot"\n[[drop]]\npath = "in"\ntenant = "x"'
    assert [getattr(folder, "hot", None) for folder in watched(toml=tables)] == [True, False]
    wanted = WatchRequest(("in",), None, allow_mass_delete=False, hot=True)
    [folder] = watched_folders(wanted, load_settings())
    assert isinstance(folder, WatchedFolder)
    assert (folder.path, folder.hot) == (here / "in", True)


@pytest.mark.parametrize(
    ("folders", "source", "toml", "message"),
    [
        (["note.txt"], None, "", "note.txt cannot be watched"),
        (["in", "in"], None, "", "cannot both be watched"),
        (["in", "in/sub"], "x", "", "--source names one folder"),
        ([], "x", TABLES, "--source names one folder"),
        (["in"], "", "", "--source is empty"),
        ([], None, TWICE.format(collection="documents"), "cannot both be watched"),
        ([], None, TWICE.format(collection="a/b"), "drop.1.collection in ingestq.toml is 'a/b'"),
        ([], None, TWICE.format(collection="a__ledger"), "reserved for ingestq"),
        ([], None, '[[drop]]\npath = "in"\nmode = "cold"', "drop.0.mode in ingestq.toml"),
        ([], None, '[[drop]]\nsource = "x"', "set exactly one of path and url"),
        (["in", "s3://u:p@b/x"], None, "", "a password must not be in the address"),
        ([], None, '[[drop]]\nurl = "s3://b"\nmode = "hot"', "cannot be a hot folder"),
        ([], None, '[[drop]]\npath = "in"\ninclude = "*.md"', "drop.0.include in ingestq.toml"),
        ([], None, '[[drop]]\npath = "in"\nexclude = ["!"]', "exclude of the folder in: Invalid"),
        ([], None, '[[drop]]\npath = "in"\nmetadata = {day = 2024-01-01}', "drop.0.metadata.day"),
    ],
)
def test_a_usage_error_names_the_setting(
    folders: list[str], source: str | None, toml: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message.replace("[", r"\[")):
        watched(*folders, source=source, toml=toml)


def test_an_environment_variable_that_is_not_json_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INGESTQ_DROP", "in")
    with pytest.raises(UsageError, match='"drop"'):
        load_settings()


@pytest.mark.parametrize(
    "use",
    [
        lambda: watched(f"{NOBODY}/docs"),
        lambda: watched(toml=f'[[drop]]\npath = "{NOBODY}/docs"'),
        lambda: find_settings_file(f"{NOBODY}/ingestq.toml"),
        lambda: find_model(f"{NOBODY}/model"),
        lambda: Settings.model_validate({"blob_url": f"{NOBODY}/blobs"}).blobs,
        lambda: Settings(imap_ca_file=Path(f"{NOBODY}/ca.pem")).remote_access,
    ],
)
def test_the_home_directory_of_nobody_is_refused(use: Callable[[], object]) -> None:
    with pytest.raises(UsageError, match="no home directory of 'nobody-at-all'"):
        use()
