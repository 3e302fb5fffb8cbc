"""Which points a filter matches, with and without payload indexes."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Final

import pytest
from qdrant_client import AsyncQdrantClient, models

from tests.conformance.conftest import Create
from tests.conformance.data import (
    BOOL,
    INTEGER,
    KEYWORD,
    Id,
    IndexParams,
    equals,
    has_id,
    ids,
    is_empty,
    is_null,
    must,
    must_not,
    none_of,
    one_of,
    payloads,
    point,
    should,
    within,
    write,
)

BIG: Final = 2**63 - 1
MICROSECONDS: Final = 1_767_225_600_000_000
"""A version that Redis issues: larger than 32 bits, and exact as a float."""
GOOSE: Final = "8c5d7a31-4c43-4a0e-9b0f-0a36e2a4a8f1"
POINTS: Final[dict[Id, dict[str, Any]]] = {
    1: {"s": "tide", "n": 1, "b": True, "f": 1.5, "text": "The tide turns at six."},
    2: {"s": "Tide", "n": 2, "b": False, "f": 2, "text": "Ebb and flow"},
    3: {"s": ["tide", "ebb"], "n": [1, 5], "f": [0.5, 9.5], "text": "Spring tides"},
    4: {"s": None, "n": -BIG - 1, "b": None, "at": "2026-03-01T12:00:00Z"},
    5: {"s": "", "n": BIG, "at": "2026-03-01T12:00:00+02:00"},
    6: {"s": [], "n": BIG - 1, "at": "2026-03-02"},
    7: {"s": "1", "n": 1.5, "b": "true", "at": "yesterday"},
    8: {"n": "1", "b": 1},
    9: {"v": MICROSECONDS},
    10: {"v": MICROSECONDS + 1},
    11: {"rejection": {"version": 7, "reason": "damaged"}, "list": [{"x": 1}, {"x": 2, "y": "a"}]},
    12: {"rejection": None, "a.b": "flat", "a": {"b": "nested", "c d": "spaced", "é": "letter"}},
    GOOSE: {"s": "goose", "list": []},
}
INDEXES: Final[dict[str, IndexParams]] = {
    "s": KEYWORD,
    "n": INTEGER,
    "b": BOOL,
    "v": INTEGER,
    "rejection.version": INTEGER,
    "at": models.DatetimeIndexParams(type=models.DatetimeIndexType.DATETIME),
}
EVERY: Final = set(POINTS)


def later_than(moment: datetime) -> models.FieldCondition:
    return models.FieldCondition(key="at", range=models.DatetimeRange(gt=moment))


def text(key: str, words: str) -> models.FieldCondition:
    return models.FieldCondition(key=key, match=models.MatchText(text=words))


@pytest.fixture(scope="module", params=["indexed", "plain"])
async def name(
    request: pytest.FixtureRequest, client: AsyncQdrantClient, create_shared: Create
) -> str:
    """A collection with the `POINTS`."""
    name = await create_shared()
    for field, schema in INDEXES.items() if request.param == "indexed" else ():
        await client.create_payload_index(name, field, schema, wait=True)
    await write(client, name, *(point(id_, payload) for id_, payload in POINTS.items()))
    return name


@pytest.mark.parametrize(
    ("only", "matching"),
    [
        pytest.param(must(equals("s", "tide")), {1, 3}, id="a text"),
        pytest.param(must(equals("s", "")), {5}, id="the empty text"),
        pytest.param(must(equals("s", "1")), {7}, id="a text of digits is no number"),
        pytest.param(must(equals("n", 1)), {1, 3}, id="an integer is no text and no float"),
        pytest.param(must(equals("n", BIG)), {5}, id="the largest integer"),
        pytest.param(must(equals("n", BIG - 1)), {6}, id="the second largest"),
        pytest.param(must(equals("n", -BIG - 1)), {4}, id="the smallest integer"),
        pytest.param(must(equals("b", True)), {1}, id="true"),
        pytest.param(must(equals("b", False)), {2}, id="false is not null and not missing"),
        pytest.param(must(one_of("s", ["ebb", "goose", "no"])), {3, GOOSE}, id="any text"),
        pytest.param(must(one_of("n", [2, 5])), {2, 3}, id="any integer"),
        pytest.param(must(one_of("s", [])), set(), id="any of nothing"),
        pytest.param(must(none_of("s", ["tide", "Tide"])), {3, 5, 7, GOOSE}, id="except texts"),
        pytest.param(must_not(equals("s", "tide")), EVERY - {1, 3}, id="not"),
        pytest.param(must_not(one_of("s", ["tide", "goose"])), EVERY - {1, 3, GOOSE}, id="no one"),
        pytest.param(must(text("text", "turns")), {1}, id="a word"),
        pytest.param(must(within("f", gt=1.5)), {2, 3}, id="above"),
        pytest.param(must(within("f", gte=1.5, lt=2)), {1}, id="between, any element"),
        pytest.param(must(within("f", gt=1, lte=2)), {1, 2}, id="up to"),
        pytest.param(must(within("s", gte=0)), set(), id="a text is in no range"),
        pytest.param(must(within("v", lt=MICROSECONDS + 1)), {9}, id="one microsecond before"),
        pytest.param(must(within("v", lte=MICROSECONDS + 1)), {9, 10}, id="not later than"),
        pytest.param(must(within("v", gt=MICROSECONDS)), {10}, id="one microsecond later"),
        pytest.param(
            must(later_than(datetime(2026, 3, 1, 10, 30, tzinfo=UTC))), {4, 6}, id="a moment"
        ),
        pytest.param(
            must(later_than(datetime(2026, 3, 1, 11, tzinfo=timezone(timedelta(hours=2))))),
            {4, 5, 6},
            id="a moment elsewhere",
        ),
        pytest.param(must(has_id(1, 99, GOOSE)), {1, GOOSE}, id="ids"),
        pytest.param(must(has_id(GOOSE.upper())), {GOOSE}, id="an id in capitals"),
        pytest.param(must(has_id(GOOSE.replace("-", ""))), {GOOSE}, id="an id without hyphens"),
        pytest.param(must(has_id()), set(), id="no id"),
        pytest.param(must_not(has_id(1, 2)), EVERY - {1, 2}, id="other ids"),
        pytest.param(must(is_empty("s")), {4, 6, 8, 9, 10, 11, 12}, id="null, empty or missing"),
        pytest.param(must(is_null("s")), {4}, id="null"),
        pytest.param(must(is_empty("rejection")), EVERY - {11}, id="an object is not empty"),
        pytest.param(must(is_null("rejection")), {12}, id="an object is not null"),
        pytest.param(must(equals("rejection.version", 7)), {11}, id="a nested key"),
        pytest.param(must(within("rejection.version", lte=7)), {11}, id="a nested range"),
        pytest.param(must(is_empty("rejection.version")), EVERY - {11}, id="nested, missing"),
        pytest.param(must(equals("list[].x", 2)), {11}, id="in objects of a list"),
        pytest.param(must(equals("list[].y", "b")), set(), id="in no object of a list"),
        pytest.param(must(equals("a.b", "nested")), {12}, id="a path"),
        pytest.param(must(equals('"a.b"', "flat")), {12}, id="a key with a dot"),
        pytest.param(must(equals('"a"."b"', "nested")), {12}, id="a quoted path"),
        pytest.param(must(equals('a."c d"', "spaced")), {12}, id="a quoted key"),
        pytest.param(must(equals('a."é"', "letter")), {12}, id="a quoted letter"),
        pytest.param(must(equals("unknown", 1)), set(), id="an unknown key"),
        pytest.param(models.Filter(), EVERY, id="nothing asked"),
        pytest.param(models.Filter(must=[], should=[], must_not=[]), EVERY, id="empty lists"),
        pytest.param(should(equals("n", 2), equals("s", "goose")), {2, GOOSE}, id="either"),
        pytest.param(
            models.Filter(
                must=[equals("s", "tide")],
                should=[within("n", gte=5), equals("b", False)],
                must_not=[has_id(1)],
            ),
            {3},
            id="all three",
        ),
        pytest.param(
            must(should(equals("n", 1), equals("n", 2)), must_not(equals("b", True))),
            {2, 3},
            id="filters in filters",
        ),
        pytest.param(
            models.Filter(
                min_should=models.MinShould(
                    conditions=[equals("s", "tide"), equals("n", 1), equals("b", True)],
                    min_count=2,
                )
            ),
            {1, 3},
            id="two of three",
        ),
        pytest.param(
            models.Filter(must=equals("s", "tide"), must_not=has_id(3)), {1}, id="without lists"
        ),
    ],
)
async def test_a_filter_matches(
    client: AsyncQdrantClient, name: str, only: models.Filter, matching: set[Id]
) -> None:
    assert await ids(client, name, only) == matching
    assert (await client.count(name, only)).count == len(matching)
    found = await client.query_points(name, [1.0] * 4, query_filter=only, limit=len(EVERY))
    assert {hit.id for hit in found.points} == matching


async def test_payloads_come_back_as_they_were_written(
    client: AsyncQdrantClient, name: str
) -> None:
    assert await payloads(client, name) == POINTS


async def test_a_text_index_matches_whole_words(client: AsyncQdrantClient, create: Create) -> None:
    name = await create()
    words = models.TextIndexParams(
        type=models.TextIndexType.TEXT, tokenizer=models.TokenizerType.WORD, lowercase=True
    )
    await client.create_payload_index(name, "text", words, wait=True)
    await write(client, name, *(point(i, POINTS[i]) for i in (1, 2, 3)))
    assert await ids(client, name, must(text("text", "TIDE"))) == {1}
    assert await ids(client, name, must(text("text", "flow ebb"))) == {2}
    assert await ids(client, name, must(text("text", "tide ebb"))) == set()


async def test_an_index_that_comes_later_changes_no_result(
    client: AsyncQdrantClient, create: Create
) -> None:
    name = await create()
    await write(client, name, point(1, {"s": "a"}), point(2, {"s": ["b", "a"]}), point(3))
    await client.create_payload_index(name, "s", KEYWORD, wait=True)
    assert await ids(client, name, must(equals("s", "a"))) == {1, 2}
    await client.set_payload(name, {"s": "b"}, [1], wait=True)
    assert await ids(client, name, must(equals("s", "a"))) == {2}
    assert await ids(client, name, must(is_empty("s"))) == {3}
