"""``GET /search``: find chunks."""

from typing import Annotated, Final, Protocol

from fastapi import APIRouter, Depends, HTTPException, Query

from ingestq.api.errors import problems
from ingestq.api.parameters import Caller, Collections
from ingestq.api.schemas import HitResponse, SearchResponse
from ingestq.core.errors import InvalidQuery, StoreRejected
from ingestq.core.search_query import (
    CONDITION,
    LARGEST_LIMIT,
    MAX_CONDITIONS,
    MOST_AROUND,
    QUERY_CHARACTERS,
    SYNTAX,
    VISIBLE,
    Mode,
    SearchFilter,
    SearchQuery,
    SearchResult,
    parse_condition,
)

DEFAULT_LIMIT: Final = 5


class Search(Protocol):
    """Returns hits with the fields of `ingestq.api.schemas.HitResponse`, best first.

    Raises InvalidQuery or StoreRejected if the collection cannot be searched that way.
    """

    async def __call__(self, query: SearchQuery, /) -> SearchResult[object]: ...


def search_routes(search: Search, collections: Collections) -> APIRouter:
    """Return the route that calls ``search`` for one of ``collections``."""
    router = APIRouter(tags=["search"])

    @router.get("/search", responses=problems(422, 503))
    async def find(
        q: Annotated[
            str,
            Query(
                max_length=QUERY_CHARACTERS,
                description="What to search for.",
                json_schema_extra={"pattern": VISIBLE},
            ),
        ],
        limit: Annotated[
            int, Query(ge=1, le=LARGEST_LIMIT, description="The most hits.")
        ] = DEFAULT_LIMIT,
        mode: Annotated[
            Mode, Query(description="dense: by meaning, sparse: by words, hybrid: both.")
        ] = Mode.HYBRID,
        conditions: Annotated[
            tuple[str, ...],
            Query(
                alias="filter",
                description=f"A condition on the metadata: {SYNTAX}.",
                json_schema_extra={
                    "items": {"type": "string", "pattern": CONDITION},
                    "maxItems": MAX_CONDITIONS,
                },
            ),
        ] = (),
        source: Annotated[str | None, Query(description="Find only chunks of this source.")] = None,
        tenant: Annotated[str | None, Query(description="Find only chunks of this tenant.")] = None,
        group: Annotated[
            bool, Query(description="Find only the best chunk of each document.")
        ] = False,
        around: Annotated[
            int,
            Query(ge=0, le=MOST_AROUND, description="Neighbours on each side of every hit."),
        ] = 0,
        rerank: Annotated[
            bool | None,
            Query(description="Let the reranker order the hits; by default as configured."),
        ] = None,
        *,
        collection: Annotated[str, Depends(collections.parameter)],
        caller: Caller,
    ) -> SearchResponse:
        """Find the chunks that match ``q`` best, best first.

        The first search takes some seconds longer, as it loads the model.
        """
        tenant = caller.tenant_of(tenant)
        try:
            where = SearchFilter(tuple(map(parse_condition, conditions)), source, tenant)
        except ValueError as error:
            raise HTTPException(422, f"query.filter: {error}") from error
        try:
            query = SearchQuery(q, limit, mode, where, collection, group, around, rerank)
            result = await search(query)
        except (InvalidQuery, StoreRejected) as error:
            raise HTTPException(422, str(error)) from error
        return SearchResponse(
            hits=[HitResponse.model_validate(hit) for hit in result.hits],
            reranked=result.reranked,
            warnings=list(result.warnings),
        )

    return router
