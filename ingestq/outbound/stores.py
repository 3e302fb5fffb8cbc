"""File systems of remote stores, as fsspec makes them.

Credentials are looked for where the store's own package looks: its environment variables, its
files, and fsspec's configuration. Everything here blocks: call it in a thread.
"""

import os
from threading import Lock
from typing import TYPE_CHECKING, Any, Final

from ingestq.core.remote import SERVERS_OF_FILES, SFTP_SCHEMES, scheme_of

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

GCS_SCHEMES: Final = frozenset({"gs", "gcs"})
GCS_SECONDS: Final = 120.0
"""Of a request to Google Cloud Storage, with its answer. gcsfs itself waits for ever."""
SMB_SECONDS: Final = "60"
"""After so long without an answer, smbprotocol asks whether the server is there, and waits as long
once more. Its own default is ten minutes, and only this variable changes it."""

Key = tuple[Any, ...]
"""What tells stores apart: the scheme and the options."""


def kind_of(url: str) -> "type[AbstractFileSystem]":
    """Return the class of the file system of ``url``.

    Raises ImportError if its package is not installed, and ValueError if fsspec knows none.
    """
    if scheme_of(url) in SFTP_SCHEMES:
        from ingestq.outbound.sftp import SftpFileSystem

        return SftpFileSystem
    import fsspec

    kind: type[AbstractFileSystem] = fsspec.get_filesystem_class(scheme_of(url))
    return kind


class _Stores:
    """The file systems of this process, one for each store that many threads may use at once.

    fsspec itself keeps one for each thread, each with connections of its own. Any other store is
    opened anew each time: its one connection serves one request after the other, and is of no use
    any more once the server has closed it.
    """

    def __init__(self) -> None:
        self._locks: dict[Key, Lock] = {}
        """Connecting to one may take a minute, and must not hold up the others."""
        self._opened: dict[Key, AbstractFileSystem] = {}

    def at(self, url: str) -> "tuple[AbstractFileSystem, str]":
        """See `store_at`."""
        scheme, kind = scheme_of(url), kind_of(url)
        place, path = url, kind._strip_protocol(url)
        if scheme in SERVERS_OF_FILES:  # fsspec takes "?" and "#" for the end of the path
            server, _, below = url.partition("://")[2].partition("/")
            place, path = f"{scheme}://{server}/", "/" + below.strip("/")
        options = kind._get_kwargs_from_urls(place)
        for of_one_object in ("path", "version_aware"):
            options.pop(of_one_object, None)
        if kind.async_impl and scheme not in SERVERS_OF_FILES:
            options["use_listings_cache"] = False  # gcsfs takes what is not in it for gone
        if scheme in GCS_SCHEMES:
            options["requests_timeout"] = GCS_SECONDS
        if scheme == "smb":
            os.environ.setdefault("SMB_EXPERIMENTAL_TRANSPORT_RECEIVE_TIMEOUT", SMB_SECONDS)
        if not kind.async_impl:
            return kind(**options, skip_instance_cache=True), path
        key = (scheme, *sorted(options.items()))
        with self._locks.setdefault(key, Lock()):
            store = self._opened.get(key)
            if store is None or getattr(store, "is_closed", False):
                store = self._opened[key] = kind(**options, skip_instance_cache=True)
        return store, path


_stores: Final = _Stores()


def store_at(url: str) -> "tuple[AbstractFileSystem, str]":
    """Return the file system of ``url``, and the path in it.

    Use it in this thread only, for one request after the other; another call may return the same.
    Raises as `kind_of` does, and what the package of the store raises.
    """
    return _stores.at(url)
