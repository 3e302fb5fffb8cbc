"""The bundled Redis: killed, full, damaged, unreachable or deleted, it stops nobody for good."""

import asyncio
import fcntl
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, suppress
from functools import partial
from pathlib import Path

import httpx
import pytest

from ingestq.broker.connection import BrokerConfig, connected
from ingestq.broker.queue.job_queue import JobQueue
from ingestq.core.errors import BrokerUnavailable, StoreUnavailable
from ingestq.embedded import guard
from ingestq.embedded.engine import open_engine
from ingestq.embedded.lock_file import acquire, exclusive, open_lock
from ingestq.embedded.redis import open_redis
from tests.bundled import is_held, redis_folder, redis_is_alive, redis_pid
from tests.command import SECONDS, Ingestq
from tests.running_command import Running, running
from tests.waiting import eventually

KILLS = 4
DISK_BYTES = 12 * 1024 * 1024
NOTE = "A note about the tide. "


@pytest.fixture
def api(ingestq: Ingestq) -> Iterator[Running]:
    """A running API on the bundled Redis."""
    with running(ingestq, "api") as command:
        command.says("api.started")
        yield command


async def ready(ingestq: Ingestq) -> int:
    return int((await ingestq.ended("status", "--json")).json["queue"]["ready"])


# Killed


@pytest.mark.slow
async def test_documents_are_indexed_while_redis_is_killed(ingestq: Ingestq) -> None:
    # A restart of Redis takes seconds on a busy machine, and must not cost the leases.
    ingestq.settings["lease_seconds"] = "15"
    folders = [ingestq.folder / f"folder-{i}" for i in range(KILLS)]
    for folder in folders:
        folder.mkdir()
        for i in range(20):
            (folder / f"{i}.txt").write_text(f"{NOTE}{folder.name} {i}. " * 60)
    with running(ingestq, "up") as up:
        up.says("worker.started")
        logs, at_work = [], 0
        for folder in folders:
            adding = ingestq.start("add", folder, "--wait", "--json")
            at_work += await is_at_work(ingestq, adding)
            pid = redis_pid(ingestq)
            os.kill(pid, signal.SIGKILL)
            try:
                out, err = await asyncio.to_thread(adding.communicate, timeout=120)
            except subprocess.TimeoutExpired:
                adding.kill()
                pytest.fail(f"the documents are not indexed:\n{up.said()}")
            assert adding.returncode == 0, (err, up.said())
            counts = json.loads(out)["documents"]
            # What was indexed before its lease was over, but not said to Redis, is then unchanged.
            assert counts["indexed"] + counts["unchanged"] == 20, out
            await eventually(partial(has_restarted, ingestq, pid))
            logs.append(err)
        assert at_work, "no worker was at work"
        assert "redis.restarted" in up.said() + "".join(logs)  # whoever needs it first restarts it
        up.tell(signal.SIGTERM)
        up.ends(0)
    status = ingestq("status", "--json").json
    assert status["collection"]["documents"] == KILLS * 20
    assert status["dead_letters"] == 0
    assert not redis_is_alive(ingestq)


async def has_restarted(ingestq: Ingestq, pid: int) -> bool:
    """Return whether another Redis runs than that of ``pid``, which was killed."""
    with suppress(OSError, ValueError):  # it is being started
        return redis_pid(ingestq) != pid
    return False


async def is_at_work(ingestq: Ingestq, adding: "subprocess.Popen[str]") -> bool:
    """Wait until a worker has a job of a command; return False if it has ended before."""
    config = BrokerConfig(f"unix://{redis_folder(ingestq) / 'redis.sock'}")
    async with connected(config) as redis:
        queue = JobQueue(redis, config)

        async def looked_at() -> tuple[bool, bool]:
            return bool((await queue.depth()).in_flight), adding.poll() is not None

        in_flight, _ = await eventually(looked_at, any, 120)
    return in_flight


@pytest.mark.slow
async def test_whoever_uses_a_killed_redis_restarts_it(ingestq: Ingestq, api: Running) -> None:
    def accepted(i: int) -> httpx.Response:
        body = {"doc_id": str(i), "source": "s", "text": NOTE}
        return httpx.post(f"{api.url}/documents", json=body, timeout=60)

    async def is_accepted(i: int) -> bool:
        return (await asyncio.to_thread(accepted, i)).status_code == 202

    for i in range(KILLS):
        pid = redis_pid(ingestq)
        os.kill(pid, signal.SIGKILL)
        await eventually(partial(is_accepted, i))
    assert await ready(ingestq) == KILLS
    assert "redis.stopped" in api.said()
    assert "it was killed" in api.said()


