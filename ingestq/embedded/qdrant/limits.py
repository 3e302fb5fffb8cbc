"""Strict mode: limits of a collection, and the payload indexes that its requests need."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from msgspec import Struct

from ingestq.embedded.qdrant.errors import bad_request
from ingestq.embedded.qdrant.filters import Condition, Filter

FACETS: Final = frozenset({"keyword", "integer", "bool", "uuid"})
ORDERS: Final = frozenset({"integer", "float", "datetime"})
INDEXING: Final = "https://qdrant.tech/documentation/concepts/indexing/#payload-index"

Schema = Mapping[str, str | dict[str, Any]]


class StrictMode(Struct, frozen=True, omit_defaults=True, kw_only=True, forbid_unknown_fields=True):
    """The limits of a collection that are supported."""

    enabled: bool = False
    upsert_max_batchsize: int | None = None
    unindexed_filtering_retrieve: bool | None = None
    unindexed_filtering_update: bool | None = None

    def check_size(self, points: int) -> None:
        """Raise Refused for an upsert of too many points."""
        most = self.upsert_max_batchsize
        if self.enabled and most is not None and points > most:
            raise bad_request(
                f'Limit exceeded {points} > {most} for "upsert limit". Help: Reduce the "upsert '
                f'limit" parameter to or below {most}.'
            )

    def check_reading(self, only: Filter | None, schema: Schema) -> None:
        """Raise Refused if a read filters by a field without an index."""
        if self.enabled and self.unindexed_filtering_retrieve is False:
            _check_indexed(only, schema)

    def check_writing(self, only: Filter | None, schema: Schema) -> None:
        """Raise Refused if a write filters by a field without an index."""
        if self.enabled and self.unindexed_filtering_update is False:
            _check_indexed(only, schema)


def check_facet(key: str, schema: Schema) -> None:
    """Raise Refused unless the values of ``key`` can be counted."""
    if index_kind(schema.get(key)) not in FACETS:
        raise bad_request(
            f"No appropriate index for faceting: `{key}`. Please create one to facet on this field."
            f" Check {INDEXING} to see which payload schemas support Match conditions"
        )


def check_order(key: str, schema: Schema) -> None:
    """Raise Refused unless points can be ordered by ``key``."""
    if index_kind(schema.get(key)) not in ORDERS:
        raise bad_request(
            f"No range index for `order_by` key: `{key}`. Please create one to use `order_by`. "
            f"Check {INDEXING} to see which payload schemas support Range conditions"
        )


def index_kind(schema: str | Mapping[str, Any] | None) -> str | None:
    """Return the type of a payload index."""
    return schema if isinstance(schema, str | None) else str(schema["type"])


def _check_indexed(only: Filter | None, schema: Schema) -> None:
    for key in _keys(only, ""):
        if key not in schema:
            raise bad_request(
                f'Index required but not found for "{key}" of one of the following types: '
                "[keyword, integer, float, bool, datetime, uuid, text]. Help: Create an index for "
                "this key or use a different filter."
            )


def _keys(given: Filter | Condition | None, prefix: str) -> Iterator[str]:
    """Yield the fields that a filter compares."""
    if given is None:
        return
    for group in (given.must, given.should, given.must_not):
        for one in group if isinstance(group, list) else () if group is None else (group,):
            yield from _condition_keys(one, prefix)
    for one in () if given.min_should is None else given.min_should.conditions:
        yield from _condition_keys(one, prefix)


def _condition_keys(given: Condition, prefix: str) -> Iterator[str]:
    if given.key is not None:
        yield prefix + given.key
    for field in (given.is_empty, given.is_null):
        if field is not None and not isinstance(field, bool):
            yield prefix + field.key
    if given.nested is not None:
        yield from _keys(given.nested.filter, f"{prefix}{given.nested.key.removesuffix('[]')}[].")
    yield from _keys(given, prefix)
