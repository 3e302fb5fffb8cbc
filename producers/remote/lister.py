"""Listers: what a remote source holds, page by page, without reading any of it."""

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from ingestq.core.remote import RemoteObject


class Lister(Protocol):
    """Lists a remote source.

    Methods raise UsageError if the source is not there or refuses access, and RemoteUnavailable if
    it does not answer. Then nothing is known of what it holds.
    """

    @property
    def url(self) -> str:
        """The address of the source, with which those of its objects begin."""
        ...

    def open(self) -> None:
        """Load what the source needs, without a request. Blocks. Raises UsageError if missing."""
        ...

    async def is_object(self) -> bool:
        """Return whether the source is a single object, and no folder."""
        ...

    def pages(self) -> AsyncIterator[Sequence[RemoteObject]]:
        """Yield all objects, and end only if there are no more."""
        ...
