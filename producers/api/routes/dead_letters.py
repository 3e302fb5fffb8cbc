"""``/dead-letters``: the documents that were given up."""

from heapq import nlargest
from typing import Annotated, Any, Final

import msgspec
from fastapi import APIRouter, Depends, HTTPException, Path, Query

from broker.contract import DeadLetter, decode_job
from broker.dead_letters import DeadLetters, LetterFilter, StoredLetter
from broker.errors import ContractError
from producers.api.answers import BuriedDocument, BuriedDocuments, BuriedPayload, Purged, Requeued
from producers.api.collections import Collections
from producers.api.doc_ids import DOC_ID
from producers.api.errors import problems
from producers.client import new_submission

DEFAULT_LIMIT: Final = 100
LARGEST_LIMIT: Final = 1000

DocId = Annotated[str, Path(min_length=1)]
Tenant = Annotated[str, Query(description="Whose document it is.")]


def dead_letter_routes(letters: DeadLetters, collections: Collections) -> APIRouter:
    """The routes that show ``letters``, try them again and drop them."""
    router = APIRouter(prefix="/dead-letters", tags=["dead letters"])

    async def named(
        doc_id: DocId,
        tenant: Tenant = "",
        *,
        collection: Annotated[str, Depends(collections.parameter)],
    ) -> StoredLetter:
        stored = await letters.about_document(tenant, doc_id, collection)
        if stored is None:
            raise HTTPException(404, f"no dead letter is about {doc_id!r}")
        return stored

    @router.get("", responses=problems(422, 503))
    async def newest(
        tenant: Annotated[str | None, Query(description="Those of one tenant.")] = None,
        reason: Annotated[str | None, Query(description="Those with this in their reason.")] = None,
        collection: Annotated[str | None, Query(description="Those of one collection.")] = None,
        limit: Annotated[int, Query(ge=1, le=LARGEST_LIMIT)] = DEFAULT_LIMIT,
    ) -> BuriedDocuments:
        """The newest dead letters, and how many there are that meet the conditions."""
        total = 0
        found: dict[str, tuple[int, BuriedDocument]] = {}
        wanted = LetterFilter(tenant=tenant, reason=reason, collection=collection)
        async for stored in letters.find(wanted):
            total += 1
            letter = stored.letter
            found[letter.key] = (letter.buried_ms, BuriedDocument.model_validate(letter))
            if len(found) == 2 * limit:
                found = dict(nlargest(limit, found.items(), key=_when))
        listed = [letter for _, (_, letter) in nlargest(limit, found.items(), key=_when)]
        return BuriedDocuments(total=total, dead_letters=listed)

    # Before the route whose parameter takes what follows a slash, too.
    @router.post(f"/{DOC_ID}/requeue", status_code=202, responses=problems(404, 409, 422, 503))
    async def requeue(stored: Annotated[StoredLetter, Depends(named)]) -> Requeued:
        """Queue the document again, with all its tries."""
        submission = new_submission()
        count = await letters.requeue([stored], submission)
        _check_unchanged(count)
        return Requeued(requeued=count, submission=submission)

    @router.get(f"/{DOC_ID}", responses=problems(404, 422, 503))
    async def show(stored: Annotated[StoredLetter, Depends(named)]) -> BuriedPayload:
        """Everything that is known of a document that failed, and the document itself."""
        letter = stored.letter
        summary = BuriedDocument.model_validate(letter)
        return BuriedPayload(
            **summary.model_dump(), traceback=letter.traceback, payload=_payload(letter)
        )

    @router.delete(f"/{DOC_ID}", responses=problems(404, 409, 422, 503))
    async def purge(stored: Annotated[StoredLetter, Depends(named)]) -> Purged:
        """Delete the dead letter for good."""
        count = await letters.purge([stored])
        _check_unchanged(count)
        return Purged(purged=count)

    return router


def _check_unchanged(count: int) -> None:
    if not count:
        raise HTTPException(409, "the dead letter changed at this moment; look at it again")


def _when(item: tuple[str, tuple[int, BuriedDocument]]) -> int:
    return item[1][0]


def _payload(letter: DeadLetter) -> dict[str, Any] | None:
    """What was queued, if that is one document, or its removal, of a version known here."""
    try:
        batch = decode_job(letter.payload).known_batch
    except ContractError:
        return None
    if batch is None or len(batch.documents) != 1:
        return None
    fields: dict[str, Any] = msgspec.to_builtins(batch.documents[0], str_keys=True)
    return fields
