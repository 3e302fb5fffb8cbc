"""Copies a shard into a new one, without the room that deleted points leave behind.

The engine's own optimizer would stop everything else for seconds. So the points are copied page by
page, beside reads and writes; what changes meanwhile is copied again. In the end, between two
writes, the new shard takes the place of the old one. Everything here blocks.
See docs/adr/0008-bundled-engine.md.
"""

import time
from itertools import islice
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import qdrant_edge as edge

from ingestq.embedded.qdrant.catalog import Collection
from ingestq.embedded.qdrant.files import LogFiles, check_space, create_shard, slots, sync_tree
from ingestq.embedded.qdrant.schema import index_operation, shard_config
from ingestq.embedded.qdrant.shard import Points

LEAST_WASTED: Final = 10_000
"""Less is not worth a copy."""
LEAST_UPDATES: Final = 100_000
"""So many updates of points leave some 100 MB of memory behind."""
PAGE: Final = 128


def is_wasteful(points: Points, folder: Path) -> bool:
    """Return whether a shard is worth a copy.

    Either deleted points have more room than those that are there. Or points were updated so often
    that their payload indexes have more memory for old values than for present ones: these keep an
    entry for each value that a point ever had, until the shard is closed.
    """
    there = points.edge.info().points_count
    if slots(folder) - there > max(there, LEAST_WASTED):
        return True
    return points.updates - there > max(there, LEAST_UPDATES)


class Copy:
    """A shard like that of ``collection``, with a copy of ``points``, in ``folder``."""

    def __init__(self, collection: Collection, points: Points, folder: Path) -> None:
        self._points = points
        self._folder = folder
        self._offset: Any = None
        self._has_all = False
        self._left = points.edge.info().points_count
        self._steps, self._seconds = 0, 0.0
        self.shard = create_shard(folder, shard_config(collection.config))
        for field, schema in collection.payload_schema.items():
            self.shard.update(index_operation(field, schema))
        points.changed = set()

    def step(self) -> bool:
        """Copy a page of points. Return False when all but a page are up to date."""
        began = time.monotonic()
        is_behind = self._step()
        self._steps += 1
        self._seconds += time.monotonic() - began
        return is_behind

    def seconds_left(self) -> float:
        """Return about how long it takes until `step` returns False, if nobody writes."""
        if not self._steps:
            return 0.0
        left = max(self._left, 0) + len(self._points.changed or ())
        return left / PAGE * self._seconds / self._steps

    def _step(self) -> bool:
        check_space(self._folder)
        if self._has_all:
            self._catch_up()
            return len(self._points.changed or ()) > PAGE
        page = edge.ScrollRequest(self._offset, PAGE, with_payload=True, with_vector=True)
        records, self._offset = self._points.edge.scroll(page)
        self._write(records)
        self._left -= len(records)
        self._has_all = self._offset is None
        return True

    def flush(self) -> None:
        """Make what was copied so far durable; the rest is small."""
        sync_tree(self._folder)
        self.shard.flush()

    def finish(self) -> None:
        """Copy what is left, and make it durable; nothing may change meanwhile."""
        while self._points.changed:
            self._catch_up()
        LogFiles(self._folder).sync(self.shard)

    def _catch_up(self) -> None:
        changed = self._points.changed or set()
        ids = list(islice(changed, PAGE))
        changed.difference_update(ids)
        if not ids:
            return
        records = self._points.edge.retrieve(ids, True, True)
        self._write(records)
        there = {str(record.id) for record in records}
        if gone := [id_ for id_ in ids if _canonical(id_) not in there]:
            self.shard.update(edge.UpdateOperation.delete_points(gone))

    def _write(self, records: list[edge.Record]) -> None:
        points = [edge.Point(record.id, _vectors(record), record.payload) for record in records]
        if points:
            self.shard.update(edge.UpdateOperation.upsert_points(points))


def _vectors(record: edge.Record) -> Any:
    return {} if record.vector is None else record.vector


def _canonical(id_: Any) -> str:
    return str(UUID(id_)) if isinstance(id_, str) else str(id_)
