"""Addresses of Qdrants: the URL of a server, or ``unix://`` and the path of an engine's socket."""

from pathlib import Path
from urllib.parse import urlsplit

import httpx

from worker.store.client import QdrantConfig


def config_of(place: str) -> QdrantConfig:
    """Return how ingestq connects to the Qdrant at ``place``."""
    socket = _socket(place)
    return QdrantConfig(place, None) if socket is None else QdrantConfig(None, None, Path(socket))


def base_url(place: str) -> str:
    """Return the start of the URLs for a client of the Qdrant at ``place``."""
    return "http://qdrant" if _socket(place) else place.rstrip("/")


def transport(place: str) -> httpx.AsyncHTTPTransport:
    """Return a new connection pool for a client of the Qdrant at ``place``."""
    return httpx.AsyncHTTPTransport(uds=_socket(place))


def _socket(place: str) -> str | None:
    url = urlsplit(place)
    return url.path if url.scheme == "unix" else None
