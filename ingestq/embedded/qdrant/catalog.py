"""The file that says which collections and aliases there are; it is replaced as a whole."""

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import structlog
from msgspec import Struct, structs

from ingestq.core import events
from ingestq.core.durable_files import rename_durably
from ingestq.core.service import uninterrupted
from ingestq.embedded.qdrant.errors import Refused
from ingestq.embedded.qdrant.limits import StrictMode
from ingestq.embedded.qdrant.schema import CollectionConfig

log = structlog.get_logger()

FILE: Final = "catalog.json"
FORMAT: Final = 1


class Collection(Struct, frozen=True):
    """A collection: the number of its shard's directory, and what it was created with."""

    shard: int
    config: CollectionConfig
    payload_schema: dict[str, str | dict[str, Any]] = {}

    @property
    def limits(self) -> StrictMode:
        """What the collection refuses in strict mode."""
        return self.config.strict_mode_config or StrictMode()


class Catalog(Struct, frozen=True):
    """Every collection and alias. The methods return a changed copy."""

    format: Literal[1] = FORMAT
    next_shard: int = 0
    collections: dict[str, Collection] = {}
    aliases: dict[str, str] = {}

    def with_collection(self, name: str, collection: Collection) -> "Catalog":
        """Return the catalog with ``collection`` added or replaced."""
        return structs.replace(
            self,
            next_shard=max(self.next_shard, collection.shard + 1),
            collections={**self.collections, name: collection},
        )

    def without_collection(self, name: str) -> "Catalog":
        """Return the catalog without a collection and its aliases."""
        return structs.replace(
            self,
            collections={n: c for n, c in self.collections.items() if n != name},
            aliases={alias: target for alias, target in self.aliases.items() if target != name},
        )

    def with_alias(self, alias: str, target: str) -> "Catalog":
        """Return the catalog with an alias added or moved."""
        return structs.replace(self, aliases={**self.aliases, alias: target})

    def without_alias(self, alias: str) -> "Catalog":
        """Return the catalog without an alias."""
        return structs.replace(self, aliases={a: t for a, t in self.aliases.items() if a != alias})


Change = Callable[[Catalog], Catalog]
"""Returns the changed catalog. Raises Refused."""


@dataclass(eq=False)
class _Arrival:
    change: Change
    is_done: bool = False
    error: Refused | None = None


class SavedCatalog:
    """The catalog of a folder: nobody sees a change before it is on the disk.

    Changes that arrive while others are being saved are saved together. Who holds ``lock`` may
    replace ``current`` by what they have saved themselves.
    """

    def __init__(self, folder: Path, catalog: Catalog) -> None:
        self.current = catalog
        self.lock = asyncio.Lock()
        self._folder = folder
        self._arrived: list[_Arrival] = []

    async def change(self, change: Change) -> None:
        """Make the changed catalog the current one. Raises Refused."""
        arrival = _Arrival(change)
        self._arrived.append(arrival)
        async with self.lock:
            if not arrival.is_done:  # those of others must not be lost if this one is cancelled
                await uninterrupted(self._save_arrived())
        if arrival.error is not None:
            raise arrival.error

    async def _save_arrived(self) -> None:
        arrivals, self._arrived = self._arrived, []
        changed = self.current
        for arrival in arrivals:
            try:
                changed = arrival.change(changed)
            except Refused as error:
                arrival.error = error
        try:
            await asyncio.to_thread(write_catalog, self._folder, changed)
            self.current = changed
        except OSError as error:
            if await asyncio.to_thread(_is_written, self._folder, changed):
                # It may be gone after a power failure. A restart goes on with what is there.
                log.exception(events.ENGINE_CATALOG_FAILED)
                os._exit(1)
            reason = os.strerror(error.errno or 0)
            for arrival in arrivals:
                arrival.error = arrival.error or Refused(500, f"Service internal error: {reason}")
        for arrival in arrivals:
            arrival.is_done = True


class CatalogDamaged(Exception):
    """Raised for a catalog that cannot be read, with what to do about it."""


def read_catalog(folder: Path) -> Catalog:
    """Return the catalog of ``folder``; an empty one if there is none yet. Blocks.

    Raises CatalogDamaged, or OSError.
    """
    path = folder / FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=Catalog)
    except FileNotFoundError:
        return Catalog()
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CatalogDamaged(
            f"{path} cannot be read ({error}): it is damaged, or of another version of ingestq. "
            f"Move {folder} away and index the sources again, or use the version that wrote it"
        ) from error


def _is_written(folder: Path, catalog: Catalog) -> bool:
    try:
        return read_catalog(folder) == catalog
    except (CatalogDamaged, OSError):
        return False


def write_catalog(folder: Path, catalog: Catalog) -> None:
    """Replace the catalog of ``folder``; it is on the disk on return. Blocks. Raises OSError."""
    path = folder / FILE
    draft = path.with_suffix(".new")
    with draft.open("wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(catalog)))
        file.flush()
        os.fsync(file.fileno())
    rename_durably(draft, path)
