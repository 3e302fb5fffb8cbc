"""Finds the documents that a person means to delete: by id, or by the path of a file."""

import asyncio
import heapq
import os
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ingestq.app.composition import Broker, open_index
from ingestq.app.settings import Settings
from ingestq.broker.queue.dead_letters import DeadLetterFilter
from ingestq.broker.queue.pending import queued_documents
from ingestq.core.errors import StoreUnavailable
from ingestq.core.limits import fits
from ingestq.core.paths import path_to_text
from ingestq.core.unicode_forms import composed
from ingestq.core.urls import is_url

if TYPE_CHECKING:
    from worker.store.ledger import QdrantLedger

NEAREST: Final = 3
"""Most ids that are suggested for one that is not known."""
LIKENESS: Final = 0.6
"""How alike an id has to be to be suggested, from 0 to 1; `difflib` calls this a close match."""
COMPARED_IDS: Final = 20_000
"""With how many ids of the index one that is not known is compared: about a second of work."""


@dataclass(frozen=True)
class Selection:
    """The documents that were found for what a person typed.

    ``doc_ids`` are in the index, on the queue or dead letters. ``missing`` maps what is none of
    these to the nearest ids. ``unknown`` maps what may be in the index, because it could not be
    asked, to the ids that it may stand for.
    """

    doc_ids: Sequence[str]
    missing: dict[str, list[str]] = field(default_factory=dict)
    unknown: dict[str, Sequence[str]] = field(default_factory=dict)


async def find_documents(
    typed: Iterable[str], tenant: str, settings: Settings, broker: Broker
) -> Selection:
    """Find the documents of ``tenant`` that ``typed`` names, in the collection of ``settings``.

    Each is an id in any of Unicode's normal forms, or the path of a file whose absolute path is an
    id, whether the file still exists or not. Raises BrokerUnavailable.
    """
    meant = await asyncio.to_thread(lambda: {text: _possible_ids(text) for text in typed})
    known = _KnownIds()
    async for doc_id in _ids_in_redis(tenant, settings.collection, broker):
        known.add(doc_id)
    if all(map(known.find, meant.values())):
        return Selection(known.find_all(meant.values()))
    try:
        async with open_index(settings) as qdrant:
            from worker.store.collection import find_collection
            from worker.store.ledger import QdrantLedger

            if qdrant is not None and (names := await find_collection(qdrant, settings.collection)):
                ledger = QdrantLedger(qdrant, names.ledger)
                await _note_indexed(known, ledger, tenant, meant.values())
                if not all(map(known.find, meant.values())):
                    await _note_others(known, ledger, tenant)
    except (StoreUnavailable, ModuleNotFoundError):
        # Qdrant is away, or the extra is not installed.
        unknown = {text: ids for text, ids in meant.items() if not known.find(ids)}
        return Selection(known.find_all(meant.values()), unknown=unknown)
    missing = [text for text, ids in meant.items() if not known.find(ids)]
    nearest = await asyncio.to_thread(lambda: {text: known.nearest(text) for text in missing})
    return Selection(known.find_all(meant.values()), nearest)


def _possible_ids(text: str) -> Sequence[str]:
    """Return the ids that ``text`` may stand for: itself, and the absolute path of that file."""
    if "\0" in text or is_url(text):
        return (text,)
    path = Path(text)
    paths = (os.path.abspath(path), os.path.realpath(path))  # noqa: PTH100 - keeps links
    ids = (text, *(path_to_text(Path(found)) for found in paths))
    return tuple(dict.fromkeys(doc_id for doc_id in ids if fits(doc_id)))


async def _ids_in_redis(tenant: str, collection: str, broker: Broker) -> AsyncIterator[str]:
    """Yield the ids of documents that wait, run or are dead letters."""
    queued = queued_documents(broker.redis, broker.config, collection)
    wanted = DeadLetterFilter(tenant=tenant, collection=collection)
    async with aclosing(queued), aclosing(broker.dead_letters.find(wanted)) as dead:
        async for document in queued:
            if document.tenant == tenant:
                yield document.doc_id
        async for stored in dead:
            yield stored.dead_letter.doc_id


async def _note_indexed(
    known: "_KnownIds", ledger: "QdrantLedger", tenant: str, meant: Iterable[Sequence[str]]
) -> None:
    from worker.pipeline.points import DocumentKey, EntryState

    wanted = [DocumentKey(tenant, doc_id) for ids in meant for doc_id in ids]
    entries = list((await ledger.look_up(wanted)).values())
    for key in wanted:
        if not key.doc_id.isascii():
            entries += await ledger.other_forms(key)
    for entry in entries:
        if entry.state is not EntryState.DELETED:
            known.add(entry.doc_id)


async def _note_others(known: "_KnownIds", ledger: "QdrantLedger", tenant: str) -> None:
    """Note ids that may be suggested, up to `COMPARED_IDS`."""
    async with aclosing(ledger.doc_ids(tenant)) as pages:
        async for ids in pages:
            known.others.update(ids)
            if len(known.others) >= COMPARED_IDS:
                return


class _KnownIds:
    """Ids of documents that exist, found by any of Unicode's forms; ``others`` are suggested."""

    def __init__(self) -> None:
        self._by_form: defaultdict[str, set[str]] = defaultdict(set)
        self.others: set[str] = set()

    def add(self, doc_id: str) -> None:
        self._by_form[composed(doc_id)].add(doc_id)
        if len(self.others) < COMPARED_IDS:
            self.others.add(doc_id)

    def find(self, ids: Sequence[str]) -> Sequence[str]:
        """Return the first of ``ids`` that exists, or those that differ from it only in form."""
        for doc_id in ids:
            forms = self._by_form.get(composed(doc_id), set())
            if forms:
                return (doc_id,) if doc_id in forms else sorted(forms)
        return ()

    def find_all(self, meant: Iterable[Sequence[str]]) -> Sequence[str]:
        return tuple(dict.fromkeys(doc_id for ids in meant for doc_id in self.find(ids)))

    def nearest(self, text: str) -> list[str]:
        """Return the ids that are most alike, best first.

        Of a path, only as many parts are compared as ``text`` has.
        """
        parts = [part for part in text.split("/") if part not in ("", ".")]
        matcher = SequenceMatcher(b=composed("/".join(parts)))
        alike = []
        for doc_id in self.others:
            matcher.set_seq1(composed("/".join(doc_id.split("/")[-len(parts) :])))
            if matcher.real_quick_ratio() < LIKENESS or matcher.quick_ratio() < LIKENESS:
                continue
            if (likeness := matcher.ratio()) >= LIKENESS:
                alike.append((likeness, doc_id))
        return [doc_id for _, doc_id in heapq.nlargest(NEAREST, alike)]
