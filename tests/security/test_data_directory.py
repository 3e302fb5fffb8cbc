"""Nobody else reads the queue, the vectors or the blobs, or gives us a directory of theirs."""

import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command import Ingestq
from tests.running_command import running

NOBODY = 65534
OTHERS = 0o077
DEEP = Path(*["deep" * 10] * 3)


@pytest.fixture(autouse=True)
def usual_umask() -> None:
    os.umask(0o022)


@pytest.fixture
def note(ingestq: Ingestq) -> Path:
    path = ingestq.folder / "note.txt"
    path.write_text("A note about the tide. " * 20_000)
    return path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.mark.slow
def test_a_run_makes_nothing_that_others_can_read(ingestq: Ingestq, note: Path) -> None:
    assert ingestq("run", note).code == 0
    assert ingestq("doctor").code == 0  # writes a blob
    data = ingestq.folder / ".ingestq"
    assert mode(data) == 0o700
    assert {path.name for path in data.iterdir()} == {"redis", "qdrant", "blobs", "version.json"}
    of_servers = [path for name in ("redis", "qdrant") for path in (data / name).rglob("*")]
    assert [path for path in (*data.iterdir(), *of_servers) if mode(path) & OTHERS] == []


@pytest.mark.slow
def test_an_open_data_directory_is_closed(ingestq: Ingestq, note: Path) -> None:
    data = ingestq.folder / ".ingestq"
    for name in ("redis", "qdrant", "blobs"):
        (data / name).mkdir(parents=True)
    assert mode(data) & OTHERS
    assert ingestq("run", note).code == 0
    assert ingestq("doctor").code == 0
    for path in (data, *data.iterdir()):
        assert mode(path) == (0o700 if path.is_dir() else 0o600)


@pytest.mark.slow
def test_a_directory_with_other_files_stays_open_but_ours_in_it_are_closed(
    ingestq: Ingestq, note: Path
) -> None:
    shared = ingestq.folder / "shared"
    shared.mkdir()
    (shared / "other").touch()
    shared.chmod(0o755)
    ingestq.settings["data_dir"] = str(shared)
    assert ingestq("run", note).code == 0
    assert mode(shared) == 0o755
    assert mode(shared / "redis") == mode(shared / "qdrant") == 0o700


def of_somebody_else(folder: Path) -> Path:
    """Return a directory of another user; ``folder`` if it can be given away."""
    if os.geteuid() != 0:
        return Path("/")
    folder.mkdir()
    os.chown(folder, NOBODY, NOBODY)
    return folder


@pytest.mark.parametrize("command", [("status",), ("search", "tide")])
def test_a_data_directory_of_somebody_else_is_refused(
    ingestq: Ingestq, command: tuple[str, ...]
) -> None:
    data = of_somebody_else(ingestq.folder / "theirs")
    ingestq.settings["data_dir"] = str(data)
    ingestq(*command).failed_with(2, "INGESTQ_DATA_DIR", f"{data} belongs to the user")


# The directory of the socket, if the path of the data directory is too long for one.


@pytest.fixture
def deep(ingestq: Ingestq, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The place of the directory for sockets, which a command with a long path needs."""
    with tempfile.TemporaryDirectory(prefix="q") as temporary:  # pytest's own paths are long
        monkeypatch.setenv("TMPDIR", temporary)
        monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
        ingestq.settings["data_dir"] = str(ingestq.folder / DEEP)
        yield Path(temporary, f"ingestq-{os.geteuid()}")


@pytest.mark.slow
def test_the_directory_for_sockets_is_private(ingestq: Ingestq, deep: Path) -> None:
    note = ingestq.folder / "note.txt"
    note.write_text("A short note.", encoding="utf-8")
    with running(ingestq, "api") as api:
        api.says("api.started")
        assert ingestq("run", note).code == 0
        assert ingestq("status").code == 0
        [socket] = deep.iterdir()
        assert mode(socket) & OTHERS == 0
        assert mode(deep) == 0o700


@pytest.mark.slow
@pytest.mark.parametrize("trap", ["link", "file", "theirs"])
def test_a_directory_that_somebody_prepared_is_refused(
    ingestq: Ingestq, deep: Path, trap: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    match trap:
        case "link":
            (ingestq.folder / "elsewhere").mkdir()
            deep.symlink_to(ingestq.folder / "elsewhere")
        case "file":
            deep.touch()
        case "theirs":
            if of_somebody_else(deep) != deep:
                pytest.skip("only root can give a directory away")
    ingestq("status").failed_with(2, str(deep), "INGESTQ_DATA_DIR to a shorter path")

    runtime = deep.parent / "run"
    runtime.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    assert ingestq("status").code == 0


def test_processes_with_other_environments_share_one_server(
    ingestq: Ingestq, deep: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(ingestq, "api") as api:
        api.says("api.started")
        pid = (ingestq.folder / DEEP / "redis" / "server.pid").read_text()
        runtime = deep.parent / "run"
        runtime.mkdir(mode=0o700)
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
        assert ingestq("status").code == 0
        assert (ingestq.folder / DEEP / "redis" / "server.pid").read_text() == pid


@pytest.mark.slow
def test_a_damaged_catalog_is_one_line_and_buries_nothing(ingestq: Ingestq, note: Path) -> None:
    note.write_text("A short note.", encoding="utf-8")
    assert ingestq("run", note).code == 0
    catalog = ingestq.folder / ".ingestq" / "qdrant" / "catalog.json"
    catalog.write_bytes(b"nonsense" + catalog.read_bytes()[8:])
    before = catalog.read_bytes()
    (ingestq.folder / "second.txt").write_text("A second note.")
    ingestq("run", "second.txt").failed_with(3, str(catalog), "damaged", "index the sources again")
    assert catalog.read_bytes() == before
    catalog.parent.rename(ingestq.folder / "damaged")
    assert ingestq("status", "--json").json["dead_letters"] == 0
