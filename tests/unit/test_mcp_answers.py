"""Answers of tools are bounded, and say what they lack."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ingestq.api.mcp import CUT, TEXT_CHARACTERS, bounded

MOST = 2000
ENTRIES = st.lists(st.text(max_size=200) | st.dictionaries(st.text(max_size=9), st.integers()))


@given(
    st.dictionaries(st.sampled_from(["hits", "workers", "warnings"]), ENTRIES),
    st.dictionaries(st.sampled_from(["total", "documents"]), st.integers(0, 10**9)),
)
def test_an_answer_fits_and_counts_what_it_lacks(
    lists: dict[str, list[Any]], more: dict[str, Any]
) -> None:
    answer: dict[str, Any] = lists | more
    short = bounded(answer, MOST)
    assert len(json.dumps(short, ensure_ascii=False)) <= MOST
    left_out = short.pop("left_out", {})
    assert short.keys() == answer.keys()
    for name, entries in lists.items():
        kept = short[name]
        assert kept == entries[: len(kept)]
        assert len(entries) - len(kept) == left_out.get(name, 0)
    assert {name: short[name] for name in more} == more


def test_long_texts_are_cut_at_every_depth() -> None:
    text = "a" * (TEXT_CHARACTERS + 1)
    cut = text[:TEXT_CHARACTERS] + CUT
    assert bounded({"hits": [{"text": text, "before": [{"text": text}]}]}) == {
        "hits": [{"text": cut, "before": [{"text": cut}]}]
    }
