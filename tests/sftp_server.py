"""A server of SFTP in a thread of the test's own process."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import asyncssh
from fsspec.config import conf

from tests.redis_servers import HOST, free_port
from tests.waiting import SECONDS

USER = "anna"
PASSWORD = "secret-of-anna"


@dataclass
class SftpServer:
    """Serves ``folder`` to `USER`, at ``url``. Its key is in the file ``known_hosts``."""

    folder: Path
    known_hosts: Path
    port: int = field(default_factory=free_port)
    _key: asyncssh.SSHKey = field(
        default_factory=lambda: asyncssh.generate_private_key("ssh-ed25519")
    )
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    _connections: set[asyncssh.SSHServerConnection] = field(default_factory=set)

    @property
    def url(self) -> str:
        """The address of the folder."""
        return f"sftp://{HOST}:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """What tells processes how to log in."""
        return {f"FSSPEC_SFTP_{name.upper()}": value for name, value in self.options.items()}

    @property
    def options(self) -> dict[str, str]:
        """What tells fsspec how to log in."""
        return {"username": USER, "password": PASSWORD, "known_hosts": str(self.known_hosts)}

    def run(self, is_ready: threading.Event, is_ending: threading.Event) -> None:
        """Serve until ``is_ending`` is set. Blocks."""
        self._loop.run_until_complete(self._serve(is_ready, is_ending))
        self._loop.close()

    def disconnect(self) -> None:
        """Cut all connections."""

        async def cut() -> None:
            for connection in self._connections:
                connection.abort()

        asyncio.run_coroutine_threadsafe(cut(), self._loop).result(SECONDS)

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Do nothing while inside, not even with connections."""
        goes_on = threading.Event()
        self._loop.call_soon_threadsafe(goes_on.wait)
        try:
            yield
        finally:
            goes_on.set()

    async def _serve(self, is_ready: threading.Event, is_ending: threading.Event) -> None:
        folder, connections = self.folder, self._connections

        class Users(asyncssh.SSHServer):
            def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
                connections.add(conn)

            def password_auth_supported(self) -> bool:
                return True

            def validate_password(self, username: str, password: str) -> bool:
                return (username, password) == (USER, PASSWORD)

        class Files(asyncssh.SFTPServer):
            def __init__(self, chan: "asyncssh.SSHServerChannel[bytes]") -> None:
                super().__init__(chan, chroot=str(folder).encode())

        public = self._key.export_public_key().decode()
        self.known_hosts.write_text(f"[{HOST}]:{self.port} {public}", "utf-8")
        async with asyncssh.listen(
            HOST, self.port, server_host_keys=[self._key], server_factory=Users, sftp_factory=Files
        ):
            is_ready.set()
            await asyncio.to_thread(is_ending.wait)
        for connection in connections:
            connection.abort()
            await connection.wait_closed()


@contextmanager
def sftp_server(folder: Path, known_hosts: Path) -> Iterator[SftpServer]:
    """Serve ``folder`` on a free port of 127.0.0.1; this process can log in."""
    server = SftpServer(folder, known_hosts)
    is_ready, is_ending = threading.Event(), threading.Event()
    thread = threading.Thread(target=server.run, args=(is_ready, is_ending))
    thread.start()
    before = conf.get("sftp")
    try:
        assert is_ready.wait(SECONDS)
        conf["sftp"] = server.options
        yield server
    finally:
        conf.pop("sftp")
        if before is not None:
            conf["sftp"] = before
        is_ending.set()
        thread.join()
