"""The collections that a worker serves, each opened before any job is claimed."""

from collections.abc import Mapping
from dataclasses import dataclass

from broker.contract import Lane
from broker.gate import Gate
from ingestq.runtime import Broker
from ingestq.settings import Settings
from worker.collection import CollectionNames, find_collection, open_collection
from worker.contents import SpooledContents
from worker.embedding.pool import ModelPool
from worker.exchange import remove_expired
from worker.fingerprint import fingerprint
from worker.ledger import QdrantLedger
from worker.ports import Ports
from worker.qdrant import PatientQdrant, Qdrant
from worker.room import Room
from worker.store import QdrantStore


@dataclass(frozen=True)
class Served:
    """By public name, the one first that jobs without a name are for: what is behind it, and the
    pipeline's neighbours in each lane."""

    chunks: Mapping[str, str]
    ports: Mapping[str, Mapping[Lane, Ports]]


async def open_served(
    settings: Settings, broker: Broker, qdrant: Qdrant, model: ModelPool
) -> Served:
    """Open every collection that the settings name; one that does not exist is made.

    All share the model, and what bounds the documents in memory. Raises CollectionMismatch if one
    of them was made with another model or other settings, StoreUnavailable, BrokerUnavailable.
    """
    opened = [await _opened(name, settings, broker, qdrant, model) for name in settings.collections]
    models = {lane: model.in_lane(lane) for lane in Lane}
    rooms = {lane: Room() for lane in Lane}
    contents = SpooledContents(broker.spool, settings.max_document_bytes)
    patient = PatientQdrant(qdrant)
    ports = {}
    for names in opened:
        chunks = QdrantStore(patient, names.chunks, settings.vector_name)
        ledger = QdrantLedger(patient, names.ledger)
        ports[names.alias] = {
            lane: Ports(models[lane], chunks, ledger, room=rooms[lane], contents=contents)
            for lane in Lane
        }
    return Served({names.alias: names.chunks for names in opened}, ports)


async def _opened(
    alias: str, settings: Settings, broker: Broker, qdrant: Qdrant, model: ModelPool
) -> CollectionNames:
    schema = settings.collection_schema
    is_first = await find_collection(qdrant, alias) is None
    names = await open_collection(qdrant, alias, fingerprint(model.info, schema), schema.storage)
    if is_first:  # whatever one of this name was replaced by once
        await Gate(broker.redis, broker.config, names.chunks).open()
    await remove_expired(PatientQdrant(qdrant), alias, settings.keep_previous_hours)
    return names
