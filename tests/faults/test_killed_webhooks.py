"""Workers are killed between the ack of a job and the delivery of its message to a webhook."""

import asyncio
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import pytest

from tests.command import Ingestq
from tests.webhook_receiver import SECRET, WebhookReceiver, webhook_receiver


@pytest.fixture
async def receiver() -> AsyncIterator[WebhookReceiver]:
    async with webhook_receiver() as receiver:
        yield receiver


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
    with worker_of(ingestq) as worker:
        added = await ingestq.ended("add", "tide.md", "--wait", "--json")
        assert added.code == 0, added.err
        if is_attempted:
            await receiver.messages(1)
        else:
            assert not receiver.received, "too fast"
        worker.send_signal(signal.SIGKILL)
    receiver.answering.set()
    with worker_of(ingestq):
        messages = await receiver.messages(2 if is_attempted else 1)
    assert len({message.id for message in messages}) == 1
    assert len(messages) == (2 if is_attempted else 1)
    assert messages[0].data["documents"]["indexed"] == 1

    listed = await asyncio.to_thread(ingestq, "webhooks", "list", "--json")
    [webhook] = listed.json["webhooks"]
    assert (webhook["waiting"], webhook["failed"], webhook["delivered"]) == (0, 0, 1)
