"""Texts, numbers, plots and sessions of the dashboard."""

import html
import re
import unicodedata
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestq.api.dashboard import wording
from ingestq.api.dashboard.access import SESSION_SECONDS, Sessions
from ingestq.api.dashboard.board import MARK_SECONDS, Pace
from ingestq.api.dashboard.plots import (
    HEIGHT,
    HISTORY_SECONDS,
    SAMPLE_SECONDS,
    WIDTH,
    History,
    Sample,
    plots,
    round_top,
)
from ingestq.api.dashboard.wording import highlighted
from ingestq.broker.queue.stats import RecentSubmission
from ingestq.core.excerpts import excerpt
from ingestq.core.results import ChunkCounts, DocumentCounts, SubmissionStatus

AMOUNTS = st.floats(0, 1e7)
SAMPLES = st.lists(
    st.builds(
        Sample, st.floats(0, 2 * HISTORY_SECONDS), AMOUNTS, AMOUNTS, AMOUNTS, AMOUNTS, AMOUNTS
    ),
    max_size=30,
).map(lambda samples: sorted(samples, key=lambda sample: sample.at))


# Highlights and excerpts


@given(st.text() | st.text("<mark>&/ab "), st.text() | st.text("<mark>&/ab "))
def test_highlighting_changes_no_text(text: str, query: str) -> None:
    without_marks = re.sub("</?mark>", "", highlighted(text, query))
    assert not set("<>") & set(without_marks)
    assert html.unescape(without_marks) == html.unescape(html.escape(text))


@pytest.mark.parametrize(
    ("text", "query", "words"),
    [
        ("The Ferry leaves at noon.", "when does the ferry leave?", ["Ferry"]),
        ("No parrots, parrot.", "PARROT", ["parrot"]),
        ("INV-2041 is open", "inv-2041", ["INV", "2041"]),
        ("Die Straße", "STRASSE", ["Straße"]),
        ("what it is", "what is it?", ["what", "it", "is"]),
        ("a<b", "b", ["b"]),
        ("nothing", "?!", []),
        ("보관함에서 문서를 찾았습니다.", "문서", ["문서"]),
        ("보관함에서 문서를 찾았습니다.", "문서가 보관함", ["보관함", "문서"]),
        (unicodedata.normalize("NFD", "문서를"), "문서", [unicodedata.normalize("NFD", "문서")]),
        ("全文検索エンジンの設定", "検索", ["検索"]),
        ("仓库的备用钥匙", "钥匙在哪里", ["钥匙"]),
        ("予備のﾎﾞﾙﾄです", "ボルト", ["ﾎﾞﾙﾄ"]),
        ("型番ＡＢＣ－１２３４", "abc-1234", ["ＡＢＣ", "１２３４"]),
        ("Kühler und Kuhler", "kuhler", ["Kühler", "Kuhler"]),
        ("max_document_bytes", "document", ["max_document_bytes"]),
    ],
)
def test_words_of_the_query_are_highlighted(text: str, query: str, words: list[str]) -> None:
    assert re.findall("<mark>(.*?)</mark>", highlighted(text, query)) == words


@given(st.text(min_size=580, max_size=700) | st.text(), st.text())
def test_an_excerpt_is_a_part_of_the_text(text: str, query: str) -> None:
    part = excerpt(text, query)
    assert part == text or part.strip("…") in text
    assert len(part) <= len(text)


def test_an_excerpt_starts_shortly_before_the_first_word_of_the_query() -> None:
    text = "word " * 400 + "the ferry leaves " + "word " * 400
    part = excerpt(text, "when does the ferry leave?")
    assert part.startswith("…")
    assert part.endswith("…")
    assert 100 < part.index("ferry") < 200
    assert excerpt(text, "nothing").startswith("word word")


@pytest.mark.parametrize(
    ("word", "query"),
    [("문서를", "문서가"), ("備用鑰匙", "鑰匙"), ("検索する", "全文検索"), ("ﾎﾞﾙﾄ", "ボルト")],
)
def test_an_excerpt_is_found_in_scripts_without_spaces(word: str, query: str) -> None:
    assert word in excerpt("빈 줄 " * 300 + word + " 빈 줄" * 300, query)


def test_an_excerpt_has_the_most_different_words_of_the_query() -> None:
    text = "ferry ferry " + "word " * 400 + "the Ferry leaves at noon " + "word " * 400
    assert "the Ferry leaves at noon" in excerpt(text, "when does the ferry leave? at noon")
    assert excerpt(text, "ferry").startswith("ferry ferry")


# Plots


@given(SAMPLES)
def test_a_line_stays_in_its_plot_and_goes_to_the_right(samples: list[Sample]) -> None:
    for plot in plots(samples):
        for line in plot.lines:
            points = re.findall(r"[ML]([\d.]+) ([\d.]+)", line.path)
            assert len(points) == len(re.findall("[ML]", line.path))
            xs = [float(x) for x, _ in points]
            assert xs == sorted(xs)
            assert all(0 <= x <= WIDTH for x in xs)
            assert all(0 <= float(y) <= HEIGHT for _, y in points)


