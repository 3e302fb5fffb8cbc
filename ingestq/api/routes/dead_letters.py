"""``/dead-letters``: documents that failed."""

from heapq import nlargest
from typing import Annotated, Any, Final

import msgspec
from fastapi import APIRouter, Depends, HTTPException, Path, Query

from ingestq.api.errors import problems
from ingestq.api.parameters import DOC_ID, Caller, Collections
from ingestq.api.schemas import (
    DeadLetterDetail,
    DeadLetterList,
    DeadLetterResponse,
    Purged,
    Requeued,
)
from ingestq.broker.queue.dead_letters import DeadLetterFilter, DeadLetters, StoredDeadLetter
from ingestq.client.client import new_submission
from ingestq.core.errors import ContractError
from ingestq.core.jobs import dead_letter_place, decode_job
from ingestq.core.results import DeadLetter
from ingestq.core.tokens import Principal

DEFAULT_LIMIT: Final = 100
LARGEST_LIMIT: Final = 1000

DocId = Annotated[str, Path(min_length=1)]
AllowMassDelete = Annotated[
    bool, Query(description="Delete what is held back of a folder or list.")
]
Tenant = Annotated[
    str | None, Query(description="The tenant of the document; none, or that of the token.")
]


def dead_letter_routes(dead_letters: DeadLetters, collections: Collections) -> APIRouter:
    """Return the routes that list, requeue and delete ``dead_letters``."""
    router = APIRouter(prefix="/dead-letters", tags=["dead letters"])

    async def named(
        doc_id: DocId,
        tenant: Tenant = None,
        *,
        collection: Annotated[str, Depends(collections.parameter)],
        caller: Caller,
    ) -> StoredDeadLetter:
        owner = caller.tenant_of(tenant) or ""
        stored = await dead_letters.find_any_form(collection, owner, doc_id)
        if stored is None or not may_see(caller, stored.dead_letter.key):
            raise HTTPException(404, f"there is no dead letter of {doc_id!r}")
        return stored

    @router.get("", responses=problems(422, 503))
    async def newest(
        tenant: Annotated[str | None, Query(description="Only those of this tenant.")] = None,
        reason: Annotated[
            str | None, Query(description="Only those whose reason contains this.")
        ] = None,
        collection: Annotated[
            str | None, Query(description="Only those of this collection.")
        ] = None,
        limit: Annotated[int, Query(ge=1, le=LARGEST_LIMIT)] = DEFAULT_LIMIT,
        *,
        caller: Caller,
    ) -> DeadLetterList:
        """List the newest dead letters that match, and count all that do."""
        tenant = caller.tenant_of(tenant)
        if collection is not None:
            caller.check_collection(collection)
        wanted = DeadLetterFilter(tenant=tenant, reason=reason, collection=collection)
        total, listed = await _newest(dead_letters, wanted, caller, limit)
        return DeadLetterList(total=total, dead_letters=listed)

    # Before the next route, whose parameter also matches slashes.
    @router.post(f"/{DOC_ID}/requeue", status_code=202, responses=problems(404, 409, 422, 503))
    async def requeue(
        stored: Annotated[StoredDeadLetter, Depends(named)],
        allow_mass_delete: AllowMassDelete = False,
    ) -> Requeued:
        """Queue the document again, with all its tries."""
        submission = new_submission()
        count = await dead_letters.requeue(
            [stored], submission, allow_mass_delete=allow_mass_delete
        )
        _check_unchanged(count)
        return Requeued(requeued=count, submission=submission)

    @router.get(f"/{DOC_ID}", responses=problems(404, 422, 503))
    async def show(stored: Annotated[StoredDeadLetter, Depends(named)]) -> DeadLetterDetail:
        """Show everything known about a document that failed, and the document itself."""
        dead_letter = stored.dead_letter
        summary = DeadLetterResponse.model_validate(dead_letter)
        return DeadLetterDetail(
            **summary.model_dump(), traceback=dead_letter.traceback, payload=_payload(dead_letter)
        )

    @router.delete(f"/{DOC_ID}", responses=problems(404, 409, 422, 503))
    async def purge(stored: Annotated[StoredDeadLetter, Depends(named)]) -> Purged:
        """Delete the dead letter for good."""
        count = await dead_letters.purge([stored])
        _check_unchanged(count)
        return Purged(purged=count)

    return router


async def _newest(
    dead_letters: DeadLetters, wanted: DeadLetterFilter, principal: Principal, limit: int
) -> tuple[int, list[DeadLetterResponse]]:
    """Count the dead letters that match and exist for ``principal``; return the newest as well."""
    total = 0
    found: dict[str, tuple[int, DeadLetterResponse]] = {}
    async for stored in dead_letters.find(wanted):
        dead_letter = stored.dead_letter
        if not may_see(principal, dead_letter.key):
            continue
        total += 1
        response = DeadLetterResponse.model_validate(dead_letter)
        found[dead_letter.key] = (dead_letter.failed_ms, response)
        if len(found) == 2 * limit:
            found = dict(nlargest(limit, found.items(), key=_failed_ms))
    newest = nlargest(limit, found.items(), key=_failed_ms)
    return total, [dead_letter for _, (_, dead_letter) in newest]


def may_see(principal: Principal, key: str) -> bool:
    """Return whether the dead letter with this ``key`` exists for ``principal``.

    Nobody knows whose document is in a job that could not be decoded.
    """
    place = dead_letter_place(key)
    if not principal.is_limited:
        return True
    return place is not None and principal.sees(tenant=place[1], collection=place[0])


def _check_unchanged(count: int) -> None:
    if not count:
        raise HTTPException(409, "the dead letter was changed at the same moment; read it again")


def _failed_ms(item: tuple[str, tuple[int, DeadLetterResponse]]) -> int:
    return item[1][0]


def _payload(dead_letter: DeadLetter) -> dict[str, Any] | None:
    """Return the fields of the queued document or deletion; None if this version cannot."""
    try:
        batch = decode_job(dead_letter.payload).known_batch
    except ContractError:
        return None
    if batch is None or len(batch.documents) != 1:
        return None
    fields: dict[str, Any] = msgspec.to_builtins(batch.documents[0], str_keys=True)
    return fields
