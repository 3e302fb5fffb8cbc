"""Answers a few paths over HTTP in a thread, so that it answers while the event loop lags or hangs.

One request a connection, a few connections at once, each for some seconds at most: whoever holds
them open delays nothing but other requests to this port.
"""

import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import urlsplit

MAX_CONNECTIONS: Final = 16
"""Probes and scrapers are few; further connections are closed."""
CONNECTION_SECONDS: Final = 10.0
"""Longer than any answer takes; then a connection is cut."""
CHECK_SECONDS: Final = 0.1
"""How often the server looks for connections that are too old, or whether it has to stop."""
STOP_SECONDS: Final = 5.0


@dataclass(frozen=True)
class Reply:
    """An answer to a GET request."""

    status: HTTPStatus
    content_type: str
    body: bytes


Pages = Mapping[str, Callable[[], Reply]]
"""What answers each path. It is called in a thread, and must be bounded in time."""


@contextmanager
def serving(listener: socket.socket, pages: Pages) -> Iterator[None]:
    """Answer ``pages`` on ``listener`` while inside, in threads that end with the process."""
    server = _Server(listener, pages)
    thread = threading.Thread(
        target=server.serve_forever, args=(CHECK_SECONDS,), name="metrics", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join(STOP_SECONDS)
        server.server_close()


class _Server(ThreadingHTTPServer):
    block_on_close = False

    def __init__(self, listener: socket.socket, pages: Pages) -> None:
        super().__init__(listener.getsockname()[:2], _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.pages = pages
        self._open: dict[Any, float] = {}
        self._changing = threading.Lock()

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Return False for a connection too many, which is closed."""
        with self._changing:
            if len(self._open) >= MAX_CONNECTIONS:
                return False
            self._open[request] = time.monotonic()
            return True

    def service_actions(self) -> None:
        """Cut connections that are open for too long."""
        oldest = time.monotonic() - CONNECTION_SECONDS
        with self._changing:
            overdue = [request for request, since in self._open.items() if since < oldest]
        for request in overdue:
            _shut(request)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection."""
        with self._changing:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients end connections as they like."""


def _shut(connection: socket.socket) -> None:
    """Make reads and writes of the thread that has ``connection`` fail, which then closes it."""
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:  # it is closed already
        return


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = CONNECTION_SECONDS
    server_version = "ingestq"
    sys_version = ""

    def do_GET(self) -> None:
        page = self.server.pages.get(urlsplit(self.path).path)
        if page is None:
            answer = Reply(HTTPStatus.NOT_FOUND, "text/plain", b"ask for /metrics or /readyz\n")
        else:
            answer = page()
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(answer.body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing about requests."""
