"""Lists buckets, and any other folder that fsspec reaches."""

from collections.abc import AsyncIterator, Callable, Sequence

from ingestq.client.object_store import ObjectStore
from ingestq.core.daemon_threads import DaemonThreads
from ingestq.core.remote import RemoteObject


class BucketLister:
    """Lists the folder, or the single object, at ``url``; see `producers.remote.lister.Lister`.

    Folders that it ``excludes`` need not be listed; see `ObjectStore.pages`.
    """

    def __init__(self, url: str, excludes: Callable[[str], bool]) -> None:
        self._store = ObjectStore(url)
        self._excludes = excludes
        self._thread = DaemonThreads("listing", 1)

    @property
    def url(self) -> str:
        """See `Lister.url`."""
        return self._store.url

    def open(self) -> None:
        """See `Lister.open`."""
        self._store.open()

    async def is_object(self) -> bool:
        """See `Lister.is_object`."""
        return await self._thread.call(self._store.is_object)

    async def pages(self) -> AsyncIterator[Sequence[RemoteObject]]:
        """See `Lister.pages`."""
        if await self.is_object():
            yield [await self._thread.call(self._store.one)]
            return
        pages = self._store.pages(self._excludes)
        while (page := await self._thread.call(next, pages, None)) is not None:
            yield page
