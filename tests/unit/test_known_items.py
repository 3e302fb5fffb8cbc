"""The benchmark's questions have answers, and do not stand in what is indexed."""

from collections import Counter
from collections.abc import Callable

import pytest

from benchmarks.search_sets import KnownItemSet, docstrings, man_pages, written

FEWEST_WRITTEN = 60
PARTICLES = ("에서", "으로", "을", "를", "은", "는", "이", "가", "로", "에")


def texts(items: KnownItemSet) -> dict[str, str]:
    return {document.doc_id: document.text or "" for document in items.documents}


@pytest.mark.parametrize("name", ["korean", "japanese"])
def test_a_written_set_has_several_questions_on_each_document(name: str) -> None:
    items = written(name)
    found = texts(items)
    assert len(found) == len(items.documents) >= FEWEST_WRITTEN
    for kind in ("question", "word"):
        asked = items.questions[kind]
        per_document = Counter(doc_id for question in asked for doc_id in question.doc_ids)
        assert set(per_document.values()) == {2}
        assert per_document.keys() == found.keys()
        assert len({question.text for question in asked}) == len(asked)


def test_a_korean_word_is_in_its_document_only_with_another_particle_or_none() -> None:
    items = written("korean")
    for question in items.questions["word"]:
        noun = next(question.text.removesuffix(p) for p in PARTICLES if question.text.endswith(p))
        having = [doc_id for doc_id, text in texts(items).items() if noun in text]
        assert having == list(question.doc_ids), question.text
        assert not any(question.text in text for text in texts(items).values()), question.text


def test_a_japanese_word_is_in_its_document_only() -> None:
    items = written("japanese")
    for question in items.questions["word"]:
        having = [doc_id for doc_id, text in texts(items).items() if question.text in text]
        assert having == list(question.doc_ids), question.text


@pytest.mark.slow
@pytest.mark.parametrize("built", [docstrings, man_pages])
def test_questions_are_removed_from_the_documents(
    built: Callable[[int], KnownItemSet],
) -> None:
    items = built(10)
    if not items.documents:
        pytest.skip("there are none on this machine")
    found = texts(items)
    for questions in items.questions.values():
        for question in questions:
            [doc_id] = question.doc_ids
            assert question.text not in " ".join(found[doc_id].split()), doc_id
