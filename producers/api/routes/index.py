"""``GET /documents/{doc_id}``: what the index holds of a document."""

import asyncio
from typing import Annotated, Protocol

from fastapi import APIRouter, Depends, HTTPException, Path, Query

from broker.dead_letters import DeadLetters
from producers.api.answers import DocumentState
from producers.api.collections import Collections
from producers.api.doc_ids import DOC_ID
from producers.api.errors import problems


class Index(Protocol):
    """Says what is indexed of a document, with the fields of `producers.api.answers.Indexed`.

    None if it never was. ``collection`` is empty where the API knows none by name. Raises
    StoreUnavailable if that cannot be said at the moment.
    """

    async def __call__(self, tenant: str, doc_id: str, collection: str) -> object | None: ...


def index_routes(index: Index, letters: DeadLetters, collections: Collections) -> APIRouter:
    """The route that looks into ``index``, and what went wrong in ``letters``."""
    router = APIRouter(tags=["documents"])

    @router.get(f"/documents/{DOC_ID}", responses=problems(404, 422, 503))
    async def state(
        doc_id: Annotated[str, Path(min_length=1)],
        tenant: Annotated[str, Query(description="Whose document it is.")] = "",
        *,
        collection: Annotated[str, Depends(collections.parameter)],
    ) -> DocumentState:
        """What is indexed of a document, and why its last version failed, if it did.

        A document that waits on the queue for the first time is not known yet.
        """
        indexed, stored = await asyncio.gather(
            index(tenant, doc_id, collection),
            letters.about_document(tenant, doc_id, collection),
        )
        if indexed is None and stored is None:
            raise HTTPException(404, f"nothing is indexed of {doc_id!r}, and nothing failed")
        return DocumentState.model_validate(
            {
                "doc_id": doc_id,
                "tenant": tenant,
                "collection": collection,
                "indexed": indexed,
                "last_error": None if stored is None else stored.letter.reason,
            }
        )

    return router
