"""Writing requests, run against one shard in steps, between which other requests are served.

`prepared` refuses what Qdrant refuses before it does anything; what it returns refuses what does
not fit the collection, before it writes anything of the operation. Both raise Refused.

Operations by filter are logged with the ids that they found, so that replaying the log after a
crash does the same again, whatever the points have become by then.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any, Final, Literal, Protocol

import qdrant_edge as edge
from msgspec import DecodeError, Raw, Struct
from msgspec.json import Decoder

from ingestq.embedded.qdrant.catalog import Collection
from ingestq.embedded.qdrant.errors import Refused, invalid, malformed, unknown_vector
from ingestq.embedded.qdrant.filters import Filter, PointId, check_ids, to_filter
from ingestq.embedded.qdrant.points import (
    NamedVectors,
    Payload,
    PointStruct,
    PointVectors,
    SparseValues,
    check_fit,
    check_form,
    check_payload,
    to_point,
    to_vectors,
)
from ingestq.embedded.qdrant.shard import Points

UPSERT_STEP: Final = 128
"""How many points are written at once: building the engine's operation lets no other thread run."""
ID_STEP: Final = 256
"""How many points an operation that has no vectors changes at once."""
DECODER: Final = Decoder(PointStruct)
UPDATE_MODES: Final = {
    "upsert": edge.UpdateMode.Upsert,
    "insert_only": edge.UpdateMode.InsertOnly,
    "update_only": edge.UpdateMode.UpdateOnly,
}

Steps = Iterator[None]
"""A write in progress; each item is a step done."""
Write = Callable[[Points, Collection], Steps]
"""Writes, step by step."""


class Update(Protocol):
    """A request that writes."""

    def prepared(self) -> Write:
        """Check the request itself, and return what runs it."""
        ...


def checked(update: Update, points: Points, collection: Collection) -> Steps:
    """Check ``update``, then write it step by step."""
    yield from update.prepared()(points, collection)


class PointColumns(Struct, frozen=True, kw_only=True):
    """Points by column."""

    ids: list[PointId]
    vectors: list[list[float]] | dict[str, list[list[float] | SparseValues]]
    payloads: list[Payload | None] | None = None

    def points(self) -> list[PointStruct]:
        """Return the points; raises Refused if the columns differ in length."""
        size = len(self.ids)
        payloads = [None] * size if self.payloads is None else self.payloads
        named = self.vectors if isinstance(self.vectors, dict) else {}
        columns: list[Sequence[object]] = [payloads, *named.values()]
        if isinstance(self.vectors, list):
            columns.append(self.vectors)
        if any(len(column) != size for column in columns):
            raise invalid("batch: ids, vectors and payloads must have the same length")
        vectors: list[list[float]] | list[NamedVectors]
        if isinstance(self.vectors, list):
            vectors = self.vectors
        else:
            vectors = [{name: named[name][n] for name in named} for n in range(size)]
        return list(map(PointStruct, self.ids, vectors, payloads))


class Upsert(Struct, frozen=True, kw_only=True):
    """Inserts points, and replaces those that meet the filter.

    Points are decoded one by one: decoding many at once would let no other thread run.
    """

    points: list[Raw] | None = None
    batch: PointColumns | None = None
    update_filter: Filter | None = None
    update_mode: Literal["upsert", "insert_only", "update_only"] | None = None

    def prepared(self) -> Write:
        if (self.points is None) is (self.batch is None):
            raise malformed("data did not match any variant of untagged enum PointInsertOperations")
        points = self._points()
        check_form(points)
        return partial(self._run, points, to_filter(self.update_filter))

    def _run(
        self,
        points: Sequence[PointStruct],
        only: edge.Filter | None,
        shard: Points,
        collection: Collection,
    ) -> Steps:
        check_fit(points, collection.config)
        collection.limits.check_size(len(points))
        collection.limits.check_writing(self.update_filter, collection.payload_schema)
        mode = None if self.update_mode is None else UPDATE_MODES[self.update_mode]
        for start in range(0, len(points), UPSERT_STEP):
            step = [to_point(point) for point in points[start : start + UPSERT_STEP]]
            shard.update(
                edge.UpdateOperation.upsert_points(step, only, mode), [point.id for point in step]
            )
            yield

    def _points(self) -> list[PointStruct]:
        if self.batch is not None:
            return self.batch.points()
        return [_decoded(point, number) for number, point in enumerate(self.points or ())]


