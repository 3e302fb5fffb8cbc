"""Filters: Qdrant's JSON, turned into the engine's conditions."""

import re
from collections.abc import Iterable
from typing import Any, Final

import qdrant_edge as edge
from msgspec import Struct

from ingestq.embedded.qdrant.errors import malformed, unsupported

PointId = int | str
LARGEST_ID: Final = 2**64 - 1
INTEGERS: Final = range(-(2**63), 2**63)
UUID: Final = re.compile(r"[0-9a-f]{32}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
DEEPEST_FILTER: Final = 16
"""Operations are logged with their filters, and a log with more than about 120 levels cannot be
read back."""
NO_VARIANT: Final = "data did not match any variant of untagged enum"


class PayloadField(Struct, frozen=True):
    """Names a field of the payload."""

    key: str


class MatchCondition(Struct, frozen=True, kw_only=True, rename={"except_": "except"}):
    """What a field is compared with; one of these is given."""

    value: bool | int | str | None = None
    any: list[int | str] | None = None
    except_: list[int | str] | None = None
    text: str | None = None
    text_any: str | None = None
    phrase: str | None = None


class Range(Struct, frozen=True, kw_only=True):
    """The bounds of a number, or of a date and time."""

    lt: float | str | None = None
    gt: float | str | None = None
    lte: float | str | None = None
    gte: float | str | None = None


class ValuesCount(Struct, frozen=True, kw_only=True):
    """The bounds of the number of values."""

    lt: int | None = None
    gt: int | None = None
    lte: int | None = None
    gte: int | None = None


class MinShould(Struct, frozen=True):
    """Conditions of which some must hold."""

    conditions: "list[Condition]"
    min_count: int


class Nested(Struct, frozen=True):
    """A filter for the elements of a list of objects."""

    key: str
    filter: "Filter"


class Condition(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One condition of any kind, or a filter inside a filter."""

    key: str | None = None
    match: MatchCondition | None = None
    range: Range | None = None
    values_count: ValuesCount | None = None
    geo_bounding_box: Any = None
    geo_radius: Any = None
    geo_polygon: Any = None
    is_empty: bool | PayloadField | None = None
    is_null: bool | PayloadField | None = None
    has_id: list[PointId] | None = None
    has_vector: str | None = None
    nested: Nested | None = None
    must: "list[Condition] | Condition | None" = None
    should: "list[Condition] | Condition | None" = None
    must_not: "list[Condition] | Condition | None" = None
    min_should: MinShould | None = None


class Filter(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The conditions that points have to meet."""

    must: list[Condition] | Condition | None = None
    should: list[Condition] | Condition | None = None
    must_not: list[Condition] | Condition | None = None
    min_should: MinShould | None = None


def check_ids(ids: Iterable[PointId]) -> None:
    """Raise Refused unless each is an unsigned integer or a UUID."""
    for id_ in ids:
        if not (0 <= id_ <= LARGEST_ID if isinstance(id_, int) else UUID.fullmatch(id_)):
            text = f"value {id_} is not a valid point ID, valid values are either an unsigned"
            raise malformed(f"{text} integer or a UUID")


def to_filter(given: Filter | Condition | None, depth: int = 0) -> edge.Filter | None:
    """Return the engine's filter; None if every point meets it. Raises Refused."""
    if given is None:
        return None
    if depth > DEEPEST_FILTER:
        raise malformed(f"filters are nested more than {DEEPEST_FILTER} deep")
    least = given.min_should
    return edge.Filter(
        must=_conditions(given.must, depth),
        should=_conditions(given.should, depth),
        must_not=_conditions(given.must_not, depth),
        min_should=None
        if least is None
        else edge.MinShould(_conditions(least.conditions, depth) or [], least.min_count),
    )


def among(ids: Iterable[PointId], only: edge.Filter) -> edge.Filter:
    """Return the filter of the points with these ids that meet ``only``."""
    return edge.Filter(must=[edge.HasIdCondition(set(ids)), only])


def _conditions(
    given: list[Condition] | Condition | None, depth: int
) -> "list[edge.ConditionType] | None":
    if given is None:
        return None
    return [_condition(one, depth) for one in (given if isinstance(given, list) else [given])]


def _condition(given: Condition, depth: int) -> "edge.ConditionType":
    # No `match` here and below: its class patterns take longer than everything else.
    if given.key is not None:
        return _field_condition(given.key, given)
    if given.has_id is not None:
        check_ids(given.has_id)
        return edge.HasIdCondition(set(given.has_id))
    if isinstance(given.is_empty, PayloadField):
        return edge.IsEmptyCondition(given.is_empty.key)
    if isinstance(given.is_null, PayloadField):
        return edge.IsNullCondition(given.is_null.key)
    if given.has_vector is not None:
        return edge.HasVectorCondition(given.has_vector)
    if given.nested is not None:
        inner = to_filter(given.nested.filter, depth + 1) or edge.Filter()
        return edge.NestedCondition(given.nested.key, inner)
    return to_filter(given, depth + 1) or edge.Filter()


def _field_condition(key: str, given: Condition) -> edge.FieldCondition:
    for name in ("geo_bounding_box", "geo_radius", "geo_polygon"):
        if getattr(given, name) is not None:
            raise unsupported(f"the condition {name}")
    match, range_, count = given.match, given.range, given.values_count
    empty, null = given.is_empty, given.is_null
    if match is None and range_ is None and count is None and empty is None and null is None:
        raise malformed(f"{NO_VARIANT} Condition")
    return edge.FieldCondition(
        key,
        match=None if match is None else _match(match),
        range=None if range_ is None else _range(range_),
        values_count=None if count is None else _values_count(count),
        is_empty=empty if isinstance(empty, bool) else None,
        is_null=null if isinstance(null, bool) else None,
    )


def _match(given: MatchCondition) -> "edge.MatchType":
    value = given.value
    if isinstance(value, bool):
        return edge.MatchValue(_Bool(value))  # type: ignore[arg-type]  # see there
    if isinstance(value, str) or (value is not None and value in INTEGERS):
        return edge.MatchValue(value)
    if given.any is not None:
        return edge.MatchAny(_alike(given.any))
    if given.except_ is not None:
        return edge.MatchExcept(_alike(given.except_))
    if given.text is not None:
        return edge.MatchText(given.text)
    if given.text_any is not None:
        return edge.MatchTextAny(given.text_any)
    if given.phrase is not None:
        return edge.MatchPhrase(given.phrase)
    raise malformed(f"{NO_VARIANT} Condition")


class _Bool:
    """A bool that `edge.MatchValue` takes for one.

    It tries integers first, and so takes True for 1. This looks like numpy's bool, which it knows,
    and which is no integer.
    """

    def __init__(self, value: bool) -> None:
        self._value = value

    def __bool__(self) -> bool:
        return self._value


_Bool.__module__, _Bool.__name__ = "numpy", "bool_"


def _alike(values: list[int | str]) -> Any:
    """Return ``values`` if they are all strings, or all integers of 64 bits."""
    strings = sum(isinstance(value, str) for value in values)
    if strings not in {0, len(values)} or not all(
        isinstance(value, str) or value in INTEGERS for value in values
    ):
        raise malformed(f"{NO_VARIANT} Condition")
    return values


def _range(given: Range) -> "edge.RangeType":
    bounds = {
        name: bound
        for name in given.__struct_fields__
        if (bound := getattr(given, name)) is not None
    }
    dates = sum(isinstance(bound, str) for bound in bounds.values())
    if dates == 0:
        return edge.RangeFloat(**bounds)
    if dates != len(bounds):
        raise malformed(f"{NO_VARIANT} Condition")
    try:
        return edge.RangeDateTime(**bounds)
    except ValueError as error:
        raise malformed(f"{NO_VARIANT} Condition: {error}") from error


def _values_count(given: ValuesCount) -> edge.ValuesCount:
    return edge.ValuesCount(given.lt, given.gt, given.lte, given.gte)
