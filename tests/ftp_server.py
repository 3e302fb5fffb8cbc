"""A server of FTP in a thread of the test's own process."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.handlers import FTPHandler
from pyftpdlib.ioloop import IOLoop
from pyftpdlib.servers import FTPServer

from tests.redis_servers import HOST

USER = "anonymous"


class FtpServer:
    """Serves ``folder`` to anybody."""

    def __init__(self, folder: Path) -> None:
        self._authorizer = DummyAuthorizer()
        self._authorizer.add_anonymous(str(folder))
        handler = type("Handler", (FTPHandler,), {"authorizer": self._authorizer})
        self._server = FTPServer((HOST, 0), handler, ioloop=IOLoop())
        self._server.max_cons = 0
        self._server.max_cons_per_ip = 0
        self.url = f"ftp://{HOST}:{self._server.address[1]}"

    def refuse(self, folder: Path) -> None:
        """Refuse to list ``folder`` from now on."""
        self._authorizer.override_perm(USER, str(folder), "", recursive=True)

    def run(self, stopping: threading.Event) -> None:
        """Serve until ``stopping`` is set."""
        while not stopping.is_set():
            self._server.serve_forever(timeout=0.005, blocking=False)
        self._server.close_all()


@contextmanager
def ftp_server(folder: Path) -> Iterator[FtpServer]:
    """Serve ``folder`` on a free port of 127.0.0.1."""
    server, stopping = FtpServer(folder), threading.Event()
    thread = threading.Thread(target=server.run, args=(stopping,))
    thread.start()
    try:
        yield server
    finally:
        stopping.set()
        thread.join()
