"""Cut-over: points the alias that users read at a rebuilt collection, and keeps the old one.

The old collection stays for some time under an alias of its own, so that one can go back to it.
"""

import re
import time
from functools import partial
from typing import Final

from qdrant_client import AsyncQdrantClient

from ingestq.core.errors import CollectionMissing
from worker.store.client import Qdrant
from worker.store.collection import CollectionNames, alias_target, find_collection, point_alias

PREVIOUS: Final = "__previous"
"""The alias with this suffix names the collection before the last cut-over."""
RETIRED_KEY: Final = "retired_ms"
"""Key in the metadata of a collection: when it went out of use (Unix time in ms)."""
MS_PER_HOUR: Final = 3_600_000
REBUILD_HOURS: Final = 24
"""So much longer the previous collection is kept when a rebuild brings it up to date."""


async def cut_over(qdrant: Qdrant, live: CollectionNames, new: CollectionNames) -> None:
    """Point the alias at ``new`` in one step. ``live`` is kept; see `find_previous`."""
    await retire(qdrant, live)
    both = [point_alias(new.alias, new), point_alias(live.alias + PREVIOUS, live)]
    await qdrant.ask(lambda client: client.update_collection_aliases(both))


async def retire(qdrant: Qdrant, names: CollectionNames) -> None:
    """Record that the collection is out of use from now on."""
    await _retire_at(qdrant, names, _now_ms())


async def keep_for_rebuild(qdrant: Qdrant, names: CollectionNames) -> None:
    """Keep the previous collection: it must not be removed while it is brought up to date."""
    await _retire_at(qdrant, names, _now_ms() + REBUILD_HOURS * MS_PER_HOUR)


async def _retire_at(qdrant: Qdrant, names: CollectionNames, ms: int) -> None:
    retired = {RETIRED_KEY: ms}
    await qdrant.ask(lambda client: client.update_collection(names.chunks, metadata=retired))


async def find_previous(qdrant: Qdrant, alias: str) -> CollectionNames | None:
    """Return the collection that ``alias`` named before the last cut-over, or None."""
    target = await alias_target(qdrant, alias + PREVIOUS)
    return None if target is None else CollectionNames.at(alias, target)


async def remove_expired(qdrant: Qdrant, alias: str, hours: float) -> CollectionNames | None:
    """Delete the previous collection if it is out of use for ``hours``; return its names if so.

    If it is interrupted, the next call completes it.
    """
    previous = await find_previous(qdrant, alias)
    try:
        if previous is None or await _hours_retired(qdrant, previous) < hours:
            return None
    except CollectionMissing:  # another worker was faster
        return None
    await remove_collection(qdrant, previous)
    return previous


async def remove_abandoned(qdrant: Qdrant, alias: str) -> None:
    """Delete the collections of ``alias`` that are neither live nor the previous one.

    Abandoned rebuilds leave them behind. Call it only while no rebuild is running.
    """
    kept = {await find_collection(qdrant, alias), await find_previous(qdrant, alias)}
    existing = (await qdrant.ask(lambda client: client.get_collections())).collections
    built_for_alias = re.compile(re.escape(alias) + "__[0-9a-f]{12}")
    for collection in existing:
        names = CollectionNames.at(alias, collection.name)
        if built_for_alias.fullmatch(collection.name) and names not in kept:
            await remove_collection(qdrant, names)


async def remove_collection(qdrant: Qdrant, names: CollectionNames) -> None:
    """Delete a collection with its ledger; aliases to it go along.

    The chunks go last: until then, an alias still names the collection, so that the removal can be
    repeated if it was interrupted.
    """
    await qdrant.ask(lambda client: client.delete_collection(names.ledger))
    await qdrant.ask(lambda client: client.delete_collection(names.chunks))


async def remove_incomplete(qdrant: Qdrant, names: CollectionNames) -> None:
    """Delete the chunks or the ledger of a collection if the other is missing.

    An interrupted removal leaves one of them, which is of no use without the other.
    """
    exist = [await qdrant.ask(partial(_exists, name)) for name in (names.chunks, names.ledger)]
    if any(exist) and not all(exist):
        await remove_collection(qdrant, names)


async def _exists(name: str, client: AsyncQdrantClient) -> bool:
    return await client.collection_exists(name)


async def _hours_retired(qdrant: Qdrant, names: CollectionNames) -> float:
    info = await qdrant.ask(lambda client: client.get_collection(names.chunks))
    retired_ms: int = (info.config.metadata or {}).get(RETIRED_KEY, 0)
    return (_now_ms() - retired_ms) / MS_PER_HOUR


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
