"""Search queries, as the command and the API read them."""

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final, Generic, NamedTuple, TypeVar, cast

from ingestq.core.documents import DEFAULT_COLLECTION
from ingestq.core.errors import InvalidQuery
from ingestq.core.limits import METADATA_DEPTH, check_texts

LARGEST_LIMIT: Final = 1000
"""The most hits that one search may ask for."""
QUERY_CHARACTERS: Final = 8192
"""Longest text of a search; models read the first thousand characters or two."""
MAX_CONDITIONS: Final = 32
"""Most conditions on the metadata in one search."""
MAX_VALUES: Final = 256
"""Most values in all conditions of one search."""
MOST_AROUND: Final = 5
"""The most neighbours that are shown on each side of a hit."""

VISIBLE: Final = (
    r"[^\s\u0000-\u001f\u007f-\u00a0\u00ad\u200b-\u200f\u2028-\u202f\u2060-\u206f\ufeff]"
)
"""What the text of a search has to have, as a regular expression of JSON Schema: a character that
is no space, no control and not of zero width."""

KEY: Final = r"[^=<>!.\"]+(\.[^=<>!.\"]+)*"
NUMBER: Final = r"-?[0-9]+(\.[0-9]+)?"
DATE: Final = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
TIME: Final = r"[0-9]{2}:[0-9]{2}(:[0-9]{2})?(Z|[+-][0-9]{2}:[0-9]{2})?"
CONDITION: Final = rf"^{KEY}(!?=|[<>]=? *({NUMBER}|{DATE}([T ]{TIME})?) *$)"
"""What `parse_condition` accepts, as a regular expression of JSON Schema."""
SYNTAX: Final = (
    "KEY=VALUE, KEY=A,B (any of them), KEY!=VALUE, or KEY>=BOUND, where >=, <=, > and < take a "
    "number or a date such as 2024-05-31, and KEY is a key of the metadata"
)
OPERATOR: Final = re.compile(rf"({KEY})(!=|>=|<=|=|>|<)(.*)", re.DOTALL)
WHOLE_DAY: Final = re.compile(DATE)
BOUND: Final = re.compile(rf"(?P<number>{NUMBER})|{DATE}([T ]{TIME})?")
VALUE: Final = re.compile(r'\s*+("(?:[^"\\]|\\.)*+"(?=\s*+(?:,|\Z))|[^,]*+)\s*+(?:,|\Z)', re.DOTALL)
"""A value of a list and the comma after it; quoted, it may contain commas itself."""


class Mode(StrEnum):
    """How chunks are found: by meaning (dense), by words (sparse), or by both (hybrid)."""

    HYBRID = "hybrid"
    DENSE = "dense"
    SPARSE = "sparse"


class MetadataCondition(NamedTuple):
    """The condition that the metadata under ``key`` is one of ``values``, or a list that has one.

    Dots in ``key`` lead into nested metadata. A value that reads as a number, or as true, false or
    null, also matches that. With ``negated``, everything else matches, and also what has no such
    key.
    """

    key: str
    values: tuple[str, ...]
    negated: bool = False


class Comparison(StrEnum):
    """How a number or date is compared with a bound."""

    AT_LEAST = ">="
    AT_MOST = "<="
    ABOVE = ">"
    BELOW = "<"


class MetadataRange(NamedTuple):
    """The condition that the metadata under ``key`` compares so with ``bound``.

    Numbers compare with numbers, and times with texts that are dates or times of ISO 8601.
    """

    key: str
    comparison: Comparison
    bound: float | datetime


@dataclass(frozen=True)
class SearchFilter:
    """The conditions that a chunk must meet, all of them, to be found."""

    metadata: tuple[MetadataCondition | MetadataRange, ...] = ()
    source: str | None = None
    tenant: str | None = None