# A full disk


@pytest.fixture
def disk(ingestq: Ingestq) -> Iterator[Path]:
    """The data directory on a small disk of its own; skipped where none can be mounted."""
    folder = ingestq.folder / ".ingestq"
    folder.mkdir(mode=0o700)
    options = f"size={DISK_BYTES},mode=0700,uid={os.geteuid()},gid={os.getegid()}"
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    for as_root in ([], ["sudo", "-n"]):
        if shutil.which((as_root or mount)[0]) is None:
            continue
        if subprocess.run([*as_root, *mount], capture_output=True, check=False).returncode == 0:
            yield folder
            subprocess.run([*as_root, "umount", "--lazy", str(folder)], check=True)
            return
    pytest.skip("no file system can be mounted here")


@pytest.mark.slow
async def test_a_full_disk_is_said_and_work_resumes_when_there_is_space(
    disk: Path, ingestq: Ingestq, api: Running
) -> None:
    ballast = disk / "ballast"
    accepted: set[str] = set()

    async def submit(doc_id: str) -> httpx.Response:
        body = {"doc_id": doc_id, "source": "s", "text": NOTE * 1000}
        url = f"{api.url}/documents"
        return await asyncio.to_thread(httpx.post, url, json=body, timeout=60)

    async def refused() -> httpx.Response | None:
        answer = await submit(f"document {len(accepted)}")
        if answer.status_code == 202:
            accepted.add(f"document {len(accepted)}")
            return None
        return answer

    ballast.write_bytes(bytes(DISK_BYTES - 1024 * 1024))
    answer = await eventually(refused)
    assert answer is not None
    assert answer.status_code == 503

    async def reason() -> str:
        answer = await refused()
        return "" if answer is None else answer.text

    said = await eventually(reason, lambda text: "the disk is full" in text)
    assert str(disk) in said
    api.says("the disk is full")
    (await ingestq.ended("status")).failed_with(3, "the disk is full", str(disk))
    assert accepted

    ballast.unlink()

    async def is_accepted() -> bool:
        return (await submit("the last one")).status_code == 202

    await eventually(is_accepted)
    assert await ready(ingestq) == len(accepted) + 1
    api.says("redis.restarted")
    api.tell(signal.SIGTERM)
    api.ends(0)


# Damaged files


@pytest.fixture
def damaged(ingestq: Ingestq) -> Path:
    """An append-only file with two documents, damaged where the second one begins."""
    for name in "ab":
        (ingestq.folder / f"{name}.txt").write_text(NOTE)
    assert ingestq("add", "a.txt").code == 0
    [file] = (redis_folder(ingestq) / "appendonlydir").glob("*.incr.aof")
    good = file.stat().st_size
    assert ingestq("add", "b.txt").code == 0
    content = file.read_bytes()
    file.write_bytes(content[:good] + b"nonsense" + content[good + 8 :])
    return file


def test_a_damaged_file_can_be_repaired_with_the_commands_that_are_named(
    ingestq: Ingestq, damaged: Path
) -> None:
    before = damaged.read_bytes()
    failed = ingestq("status")
    failed.failed_with(3, f"{damaged} is damaged; nothing was changed", "index the sources")
    assert damaged.read_bytes() == before
    found = re.search(r"run `(.*)` and", failed.err)
    assert found is not None, failed.err
    subprocess.run(found[1], shell=True, input=b"y\n", check=True, stdout=subprocess.DEVNULL)
    assert ingestq("status", "--json").json["queue"]["ready"] == 1
    assert damaged.with_name(damaged.name + ".damaged").read_bytes() == before


def test_a_damaged_base_is_named_and_can_be_moved_away(ingestq: Ingestq) -> None:
    (ingestq.folder / "a.txt").write_text(NOTE)
    assert ingestq("add", "a.txt").code == 0
    [file] = (redis_folder(ingestq) / "appendonlydir").glob("*.base.rdb")
    file.write_bytes(b"nonsense" + file.read_bytes()[8:])
    folder = redis_folder(ingestq)
    ingestq("status").failed_with(3, f"move {folder} away", "index the sources")
    folder.rename(folder.with_name("redis.damaged"))
    assert ingestq("status", "--json").json["queue"]["ready"] == 0


# The socket and the locks


