"""Search while a collection is rebuilt and the alias is cut over."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from benchmarks.index.bench import Bench
from ingestq.app.composition import open_broker, open_qdrant
from ingestq.app.reindex import build
from ingestq.app.settings import Settings
from ingestq.core.display import NoDisplay
from ingestq.core.errors import IngestqError
from worker.maintenance.reindex import ReindexResult
from worker.store.chunks import QdrantStore
from worker.store.client import Qdrant
from worker.store.collection import find_collection

HITS: Final = 10
SMALLER_CHUNK_TOKENS: Final = 128
"""Half of the default, which is the limit of the bundled model."""
PAUSE_SECONDS: Final = 0.02
"""Between two searches, so that they do not slow the rebuild down."""


@dataclass(frozen=True)
class SearchQuery:
    """A query and its expected answer: `HITS` chunks, one of them of ``doc_id``, in a collection of
    ``documents`` documents."""

    vector: Sequence[float]
    doc_id: str
    documents: int


class Answer(StrEnum):
    """Whether a search was answered."""

    COMPLETE = "complete"
    INCOMPLETE = "incomplete"
    FAILED = "failed"


async def measure_searches(bench: Bench, query: SearchQuery) -> None:
    """Measure searches while the collection that ``query`` is for is rebuilt."""
    bench.say("rebuilding")
    answers = await search_while_rebuilding(bench.part("small"), SMALLER_CHUNK_TOKENS, query)
    bench.samples["searches"].append(answers.total())
    bench.samples["failed"].append(answers[Answer.FAILED])
    bench.samples["incomplete"].append(answers[Answer.INCOMPLETE])


async def search_while_rebuilding(
    settings: Settings, chunk_tokens: int, query: SearchQuery
) -> Counter[Answer]:
    """Rebuild the collection like ``ingestq reindex --chunk-tokens``; return the search answers."""
    wanted = settings.model_copy(update={"chunk_tokens": chunk_tokens})
    async with open_broker(settings) as broker, open_qdrant(settings) as qdrant:
        live = await find_collection(qdrant, settings.collection)
        assert live is not None, "it was just made"
        ended = asyncio.Event()
        searching = asyncio.create_task(_search_until(ended, qdrant, live.alias, query))
        try:
            built = await build(broker, qdrant, live, wanted, NoDisplay())
        finally:
            ended.set()
        answers = await searching
        assert isinstance(built.outcome, ReindexResult), built.outcome
        assert built.outcome.documents == query.documents
        assert await find_collection(qdrant, live.alias) == built.new != live
    return answers


async def _search_until(
    ended: asyncio.Event, qdrant: Qdrant, alias: str, query: SearchQuery
) -> Counter[Answer]:
    """Search again and again; the last search begins after ``ended`` is set."""
    answers: Counter[Answer] = Counter()
    last = False
    while not last:
        last = ended.is_set()
        answers[await _search(qdrant, alias, query)] += 1
        await asyncio.sleep(PAUSE_SECONDS)
    return answers


async def _search(qdrant: Qdrant, alias: str, query: SearchQuery) -> Answer:
    try:
        hits = await QdrantStore(qdrant, alias).search(query.vector, HITS)
        documents = await qdrant.ask(
            lambda client: client.facet(alias, key="doc_id", limit=query.documents + 1, exact=True)
        )
    except IngestqError:
        return Answer.FAILED
    found = query.doc_id in {hit.doc_id for hit in hits}
    complete = len(hits) == HITS and len(documents.hits) == query.documents
    return Answer.COMPLETE if found and complete else Answer.INCOMPLETE
