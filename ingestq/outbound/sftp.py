"""Files of SFTP servers: those of sshfs, with known hosts only, and no wait without an end."""

from collections.abc import Sequence
from typing import Any, Final

from asyncssh import HostKeyNotVerifiable
from fsspec.asyn import sync
from fsspec.spec import AbstractBufferedFile
from sshfs import SSHFileSystem
from sshfs.file import SSHFile

from ingestq.core.errors import UsageError

CONNECT_SECONDS: Final = 60.0
KEEPALIVE_SECONDS: Final = 15.0
KEEPALIVES: Final = 4
"""A server that has not answered so many of them is gone, and what waits for it fails."""


class SftpFileSystem(SSHFileSystem):  # type: ignore[misc]
    """A connection to the server ``host``, for any number of threads.

    ``options`` are those of `asyncssh.connect`. Raises UsageError unless the server's key is in
    ``known_hosts``, which is the user's file by default.
    """

    protocol = ("sftp", "ssh")

    def __init__(self, host: str, *, known_hosts: str | Sequence[str] = (), **options: Any) -> None:
        limits = {
            "connect_timeout": CONNECT_SECONDS,
            "login_timeout": CONNECT_SECONDS,
            "keepalive_interval": KEEPALIVE_SECONDS,
            "keepalive_count_max": KEEPALIVES,
        }
        try:
            super().__init__(host, known_hosts=known_hosts, **(limits | options))
        except HostKeyNotVerifiable as error:
            raise UsageError(
                f"sftp://{host}: the key of the server is not in ~/.ssh/known_hosts, or is another "
                "one there; if it is the right server, connect to it once with the command sftp, "
                "which adds the key, or says what to do"
            ) from error

    @property
    def is_closed(self) -> bool:
        """Whether the connection is of no use any more."""
        return bool(self.client.is_closed())

    async def _ls(self, path: str, detail: bool = True, **options: Any) -> Sequence[Any]:
        """List a folder. A symbolic link to a file is a file; one to a folder stays a link."""
        found = [await self._resolved(one) for one in await super()._ls(path, **options)]
        return found if detail else [entry["name"] for entry in found]

    async def _resolved(self, entry: dict[str, Any]) -> dict[str, Any]:
        if entry["type"] != "link":
            return entry
        try:
            target: dict[str, Any] = await self._info(entry["name"])
        except FileNotFoundError:
            return entry
        return target if target["type"] == "file" else entry

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        return _BufferedFile(self, path, **options) if mode == "rb" else SSHFile(self, path, mode)


class _BufferedFile(AbstractBufferedFile):  # type: ignore[misc]
    """A file that is read ahead. (That of sshfs asks the server for every few bytes.)"""

    def __init__(self, fs: SftpFileSystem, path: str, **options: Any) -> None:
        self._file = SSHFile(fs, path)
        size = sync(fs.loop, self._file._file.stat).size
        super().__init__(fs, path, size=size, **options)

    def _fetch_range(self, start: int, end: int) -> bytes:
        self._file.seek(start)
        return bytes(self._file.read(end - start))

    def close(self) -> None:
        """Close it on the server too."""
        if not self.closed:
            self._file.close()
        super().close()