async def test_a_deleted_socket_does_not_hang_anybody(ingestq: Ingestq, api: Running) -> None:
    pid = redis_pid(ingestq)
    (redis_folder(ingestq) / "redis.sock").unlink()
    assert await ready(ingestq) == 0
    assert redis_pid(ingestq) != pid
    (redis_folder(ingestq) / "redis.sock").unlink()
    api.tell(signal.SIGTERM)
    api.ends(0)
    assert not redis_is_alive(ingestq)


def test_a_server_that_was_left_without_a_socket_is_replaced(
    ingestq: Ingestq, api: Running
) -> None:
    os.kill(int((redis_folder(ingestq) / "guard.lock").read_text()), signal.SIGKILL)
    pid = redis_pid(ingestq)
    killed(api)
    (redis_folder(ingestq) / "redis.sock").unlink()
    assert ingestq("status").code == 0
    assert not Path(f"/proc/{pid}/exe").exists()
    assert not redis_is_alive(ingestq)


def killed(command: Running) -> None:
    command.process.kill()
    command.process.wait()


async def locks_are_free(*folders: Path) -> None:
    """Wait until the bundled servers of ``folders`` have ended, and their guards."""
    locks = [folder / f"{lock}.lock" for folder in folders for lock in ("alive", "guard")]

    async def held() -> list[Path]:
        return [lock for lock in locks if await asyncio.to_thread(is_held, lock)]

    await eventually(held, lambda locks: locks == [])


async def test_a_server_ends_when_its_last_user_is_killed(ingestq: Ingestq, api: Running) -> None:
    killed(api)
    await locks_are_free(redis_folder(ingestq))


async def test_a_server_has_to_lose_all_users(ingestq: Ingestq, api: Running) -> None:
    async with open_redis(ingestq.folder / ".ingestq"):
        killed(api)
        await asyncio.sleep(3 * guard.POLL_SECONDS)
        assert redis_is_alive(ingestq)
    await locks_are_free(redis_folder(ingestq))


async def test_a_server_whose_guard_was_killed_gets_another(ingestq: Ingestq, api: Running) -> None:
    os.kill(int((redis_folder(ingestq) / "guard.lock").read_text()), signal.SIGKILL)
    async with open_redis(ingestq.folder / ".ingestq"):
        pass
    killed(api)
    await locks_are_free(redis_folder(ingestq))


RENAMED_AND_KILLED = """
async def main():
    async with open_redis(Path("begun").absolute()):
        pass
    Path("begun").rename("data")  # as a migration does when the new index is complete
    async with open_redis(Path("data").absolute()):
        os.kill(os.getpid(), signal.SIGKILL)
"""
KILLED_WHILE_IT_STARTS = """
def run(*arguments, **more):
    started(*arguments, **more)
    if "pass_fds" in more:
        os.kill(os.getpid(), signal.SIGKILL)

started, subprocess.run = subprocess.run, run

async def main():
    async with open_redis(Path("data").absolute()):
        pass
"""
IMPORTS = """
import asyncio, os, signal, subprocess
from pathlib import Path
from ingestq.embedded.redis import open_redis
"""


@pytest.mark.parametrize("script", [RENAMED_AND_KILLED, KILLED_WHILE_IT_STARTS])
async def test_a_server_ends_whenever_its_user_is_killed(tmp_path: Path, script: str) -> None:
    program = f"{IMPORTS}{script}asyncio.run(main())"
    ran = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", program], cwd=tmp_path, check=False
    )
    assert ran.returncode == -signal.SIGKILL
    await locks_are_free(tmp_path / "data" / "redis")


@pytest.mark.slow
async def test_nothing_is_left_of_a_killed_command(ingestq: Ingestq) -> None:
    (ingestq.folder / "in").mkdir()
    (ingestq.folder / "in" / "a.txt").write_text(NOTE)
    with running(ingestq, "up", "--drop", "in") as up:
        up.says("job.finished", 120)
        os.kill(redis_pid(ingestq), signal.SIGSTOP)  # one that does not end is killed
        killed(up)
    await locks_are_free(redis_folder(ingestq), ingestq.folder / ".ingestq" / "qdrant")


@pytest.mark.slow
def test_a_frozen_server_is_killed_by_its_last_user(ingestq: Ingestq, api: Running) -> None:
    os.kill(redis_pid(ingestq), signal.SIGSTOP)
    api.tell(signal.SIGTERM)
    api.ends(0, 60)
    assert not redis_is_alive(ingestq)