def _decoded(point: Raw, number: int) -> PointStruct:
    try:
        return DECODER.decode(point)
    except (DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise malformed(str(error).replace("`$", f"`$.points[{number}]")) from error


class Chosen(Struct, frozen=True, kw_only=True):
    """Names points by their ids, or by a filter."""

    points: list[PointId] | None = None
    filter: Filter | None = None

    def prepared(self) -> Write:
        if self.points is None and self.filter is None:
            raise self._nothing_chosen()
        check_ids(self.points or ())
        return partial(self._run, to_filter(self.filter))

    def _nothing_chosen(self) -> Refused:
        return malformed("data did not match any variant of untagged enum PointsSelector")

    def _run(self, only: edge.Filter | None, shard: Points, collection: Collection) -> Steps:
        """Apply the operation to the points, some at a time."""
        self._check_fit(collection)
        if self.points is not None:
            ids = iter(self.points)
            while step := list(islice(ids, ID_STEP)):
                shard.update(self._operation(step), step)
                yield
            return
        collection.limits.check_writing(self.filter, collection.payload_schema)
        offset: Any = None
        while True:
            page = edge.ScrollRequest(offset, ID_STEP, only, with_payload=False, with_vector=False)
            records, offset = shard.scroll(page)
            if records:
                found = [record.id for record in records]
                shard.update(self._operation(found), found)
            yield
            if offset is None:
                return

    def _check_fit(self, collection: Collection) -> None:
        """Raise Refused for an operation that does not fit the collection."""

    def _operation(self, ids: list[Any]) -> edge.UpdateOperation:
        """Return the engine's operation on some of the points."""
        raise NotImplementedError


class Delete(Chosen, frozen=True, kw_only=True):
    """Deletes points."""

    def _operation(self, ids: list[Any]) -> edge.UpdateOperation:
        return edge.UpdateOperation.delete_points(ids)


class SetPayload(Chosen, frozen=True, kw_only=True):
    """Sets fields of the payload, of points that exist."""

    payload: Payload
    key: str | None = None

    def _nothing_chosen(self) -> Refused:
        return invalid("No filter or points provided")

    def prepared(self) -> Write:
        run = Chosen.prepared(self)
        check_payload(self.payload, self.key)
        return run

    def _operation(self, ids: list[Any]) -> edge.UpdateOperation:
        return edge.UpdateOperation.set_payload(ids, self.payload, self.key)


class OverwritePayload(SetPayload, frozen=True, kw_only=True):
    """Replaces the payload, of points that exist."""

    def _operation(self, ids: list[Any]) -> edge.UpdateOperation:
        return edge.UpdateOperation.overwrite_payload(ids, self.payload, self.key)


class DeletePayload(Chosen, frozen=True, kw_only=True):
    """Removes fields of the payload."""

    keys: list[str]

    def _operation(self, ids: list[Any]) -> edge.UpdateOperation:
        return edge.UpdateOperation.delete_payload(ids, self.keys)


class ClearPayload(Chosen, frozen=True, kw_only=True):
    """Removes the payload."""

    def _operation(self, ids: list[Any]) -> edge.UpdateOperation:
        return edge.UpdateOperation.clear_payload(ids)


class UpdateVectors(Struct, frozen=True, kw_only=True):
    """Replaces vectors of points that exist."""

    points: list[PointVectors]
    update_filter: Filter | None = None

    def prepared(self) -> Write:
        check_form(self.points)
        return partial(self._run, to_filter(self.update_filter))

    def _run(self, only: edge.Filter | None, shard: Points, collection: Collection) -> Steps:
        check_fit(self.points, collection.config)
        for start in range(0, len(self.points), UPSERT_STEP):
            step = [
                edge.PointVectors(point.id, to_vectors(point.vector))
                for point in self.points[start : start + UPSERT_STEP]
            ]
            shard.update(
                edge.UpdateOperation.update_vectors(step, only), [point.id for point in step]
            )
            yield


class DeleteVectors(Chosen, frozen=True, kw_only=True):
    """Removes vectors from points."""

    vector: list[str]

    def _check_fit(self, collection: Collection) -> None:
        for name in self.vector:
            if (
                name not in collection.config.vectors
                and name not in collection.config.sparse_vectors
            ):
                raise unknown_vector(name)

    def _operation(self, ids: list[Any]) -> edge.UpdateOperation:
        return edge.UpdateOperation.delete_vectors(ids, self.vector)


class BatchOperation(Struct, frozen=True, kw_only=True):
    """One operation of a batch."""

    upsert: Upsert | None = None
    delete: Delete | None = None
    set_payload: SetPayload | None = None
    overwrite_payload: OverwritePayload | None = None
    delete_payload: DeletePayload | None = None
    clear_payload: ClearPayload | None = None
    update_vectors: UpdateVectors | None = None
    delete_vectors: DeleteVectors | None = None

    def update(self) -> Update:
        """Return the operation; raises Refused unless there is exactly one."""
        given = [one for name in self.__struct_fields__ if (one := getattr(self, name)) is not None]
        if len(given) != 1:
            raise malformed("data did not match any variant of untagged enum UpdateOperation")
        operation: Update = given[0]
        return operation


class Batch(Struct, frozen=True):
    """Operations that are applied in order; those before a refused one stay applied."""

    operations: list[BatchOperation]

    def prepared(self) -> Write:
        return partial(_run_all, [operation.update().prepared() for operation in self.operations])


def _run_all(writes: Sequence[Write], shard: Points, collection: Collection) -> Steps:
    for write in writes:
        yield from write(shard, collection)