@given(AMOUNTS, st.sampled_from([1, 2]))
def test_an_axis_reaches_its_highest_value_and_not_far_beyond(highest: float, low: float) -> None:
    top = round_top(highest, low)
    assert max(highest, low) <= top <= max(2.5 * highest, low)
    assert f"{top / 2:.1f}".strip("0.") in ("1", "2", "5")


def test_samples_far_apart_are_not_connected() -> None:
    samples = [Sample(at, 1, 0, 0, 0, 0) for at in (0, 10, 20, 300, 310)]
    [ready, *_] = plots(samples)[0].lines
    assert [ready.path.count(command) for command in "ML"] == [2, 3]


def test_a_plot_has_a_description_in_words() -> None:
    samples = [Sample(0, 1200, 3, 0, 2.5, 30), Sample(10, 900, 4, 0, 2, 28)]
    depth, documents, chunks = plots(samples)
    assert depth.description == (
        "jobs over the last hour: ready 900, maximum 1,200; "
        "in flight 4, maximum 4; deferred 0, maximum 0."
    )
    assert (depth.top, depth.middle) == ("2,000", "1,000")
    assert "documents/s 2.0, maximum 2.5" in documents.description
    assert chunks.top == "40"


def test_the_history_covers_one_hour() -> None:
    history = History()
    for second in range(2 * int(HISTORY_SECONDS)):
        history.add(Sample(second, 0, 0, 0, 0, 0))
    times = [sample.at for sample in history.samples()]
    assert times[-1] - times[0] == HISTORY_SECONDS - SAMPLE_SECONDS
    assert {b - a for a, b in pairwise(times)} == {SAMPLE_SECONDS}


# Time left


def submission(done: int, accepted: int = 100, name: str = "s") -> RecentSubmission:
    status = SubmissionStatus(accepted, DocumentCounts(indexed=done), ChunkCounts(), 1, 1, 0, 0)
    return RecentSubmission(name, 0, status)


def test_the_time_left_follows_from_the_recent_speed() -> None:
    pace = Pace()
    assert pace.seconds_left(0, [submission(10)]) == {}
    assert pace.seconds_left(1, [submission(12)]) == {}, "too early to tell"
    assert pace.seconds_left(10, [submission(20)]) == {"s": 80}
    assert pace.seconds_left(20, [submission(100)]) == {}
    assert pace.seconds_left(30, []) == {}
    assert pace.seconds_left(90, [submission(20)]) == {}, "it is not recent any more"


def test_a_stalled_submission_has_no_estimate() -> None:
    pace = Pace()
    for second in range(300):
        left = pace.seconds_left(second, [submission(min(second, 50))])
    assert left == {}


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(0, 120)), max_size=20))
def test_the_time_left_is_positive_and_finite(steps: list[tuple[float, int]]) -> None:
    pace, now = Pace(), 0.0
    for elapsed, done in steps:
        now += elapsed
        for seconds in pace.seconds_left(now, [submission(done)]).values():
            assert 0 < seconds < float("inf")
            assert now >= MARK_SECONDS


# Numbers and times


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (wording.number(1234567), "1,234,567"),
        (wording.rate(1234.56), "1,234.6"),
        (wording.duration(0.04), "0.0 s"),
        (wording.duration(42.4), "42 s"),
        (wording.duration(540), "9 min"),
        (wording.duration(3900), "1 h 5 min"),
        (wording.duration(90_000), "1 d 1 h"),
        (wording.age(-5), "just now"),
        (wording.age(39), "30 s ago"),
        (wording.age(180), "3 min ago"),
        (wording.age(7300), "2 h ago"),
        (wording.age(1e9), "11,574 d ago"),
        (wording.until(-1), "now"),
        (wording.until(61), "in 1 min"),
        (wording.moment(1_700_000_000_000), "2023-11-14 22:13:20 UTC"),
        (wording.tail("a" * 200), "a" * 200),
        (wording.tail("a" * 200 + "b"), "…" + "a" * 199 + "b"),
    ],
)
def test_numbers_and_times_are_formatted(shown: str, expected: str) -> None:
    assert shown == expected


# Sessions


class NothingRevoked:
    async def add(self, session_id: str, seconds: int) -> None:
        raise AssertionError

    async def has(self, session_id: str) -> bool:
        return False


def sessions_of(token: str) -> Sessions:
    return Sessions(token, NothingRevoked())


async def test_a_session_is_valid_with_the_same_token_until_it_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sessions = sessions_of("an open sésame")
    session = sessions.new()
    assert session != sessions.new()
    assert "sésame" not in session
    assert await sessions.is_valid(session)
    assert await sessions_of("an open sésame").is_valid(session)
    assert not await sessions_of("another").is_valid(session)
    session_id, ends, digest = session.split(".")
    assert not await sessions.is_valid(f"{session_id}.{int(ends) + 1}.{digest}")
    assert not await sessions.is_valid(f"x{session_id}.{ends}.{digest}")
    monkeypatch.setattr("time.time", lambda: int(ends) + 0.0)
    assert not await sessions.is_valid(session)
    assert SESSION_SECONDS < 24 * 3600


@given(st.text())
async def test_other_text_is_not_a_session(session: str) -> None:
    sessions = sessions_of("secret")
    assert not await sessions.is_valid(session)
    await sessions.end(session)
