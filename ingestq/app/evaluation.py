"""Measures retrieval: asks questions with known answers, and says where a search finds them."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from qdrant_client import models

from ingestq.app.questions import FoundText, Question
from ingestq.app.retrieval_measures import DEPTH, Ranks, means, ndcg
from ingestq.core.display import Activity, Display
from ingestq.core.search_query import Mode, SearchFilter, SearchQuery
from ingestq.core.unicode_forms import composed, usual_forms
from worker.embedding.config import ModelInfo
from worker.pipeline.points import QueryVectors
from worker.store.chunks import DEFAULT_FUSION, Fusion, QdrantStore
from worker.store.client import Qdrant
from worker.store.collection import CollectionNames, stored_fingerprint
from worker.store.search import QueryModel, search, to_filter

EVERYTHING: Final = SearchFilter()


@dataclass(frozen=True)
class Evaluation:
    """Where and how to search: all of ``modes``, among the chunks that meet ``where``.

    Without ``modes``, these are all that the collection has vectors for.
    """

    names: CollectionNames
    modes: Sequence[Mode] = ()
    where: SearchFilter = EVERYTHING
    fusion: Fusion = DEFAULT_FUSION


@dataclass(frozen=True)
class QuestionResult:
    """What a search found for ``question``. ``best`` is the document of the first hit, if any."""

    question: Question
    ranks: Ranks
    best: str | None

    @property
    def rank(self) -> int | None:
        """The rank of the first right hit."""
        return min((rank for rank in self.ranks if rank is not None), default=None)

    def as_json(self) -> dict[str, Any]:
        question = self.question
        return {
            "line": question.line,
            "question": question.text,
            "doc_id": list(question.doc_ids),
            "text": list(question.texts),
            "rank": self.rank,
            "best": self.best,
        }


@dataclass(frozen=True)
class AbsentDocument:
    """A document that the question in ``line`` expects, and that no search can find."""

    line: int
    doc_id: str


@dataclass(frozen=True)
class EvalReport:
    """The answers to all questions by mode; `as_json` is the documented JSON.

    ``absent`` are expected documents without chunks that could be found.
    """

    collection: str
    answers: Mapping[Mode, Sequence[QuestionResult]]
    absent: Sequence[AbsentDocument]

    @property
    def questions(self) -> int:
        return max(map(len, self.answers.values()))

    def figures(self, mode: Mode) -> dict[str, float]:
        """Return the means of all measures in ``mode``."""
        return means([answer.ranks for answer in self.answers[mode]])

    def misses(self, mode: Mode, n: int) -> list[QuestionResult]:
        """Return up to ``n`` questions whose answer in ``mode`` is not ideal, the worst first."""
        scored = [(ndcg(answer.ranks, DEPTH), answer) for answer in self.answers[mode]]
        missed = [(score, answer) for score, answer in scored if score < 1]
        return [answer for _, answer in sorted(missed, key=lambda pair: pair[0])[:n]]

    def as_json(self, misses: int = 0) -> dict[str, Any]:
        """Return the report, with up to so many ``misses`` of each mode."""
        report: dict[str, Any] = {
            "collection": self.collection,
            "questions": self.questions,
            "modes": {mode.value: self.figures(mode) for mode in self.answers},
            "absent": [{"line": a.line, "doc_id": a.doc_id} for a in self.absent],
        }
        if misses:
            report["misses"] = {
                mode.value: [answer.as_json() for answer in self.misses(mode, misses)]
                for mode in self.answers
            }
        return report


class _EmbeddedOnce:
    """A `QueryModel` that embeds a query once if it is searched for several times in a row."""

    def __init__(self, model: QueryModel) -> None:
        self.info: ModelInfo = model.info
        self._model = model
        self._last: tuple[str, QueryVectors] | None = None

    async def embed_query(self, text: str) -> QueryVectors:
        if self._last is None or self._last[0] != text:
            self._last = text, await self._model.embed_query(text)
        return self._last[1]


async def evaluate(
    qdrant: Qdrant,
    model: QueryModel,
    questions: Sequence[Question],
    wanted: Evaluation,
    display: Display,
) -> EvalReport:
    """Search for at least one question in every mode, as a user would, and show progress.

    Raises what `worker.store.search.search` raises.
    """
    modes = wanted.modes or await _possible_modes(qdrant, wanted.names)
    once = _EmbeddedOnce(model)
    answers: dict[Mode, list[QuestionResult]] = {mode: [] for mode in modes}
    seen: set[str] = set()
    for done, question in enumerate(questions):
        display.show(Activity("searching", done, len(questions), units="questions"))
        for mode in modes:
            query = SearchQuery(question.text, DEPTH, mode, wanted.where, wanted.names.alias)
            hits = await search(qdrant, wanted.names, once, query, wanted.fusion)
            seen.update(composed(hit.doc_id) for hit in hits)
            ranks = question.ranks([FoundText(hit.doc_id, hit.text) for hit in hits])
            answers[mode].append(QuestionResult(question, ranks, hits[0].doc_id if hits else None))
    absent = [one async for one in _absent(qdrant, questions, wanted, seen)]
    total = len(questions)
    display.show(Activity("searching", total, total, units="questions", finished=True))
    return EvalReport(wanted.names.alias, answers, absent)


async def _possible_modes(qdrant: Qdrant, names: CollectionNames) -> Sequence[Mode]:
    made_with = await stored_fingerprint(qdrant, names)
    has_words = made_with is not None and bool(made_with.sparse)
    return (Mode.DENSE, Mode.SPARSE, Mode.HYBRID) if has_words else (Mode.DENSE,)


async def _absent(
    qdrant: Qdrant, questions: Iterable[Question], wanted: Evaluation, seen: set[str]
) -> AsyncIterator[AbsentDocument]:
    """Yield the expected documents that were not ``seen`` and have no chunk to be found."""
    chunks = QdrantStore(qdrant, wanted.names.chunks)
    for question in questions:
        for doc_id in question.doc_ids:
            if composed(doc_id) in seen:
                continue
            if await chunks.count(_is_document(doc_id, wanted.where)):
                seen.add(composed(doc_id))
            else:
                yield AbsentDocument(question.line, doc_id)


def _is_document(doc_id: str, where: SearchFilter) -> models.Filter:
    forms = models.MatchAny(any=list(usual_forms(doc_id)))
    of_document = models.FieldCondition(key="doc_id", match=forms)
    others = to_filter(where)
    return models.Filter(must=[of_document, *([] if others is None else [others])])
