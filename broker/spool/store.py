"""What a place for objects has to be able to do, and which one a URL means."""

import re
from collections.abc import AsyncIterable, Iterable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import unquote

from broker.errors import DocumentRejected, UsageError

UNFINISHED: Final = ".part"
"""What the name of an object ends with while it is written."""


class Spool(Protocol):
    """A place for objects; see `broker.spool.names` for what they are called.

    Every method raises SpoolUnavailable if the place cannot be used, and UsageError if it can be
    used by nobody who is set up like this.
    """

    async def put(self, name: str, parts: AsyncIterable[bytes]) -> None:
        """Write an object; durable on return. There is a whole one or none, whatever happens.

        Raises what ``parts`` raises.
        """
        ...

    async def size(self, name: str) -> int:
        """How many bytes an object has. Raises DocumentRejected if it is not there."""
        ...

    def at_hand(self, name: str) -> AbstractAsyncContextManager[Path]:
        """A file that has the content of an object, as long as inside; nobody may change it.

        Raises DocumentRejected if the object is not there.
        """
        ...

    async def remove(self, names: Iterable[str]) -> None:
        """Remove objects; those that are gone already are fine."""
        ...

    async def names(self, space: str) -> list[str]:
        """What there is in a space: names of objects, of unfinished ones with their ending."""
        ...


def open_spool(url: str) -> Spool:
    """The spool at ``url``: a folder's path, or a URL that fsspec knows. Nothing is done yet.

    Raises UsageError if other processes would not see what is put there.
    """
    protocol, separator, place = url.partition("://")
    if not separator or protocol == "file":
        from broker.spool.folder import FolderSpool

        return FolderSpool(Path(unquote(place) if separator else url))
    if "memory" in protocol.split("::"):
        raise UsageError(
            f"INGESTQ_SPOOL_URL is {url!r}, which no other process sees; name a folder, or a store "
            "that producers and workers share, such as s3://BUCKET/PREFIX"
        )
    from broker.spool.remote import RemoteSpool

    return RemoteSpool(url)


def public(url: str) -> str:
    """``url`` without a password, for messages."""
    return re.sub(r"(://[^/@]*:)[^/@]*@", r"\1***@", url)


def missing(name: str) -> DocumentRejected:
    """Why the document of an object that is not there cannot be read."""
    return DocumentRejected(
        f"its content {name} is not in the spool any more, or not in this worker's "
        "(INGESTQ_SPOOL_URL)"
    )
