"""All collections: the catalog and the open shards, changed together."""

import asyncio
import contextlib
import math
import os
import shutil
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import qdrant_edge as edge
import structlog
from msgspec import structs

from ingestq.core import events
from ingestq.core.service import happens_within
from ingestq.embedded.qdrant.aliases import ChangeAliases, with_action
from ingestq.embedded.qdrant.catalog import (
    Catalog,
    Collection,
    SavedCatalog,
    read_catalog,
    write_catalog,
)
from ingestq.embedded.qdrant.compaction import Copy, is_wasteful
from ingestq.embedded.qdrant.errors import Refused, damaged, invalid, not_found, wrong_input
from ingestq.embedded.qdrant.files import create_shard, load_shard
from ingestq.embedded.qdrant.limits import index_kind
from ingestq.embedded.qdrant.schema import (
    CreateCollection,
    FieldIndex,
    UpdateCollection,
    index_operation,
    shard_config,
    shown_config,
)
from ingestq.embedded.qdrant.shard import Shard, guarded
from ingestq.embedded.qdrant.updates import Update, checked

log = structlog.get_logger()

T = TypeVar("T")
Read = Callable[[edge.EdgeShard, Collection, T], Any]

READERS: Final = 2
COMPACTION_SECONDS: Final = 10.0
"""How often shards are looked at for the room that deleted points have left."""
CLOSE_SECONDS: Final = 4.0
"""How much longer closing may take to finish a copy: an engine that serves only short commands is
never open for long enough. With what requests may take, that is less than until it is killed."""
SHARDS: Final = "shards"
LONGEST_NAME: Final = 255
FORBIDDEN: Final = frozenset('<>:"/\\|?*\0\x1f')


