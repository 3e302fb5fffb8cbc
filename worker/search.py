"""A question and its answer."""

from typing import Protocol

from broker.errors import WrongQuestion
from broker.question import Mode, Question
from worker.collection import CollectionNames, check_searchable
from worker.embedding.models import ModelInfo
from worker.points import Hit, QueryVectors
from worker.qdrant import Qdrant
from worker.store import QdrantStore
from worker.where import meets


class QueryModel(Protocol):
    """A question in, vectors out; see `worker.embedding.pool.ModelPool`."""

    info: ModelInfo

    async def embed_query(self, text: str) -> QueryVectors: ...


async def search(
    qdrant: Qdrant, names: CollectionNames, model: QueryModel, question: Question
) -> list[Hit]:
    """The chunks that answer ``question``, best first.

    Raises CollectionMismatch if the collection was made with another model, and WrongQuestion
    if it has no sparse vectors and nothing else may be searched.
    """
    made_with = await check_searchable(qdrant, names, model.info)
    if question.mode is Mode.SPARSE and not made_with.sparse:
        raise WrongQuestion(
            f"the collection {names.alias!r} has no sparse vectors: it was made with "
            "INGESTQ_HYBRID=false, so it can only be searched by meaning (dense)"
        )
    dense, sparse = await model.embed_query(question.text)
    return await QdrantStore(qdrant, names.chunks, made_with.vector_name).search(
        None if question.mode is Mode.SPARSE else dense,
        question.limit,
        sparse=sparse if made_with.sparse and question.mode is not Mode.DENSE else None,
        only=meets(question.where),
    )