@pytest.mark.slow
@pytest.mark.parametrize(("command", "code"), [(("worker",), 0), (("dead", "list"), 130)])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_command_that_waits_for_a_lock_says_so_and_can_be_stopped(
    ingestq: Ingestq, command: tuple[str, ...], code: int, number: signal.Signals
) -> None:
    redis_folder(ingestq).mkdir(parents=True)
    with open_lock(redis_folder(ingestq) / "start.lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write(b"4711")
        with running(ingestq, *command) as waiting:
            waiting.says("lock.awaited")
            waiting.says("4711")
            waiting.tell(number)
            waiting.ends(code)


async def test_a_lock_is_not_awaited_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    async with exclusive(path, 1, BrokerUnavailable):
        with (
            open_lock(path) as other,
            pytest.raises(BrokerUnavailable, match=rf"{path} .* by the process {os.getpid()}, "),
        ):
            await acquire(other, fcntl.LOCK_EX, 0.1, BrokerUnavailable)


async def test_a_command_that_waits_for_a_loading_server_can_be_stopped(
    ingestq: Ingestq, api: Running
) -> None:
    async def starter() -> str:
        return (redis_folder(ingestq) / "start.lock").read_text()

    os.kill(redis_pid(ingestq), signal.SIGSTOP)  # as one that reads gigabytes
    try:
        with running(ingestq, "worker") as waiting:
            await eventually(starter, lambda pid: pid == str(waiting.process.pid))
            waiting.tell(signal.SIGTERM)
            waiting.ends(0)
    finally:
        os.kill(redis_pid(ingestq), signal.SIGCONT)


# The terminal and the data directory


@pytest.mark.slow
def test_a_closed_terminal_drains_and_leaves_nothing_behind(ingestq: Ingestq) -> None:
    folder = ingestq.folder / "folder"
    folder.mkdir()
    for i in range(60):
        (folder / f"{i}.txt").write_text(f"{NOTE}{i}. " * 40)
    assert ingestq("add", folder).code == 0
    master, slave = pty.openpty()
    with running(ingestq, "up", terminal=slave, first=_take_terminal) as up:
        os.close(slave)
        seen = b""
        while b"job.finished" not in seen:
            seen += os.read(master, 65536)
        os.close(master)
        assert up.process.wait(SECONDS) == 0
    assert not redis_is_alive(ingestq)
    status = ingestq("status", "--json").json
    assert status["queue"]["in_flight"] == 0
    assert status["dead_letters"] == 0
    assert status["collection"]["documents"] > 0


def _take_terminal() -> None:
    os.setsid()
    fcntl.ioctl(0, 0x540E if os.uname().sysname == "Linux" else 0x20007461, 0)  # TIOCSCTTY


def test_nohup_is_respected(ingestq: Ingestq) -> None:
    def ignore() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    with running(ingestq, "api", first=ignore) as api:
        api.says("api.started")
        api.tell(signal.SIGHUP)
        assert httpx.get(f"{api.url}/healthz", timeout=60).status_code == 200
        api.tell(signal.SIGTERM)
        api.ends(0)


@pytest.mark.parametrize("command", ["api", pytest.param("up", marks=pytest.mark.slow)])
def test_a_deleted_data_directory_ends_the_command(ingestq: Ingestq, command: str) -> None:
    with running(ingestq, command) as user:
        user.says("api.started", 120)
        pid = redis_pid(ingestq)
        while (ingestq.folder / ".ingestq").exists():  # Redis may write a file meanwhile.
            shutil.rmtree(ingestq.folder / ".ingestq", ignore_errors=True)
        user.ends(3)
        assert "was deleted or replaced while ingestq used it" in user.said()
        assert not Path(f"/proc/{pid}/exe").exists()


@pytest.mark.parametrize(
    ("open_server", "error"), [(open_redis, BrokerUnavailable), (open_engine, StoreUnavailable)]
)
async def test_the_block_that_uses_a_deleted_data_directory_is_cancelled(
    tmp_path: Path,
    open_server: Callable[[Path], AbstractAsyncContextManager[object]],
    error: type[Exception],
) -> None:
    async def use() -> None:
        async with open_server(tmp_path / "data"):
            (tmp_path / "data").rename(tmp_path / "elsewhere")
            await asyncio.Event().wait()

    with pytest.raises(error, match="was deleted or replaced"):
        await use()
    current = asyncio.current_task()
    assert current is not None
    assert not current.cancelling()