class OpenCollections:
    """The collections below a folder. Requests raise Refused. Opened by `open`."""

    def __init__(self, folder: Path, catalog: Catalog) -> None:
        self._folder = folder
        self._saved = SavedCatalog(folder, catalog)
        self._next_shard = catalog.next_shard
        self._shards: dict[int, Shard] = {}
        self._damages: dict[int, str] = {}
        self._replacing = asyncio.Lock()
        """Held while the index of points changes, or a copy takes the place of a shard."""
        self._readers = ThreadPoolExecutor(READERS, "reader")
        self._compaction: asyncio.Task[None] | None = None
        self._is_closing = asyncio.Event()
        self._close_at = math.inf
        self._behind: set[asyncio.Task[None]] = set()
        """What is done behind the answers."""

    @property
    def _catalog(self) -> Catalog:
        return self._saved.current

    @classmethod
    async def open(cls, folder: Path) -> "OpenCollections":
        """Open every shard of the catalog, and remove those that it does not know.

        One that cannot be opened does not keep the others from being served. Raises CatalogDamaged
        or OSError.
        """
        opened = cls(folder, await asyncio.to_thread(read_catalog, folder))
        await asyncio.to_thread(opened._remove_unknown)
        for name, collection in opened._catalog.collections.items():
            await opened._open_shard(name, collection)
        opened._compaction = asyncio.create_task(opened._compact_all())
        return opened

    async def close(self) -> None:
        """Finish the writes that have arrived, and close every shard."""
        self._close_at = time.monotonic() + CLOSE_SECONDS
        self._is_closing.set()
        if self._compaction is not None:
            await self._compaction  # not cancelled: its threads would go on with the files
        while self._behind:
            await asyncio.wait(self._behind)
        self._readers.shutdown()
        await asyncio.gather(*(shard.close() for shard in self._shards.values()))

    def names(self) -> list[str]:
        """Return the names of the collections."""
        return list(self._catalog.collections)

    def aliases(self, target: str | None = None) -> list[dict[str, str]]:
        """Return the aliases, of one collection or of all."""
        return [
            {"alias_name": alias, "collection_name": name}
            for alias, name in self._catalog.aliases.items()
            if target in {None, name}
        ]

    def exists(self, name: str) -> bool:
        """Return whether there is a collection or an alias of this name."""
        return self._catalog.aliases.get(name, name) in self._catalog.collections

    async def read(self, name: str, read: Read[T], wanted: T) -> Any:
        """Return what ``read`` returns for the request ``wanted``."""
        collection, shard = self._shard(name)
        ask = partial(self._ask, shard, read, collection, wanted)
        if shard.is_indexing:
            with contextlib.suppress(Refused):  # it may need one of the indexes
                return await ask()
            await shard.indexed()
        return await ask()

    async def _ask(self, shard: Shard, read: Read[T], collection: Collection, wanted: T) -> Any:
        return await shard.read(self._readers, lambda opened: read(opened, collection, wanted))

    async def write(self, name: str, update: Update, *, is_durable: bool) -> None:
        """Apply ``update``; with ``is_durable``, return when it is on the disk."""
        collection, shard = self._shard(name)
        await shard.write(lambda points: checked(update, points, collection), is_durable=is_durable)

    async def describe(self, name: str) -> dict[str, Any]:
        """Return what Qdrant shows of a collection."""
        collection, shard = self._shard(name)
        # The engine would answer after the index or the flush that it is busy with.
        info = None if shard.is_empty else await shard.read(self._readers, edge.EdgeShard.info)
        indexed = {} if info is None else info.payload_schema
        return {
            "status": "green",
            "optimizer_status": "ok",
            "indexed_vectors_count": 0 if info is None else info.indexed_vectors_count,
            "points_count": 0 if info is None else info.points_count,
            "segments_count": 1 if info is None else info.segments_count,
            "config": shown_config(collection.config),
            "payload_schema": {
                field: {
                    "data_type": index_kind(schema),
                    **({} if isinstance(schema, str) else {"params": schema}),
                    "points": indexed[field].points if field in indexed else 0,
                }
                for field, schema in collection.payload_schema.items()
                if field in shard.indexes
            },
        }

    async def create(self, name: str, wanted: CreateCollection) -> bool:
        """Create a collection: first its directory, then its entry in the catalog."""
        _check_name(name)
        self._check_free(self._catalog, name)
        collection = Collection(self._new_number(), wanted.config())
        folder = self._shard_folder(collection)
        try:
            self._shards[collection.shard] = Shard(
                folder, await asyncio.to_thread(_make_shard, folder, collection)
            )
            await self._saved.change(partial(self._with_new, name, collection))
        except Refused:
            self._do_behind(self._remove(collection))
            raise
        return True

    def _with_new(self, name: str, collection: Collection, catalog: Catalog) -> Catalog:
        self._check_free(catalog, name)
        return catalog.with_collection(name, collection)

    async def update(self, name: str, wanted: UpdateCollection) -> bool:
        """Change the configuration of a collection."""

        def change(catalog: Catalog) -> Catalog:
            real, collection = _existing(catalog, name)
            config = wanted.changed(collection.config)
            return catalog.with_collection(real, structs.replace(collection, config=config))

        await self._saved.change(change)
        return True

    async def delete(self, name: str) -> bool:
        """Delete a collection with its aliases: its entry, then, behind the answer, its files."""
        found: list[Collection] = []

        def change(catalog: Catalog) -> Catalog:
            found.extend(c for n, c in catalog.collections.items() if n == name)
            return catalog.without_collection(name)

        if name in self._catalog.collections:
            await self._saved.change(change)
        for collection in found:
            self._do_behind(self._remove(collection))
        return bool(found)

    async def _remove(self, collection: Collection) -> None:
        """Close and remove the shard of a collection that the catalog does not have."""
        self._damages.pop(collection.shard, None)
        shard = self._shards.pop(collection.shard, None)
        if shard is not None:
            await shard.close(is_kept=False)
        await asyncio.to_thread(shutil.rmtree, self._shard_folder(collection), ignore_errors=True)

    async def change_aliases(self, wanted: ChangeAliases) -> bool:
        """Change aliases; readers see all changes at once.

        An action that is refused does not undo those before it.
        """
        refusals: list[Refused] = []

        def change(catalog: Catalog) -> Catalog:
            try:
                for action in wanted.actions:
                    catalog = with_action(catalog, action)
            except Refused as error:
                refusals.append(error)
            return catalog

        await self._saved.change(change)
        for refusal in refusals:
            raise refusal
        return True

    async def create_index(self, name: str, wanted: FieldIndex) -> None:
        """Create a payload index, unless it is there.

        That of an empty collection is created behind the answer, before the first point: it takes
        the engine 50 ms. `_open_shard` makes up for it after a crash.
        """
        field, schema = wanted.field_name, wanted.field_schema
        operation = guarded(index_operation, field, schema)
        _, shard = self._shard(name)
        if shard.is_empty and field not in shard.indexes:
            await self._save_index(name, field, schema)
            if shard.is_empty and field not in shard.indexes:
                shard.create_index_soon(field, operation)
                return
        async with self._replacing:
            collection, shard = self._shard(name)
            if field in shard.indexes and collection.payload_schema.get(field) == schema:
                return
            await shard.create_index(field, operation)
            await self._save_index(name, field, schema)

    async def delete_index(self, name: str, field: str) -> None:
        """Delete a payload index."""
        guarded(edge.UpdateOperation.delete_field_index, field)
        async with self._replacing:
            _, shard = self._shard(name)
            await shard.delete_index(field)
            await self._save_index(name, field, None)

    async def _save_index(self, name: str, field: str, schema: str | dict[str, Any] | None) -> None:
        """Save that ``field`` has an index with this schema, or none."""

        def change(catalog: Catalog) -> Catalog:
            real, collection = _existing(catalog, name)
            others = {f: s for f, s in collection.payload_schema.items() if f != field}
            indexes = others if schema is None else {**others, field: schema}
            changed = structs.replace(collection, payload_schema=indexes)
            return catalog.with_collection(real, changed)

        await self._saved.change(change)

    def _do_behind(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run ``coroutine`` behind the answer, to its end."""
        task = asyncio.create_task(coroutine)
        self._behind.add(task)
        task.add_done_callback(self._note_done)

    def _note_done(self, task: asyncio.Task[None]) -> None:
        self._behind.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error(events.ENGINE_TASK_FAILED, error=str(error))

    def _shard(self, name: str) -> tuple[Collection, Shard]:
        _, collection = _existing(self._catalog, name)
        shard = self._shards.get(collection.shard)
        if shard is None:
            reason = self._damages.get(collection.shard, "it is not open")
            raise damaged(self._shard_folder(collection), reason)
        return collection, shard

    def _new_number(self) -> int:
        """Return the number of a new shard. A restart may give it to another one."""
        number = self._next_shard
        self._next_shard += 1
        return number

    def _shard_folder(self, collection: Collection) -> Path:
        return self._folder / SHARDS / str(collection.shard)

    async def _open_shard(self, name: str, collection: Collection) -> None:
        folder = self._shard_folder(collection)
        try:
            if not await asyncio.to_thread(folder.exists):  # moved away, as `damaged` says
                log.error(events.ENGINE_COLLECTION_EMPTY, collection=name, path=str(folder))
                await asyncio.to_thread(_make_empty, folder, collection)
            opened = await asyncio.to_thread(load_shard, folder, collection.payload_schema)
        except Refused as error:
            log.error(events.ENGINE_COLLECTION_DAMAGED, collection=name, error=str(error))
            self._damages[collection.shard] = str(error).partition(": ")[2]
        else:
            self._shards[collection.shard] = Shard(folder, opened)

    async def _compact_all(self) -> None:
        """Compact each shard when it has become wasteful, one at a time, until `close`."""
        is_first = True  # it may not be open for long
        while is_first or not await happens_within(self._is_closing, COMPACTION_SECONDS):
            is_first = False
            for name, collection in list(self._catalog.collections.items()):
                shard = self._shards.get(collection.shard)
                if shard is None or self._is_closing.is_set():
                    continue
                folder = self._shard_folder(collection)
                try:
                    if await asyncio.to_thread(guarded, is_wasteful, shard.points, folder):
                        await self._compact(name, collection, shard)
                except (Refused, OSError) as error:  # it is tried again
                    log.error(events.ENGINE_NOT_COMPACTED, collection=name, error=str(error))

    async def _compact(self, name: str, collection: Collection, shard: Shard) -> None:
        """Put a copy without room for deleted points in the place of a shard.

        On `close`, give up unless it is done soon.
        """
        number = self._new_number()
        moved = structs.replace(collection, shard=number)
        began = time.monotonic()
        copy: Copy | None = None
        try:
            copy = await asyncio.to_thread(
                guarded, Copy, collection, shard.points, self._shard_folder(moved)
            )
            is_behind = True
            while is_behind and time.monotonic() + copy.seconds_left() < self._close_at:
                stepped = time.monotonic()
                is_behind = await asyncio.to_thread(guarded, copy.step)
                # Leave others half of the time.
                await happens_within(self._is_closing, time.monotonic() - stepped)
            if is_behind:
                return
            await asyncio.to_thread(guarded, copy.flush)
            await self._put_in_place(name, collection, number, copy)
            seconds = round(time.monotonic() - began, 1)
            log.info(events.ENGINE_COMPACTED, collection=name, seconds=seconds)
        finally:
            shard.points.changed = None
            unused = collection
            if number not in self._shards:
                unused = moved
                if copy is not None:
                    await asyncio.to_thread(guarded, copy.shard.close)
            await asyncio.to_thread(shutil.rmtree, self._shard_folder(unused), ignore_errors=True)

    async def _put_in_place(
        self, name: str, collection: Collection, number: int, copy: Copy
    ) -> None:
        """Let the catalog name the copy, and requests use it; unless the collection has changed."""
        async with self._replacing, self._saved.lock:
            current = self._catalog.collections.get(name)
            if (
                current is None
                or current.shard != collection.shard
                or current.payload_schema != collection.payload_schema
            ):
                return
            moved = structs.replace(current, shard=number)
            catalog = self._catalog.with_collection(name, moved)
            is_named = False

            def ready() -> None:
                nonlocal is_named
                copy.finish()
                try:
                    write_catalog(self._folder, catalog)
                except OSError:
                    # Nobody knows which of the two catalogs is on the disk. Both shards have all
                    # that was answered until now, so a restart finds out and goes on.
                    log.exception(events.ENGINE_CATALOG_FAILED)
                    os._exit(1)
                is_named = True

            shard = self._shards[collection.shard]
            try:
                await shard.replace(self._shard_folder(moved), copy.shard, ready)
            finally:
                if is_named:  # whatever has failed since
                    del self._shards[collection.shard]
                    self._shards[number] = shard
                    self._saved.current = catalog

    def _remove_unknown(self) -> None:
        """Remove directories whose collection was never finished, or is being deleted. Blocks."""
        known = {str(collection.shard) for collection in self._catalog.collections.values()}
        folder = self._folder / SHARDS
        for entry in os.scandir(folder) if folder.is_dir() else ():
            if entry.name not in known and entry.name.isdecimal():
                log.warning(events.ENGINE_SHARD_REMOVED, path=entry.path)
                shutil.rmtree(entry.path)

    def _check_free(self, catalog: Catalog, name: str) -> None:
        if name in catalog.collections:
            raise Refused(409, f"Wrong input: Collection `{name}` already exists!")
        if name in catalog.aliases:
            text = f"Can't create collection with name {name}. Alias with the same name"
            raise wrong_input(f"{text} already exists")


def _make_shard(folder: Path, collection: Collection) -> edge.EdgeShard:
    """Create the shard of a new collection in ``folder``. Blocks. Raises Refused."""
    folder.parent.mkdir(exist_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    return create_shard(folder, guarded(shard_config, collection.config))


def _make_empty(folder: Path, collection: Collection) -> None:
    """Create the shard of a collection whose files are gone. Blocks. Raises Refused."""
    _make_shard(folder, collection).close()


def _existing(catalog: Catalog, name: str) -> tuple[str, Collection]:
    """Return the name and the entry of the collection, which may be named by an alias."""
    real = catalog.aliases.get(name, name)
    collection = catalog.collections.get(real)
    if collection is None:
        raise not_found(f"Collection `{name}` doesn't exist!")
    return real, collection


def _check_name(name: str) -> None:
    if not name or len(name) > LONGEST_NAME or not FORBIDDEN.isdisjoint(name):
        raise invalid(f"collection_name: {name!r} is not a valid name")
