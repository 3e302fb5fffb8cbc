"""``python -m tests.qdrant_standin``: the stand-in for other processes."""

import argparse
import socket
import sys

from tests.qdrant_standin.server import StandinServer


def main() -> None:
    """Print the URL when the server is up, and serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(description="A stand-in for a Qdrant server. Not Qdrant.")
    parser.add_argument("--port", type=int, default=0, help="0, the default, picks a free port")
    parser.add_argument("--api-key", help="require this key in every request")
    options = parser.parse_args()

    def announce() -> None:
        sys.stdout.write(f"{server.standin.url}\n")
        sys.stdout.flush()

    with socket.create_server(("127.0.0.1", options.port)) as listener:
        server = StandinServer(listener, options.api_key, announce)
        server.serve_until_stopped()


if __name__ == "__main__":
    main()
