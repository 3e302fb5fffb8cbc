"""Listers: what a remote source holds, page by page, without reading any of it."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from ingestq.client.object_store import ObjectStore
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

    async def is_object(self) -> bool:
        """Return whether the source is a single object, and no folder."""
        ...

    def pages(self) -> AsyncIterator[Sequence[RemoteObject]]:
        """Yield all objects, and end only if there are no more."""
        ...


class BucketLister:
    """Lists the folder, or the single object, at ``url`` in a store that fsspec reaches."""

    def __init__(self, url: str) -> None:
        self._store = ObjectStore(url)

    @property
    def url(self) -> str:
        """See `Lister.url`."""
        return self._store.url

    async def is_object(self) -> bool:
        """See `Lister.is_object`."""
        return await asyncio.to_thread(self._store.is_object)

    async def pages(self) -> AsyncIterator[Sequence[RemoteObject]]:
        """See `Lister.pages`."""
        if await self.is_object():
            yield [await asyncio.to_thread(self._store.one)]
            return
        pages = self._store.pages()
        while (page := await asyncio.to_thread(next, pages, None)) is not None:
            yield page