@dataclass(frozen=True)
class SearchQuery:
    """A search for at most ``limit`` chunks.

    ``collection`` is the public name of the collection to search. If it has no sparse vectors,
    ``hybrid`` is the same as ``dense``. With ``group``, only the best chunk of each document is a
    hit. Each hit has with it up to ``around`` chunks before and after it. ``rerank`` says whether
    the hits are reranked; None leaves it to the settings.

    Raises InvalidQuery, which says why, if the text is blank, the text or a condition is too long,
    or there are too many conditions, values, hits or neighbours.
    """

    text: str
    limit: int
    mode: Mode = Mode.HYBRID
    where: SearchFilter = SearchFilter()
    collection: str = DEFAULT_COLLECTION
    group: bool = False
    around: int = 0
    rerank: bool | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.limit <= LARGEST_LIMIT:
            raise InvalidQuery(f"limit is {self.limit}; it must be from 1 to {LARGEST_LIMIT}")
        if not 0 <= self.around <= MOST_AROUND:
            raise InvalidQuery(f"around is {self.around}; it must be from 0 to {MOST_AROUND}")
        if is_blank(self.text):
            raise InvalidQuery("the query is blank; write what to search for")
        if len(self.text) > QUERY_CHARACTERS:
            raise InvalidQuery(
                f"the query has {len(self.text):,} characters; the limit is {QUERY_CHARACTERS:,}"
            )
        self._check_conditions()

    def _check_conditions(self) -> None:
        metadata = self.where.metadata
        if len(metadata) > MAX_CONDITIONS:
            raise InvalidQuery(
                f"the search has {len(metadata)} filters; the limit is {MAX_CONDITIONS}"
            )
        values = [
            value
            for condition in metadata
            if isinstance(condition, MetadataCondition)
            for value in condition.values
        ]
        if len(values) > MAX_VALUES:
            raise InvalidQuery(
                f"the filters have {len(values)} values; the limit is {MAX_VALUES} in all"
            )
        try:
            check_texts(source=self.where.source, tenant=self.where.tenant)
            for condition in metadata:
                check_texts(**{"the key of a filter": condition.key})
            for value in values:
                check_texts(**{"a filter": value})
        except ValueError as error:
            raise InvalidQuery(str(error)) from error
        if any(condition.key.count(".") >= METADATA_DEPTH for condition in metadata):
            raise InvalidQuery(
                f"the key of a filter leads more than {METADATA_DEPTH} deep into the metadata"
            )


H_co = TypeVar("H_co", covariant=True)


@dataclass(frozen=True)
class SearchResult(Generic[H_co]):
    """The ``hits`` of a search, best first, and whether they were ``reranked``.

    ``warnings`` say what was wanted and could not be done.
    """

    hits: Sequence[H_co] = ()
    reranked: bool = False
    warnings: tuple[str, ...] = ()


def is_blank(text: str) -> bool:
    """Return whether ``text`` has nothing that can be searched for; see `VISIBLE`."""
    return re.search(VISIBLE, text) is None


def parse_condition(text: str) -> MetadataCondition | MetadataRange:
    """Return the condition that ``text`` stands for, such as ``tag=a,b`` or ``year>=2024``.

    Raises ValueError, which says what can be written, if it stands for none.
    """
    parts = OPERATOR.fullmatch(text)
    if parts is None:
        raise ValueError(f"{text!r} is not {SYNTAX}")
    key, operator, value = parts[1], parts[3], parts[4]
    key = key.strip() or key
    if operator in ("=", "!="):
        return MetadataCondition(key, tuple(_values(value)), negated=operator == "!=")
    try:
        return _range(key, Comparison(operator), value.strip(" "))
    except (ValueError, OverflowError) as error:
        raise ValueError(
            f"{text!r} has no number or date after {operator}; a filter is {SYNTAX}"
        ) from error


def _values(text: str) -> Iterator[str]:
    end = 0
    while True:
        # Every text matches: a quote that does not end is a character like others.
        found = cast(re.Match[str], VALUE.match(text, end))
        yield _unquoted(found[1].strip())
        if not found[0].endswith(","):
            return
        end = found.end()


def _unquoted(text: str) -> str:
    if not text.startswith('"'):
        return text
    try:
        value = json.loads(text, strict=False)
    except ValueError:
        return text
    return value if isinstance(value, str) else text


def _range(key: str, comparison: Comparison, text: str) -> MetadataRange:
    found = BOUND.fullmatch(text)
    if found is None:
        raise ValueError(text)
    if found["number"]:
        bound = float(text)
        if math.isinf(bound):
            raise ValueError(text)
        return MetadataRange(key, comparison, bound)
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        time = time.replace(tzinfo=UTC)
    if WHOLE_DAY.fullmatch(text):  # the whole day
        if comparison is Comparison.AT_MOST:
            return MetadataRange(key, Comparison.BELOW, time + timedelta(days=1))
        if comparison is Comparison.ABOVE:
            return MetadataRange(key, Comparison.AT_LEAST, time + timedelta(days=1))
    return MetadataRange(key, comparison, time)
