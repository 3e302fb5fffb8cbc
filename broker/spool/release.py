"""Removes from the spool what jobs and dead letters named that are gone."""

from collections.abc import Iterable, Sequence

import structlog

from broker import events
from broker.contract import objects_in
from broker.errors import ContractError, SpoolUnavailable, UsageError
from broker.spool.store import Spool

log = structlog.get_logger()


async def release(
    spool: Spool | None, payloads: Iterable[bytes], kept: Iterable[bytes] = ()
) -> None:
    """Remove the objects that ``payloads`` name, but those that others which are ``kept`` name.

    To be called when Redis has forgotten them, never before. What cannot be removed now is left
    over: see `broker.spool.leftovers`.
    """
    if spool is None:
        return
    names = sorted(_objects(payloads) - _objects(kept))
    await discard(spool, names)


async def discard(spool: Spool, names: Sequence[str]) -> None:
    """Remove objects that nobody names; a failure is only logged."""
    try:
        await spool.remove(names)
    except (SpoolUnavailable, UsageError) as error:
        log.warning(events.SPOOL_LEFT, objects=len(names), error=str(error))


def _objects(payloads: Iterable[bytes]) -> frozenset[str]:
    names: set[str] = set()
    for payload in payloads:
        try:
            names |= objects_in(payload)
        except ContractError:
            continue  # of another version: nobody knows what it names
    return frozenset(names)
