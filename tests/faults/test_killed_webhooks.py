"""Workers are killed between the ack of a job and the delivery of its message to a webhook."""

import asyncio
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest

from ingestq.broker.connection import BrokerConfig, connected
from ingestq.broker.scripts import Scripts
from ingestq.embedded.redis import embedded_redis
from tests.command import Ingestq
from tests.redis_proxy import redis_proxy, script
from tests.webhook_receiver import SECRET, WebhookReceiver, webhook_receiver

ALL = 1_000_000
AGAIN_SECONDS = 120.0
"""The lease of an attempt, after which it is made again, and the start of a worker."""


@pytest.fixture
async def receiver() -> AsyncIterator[WebhookReceiver]:
    async with webhook_receiver() as receiver:
        yield receiver


@asynccontextmanager
async def without_messages(ingestq: Ingestq) -> AsyncIterator[str]:
    """Yield a URL of the queue at which no worker gets a message for a webhook."""
    async with embedded_redis(ingestq.folder / ".ingestq") as url:
        async with connected(BrokerConfig(url)) as redis:
            claims = script(Scripts.register(redis).claim_webhooks.sha)
        async with redis_proxy(url) as proxy:
            proxy.drop_before(claims, times=ALL)
            yield proxy.url


@contextmanager
def worker_of(ingestq: Ingestq) -> Iterator[subprocess.Popen[str]]:
    """Run a worker; end it on leaving if it still runs."""
    worker = ingestq.start("worker")
    try:
        yield worker
    finally:
        if worker.poll() is None:
            worker.send_signal(signal.SIGTERM)
        worker.communicate(timeout=60)


@pytest.mark.slow
@pytest.mark.parametrize("is_attempted", [False, True], ids=["before", "during an attempt"])
async def test_a_message_outlives_the_worker_that_finished_the_job(
    ingestq: Ingestq, receiver: WebhookReceiver, is_attempted: bool
) -> None:
    (ingestq.folder / "tide.md").write_text("The tide rises twice a day.")
    ingestq.settings |= {
        "webhook_url": receiver.url,
        "webhook_secret": SECRET,
        "webhook_events": "submission.finished",
        "webhook_allow_private": "true",
    }
    receiver.answering.clear()
    if is_attempted:
        with worker_of(ingestq) as worker:
            await is_added(ingestq)
            await receiver.messages(1)
            worker.send_signal(signal.SIGKILL)
    else:
        async with without_messages(ingestq) as url:
            through_proxy = Ingestq(ingestq.folder, ingestq.settings | {"redis_url": url})
            with worker_of(through_proxy) as worker:
                await is_added(ingestq)
                worker.send_signal(signal.SIGKILL)
    assert len(receiver.received) == is_attempted
    receiver.answering.set()
    with worker_of(ingestq):
        messages = await receiver.messages(1 + is_attempted, AGAIN_SECONDS)
    assert len({message.id for message in messages}) == 1
    assert len(messages) == 1 + is_attempted
    assert messages[0].data["documents"]["indexed"] == 1

    listed = await asyncio.to_thread(ingestq, "webhooks", "list", "--json")
    [webhook] = listed.json["webhooks"]
    assert (webhook["waiting"], webhook["failed"], webhook["delivered"]) == (0, 0, 1)


async def is_added(ingestq: Ingestq) -> None:
    """Add the file, and wait until its job is finished."""
    added = await ingestq.ended("add", "tide.md", "--wait", "--json")
    assert added.code == 0, added.err
