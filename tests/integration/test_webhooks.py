"""Webhooks: what is written when jobs are finished, and how it is delivered to a real receiver."""

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import trustme
from structlog.testing import capture_logs

from ingestq.app.composition import Broker
from ingestq.broker import keys, scripts
from ingestq.broker.webhooks import ListedWebhook
from ingestq.core import events
from ingestq.core.documents import Document
from ingestq.core.jobs import IngestBatch, dead_letter_batch
from ingestq.core.results import BatchReport, DocumentCounts, WebhookBacklog
from ingestq.core.webhooks import Subscriptions, WebhookEvent, WebhookTarget
from ingestq.monitoring.exposition import queue_exposition
from tests.claims import finish, lease_queue, take
from tests.command import Ingestq
from tests.redis_servers import free_port
from tests.waiting import eventually
from tests.webhook_receiver import (
    OTHER_SECRET,
    SECRET,
    WebhookReceiver,
    webhook_receiver,
)
from worker.webhooks import deliverer, sender
from worker.webhooks.deliverer import RETRY_SECONDS, WebhookDeliverer
from worker.webhooks.sender import open_sender

AT_ONCE: Final = (0.0,) * 100
"""Retry without waiting."""
FINISHED: Final = WebhookEvent.SUBMISSION_FINISHED
DEAD_LETTERED: Final = WebhookEvent.DOCUMENT_DEAD_LETTERED


@pytest.fixture
async def receiver() -> AsyncIterator[WebhookReceiver]:
    async with webhook_receiver() as receiver:
        yield receiver


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Report finished submissions at once, and look for messages all the time."""
    monkeypatch.setattr(scripts, "_texts", scripts._texts.__wrapped__)  # with constants of tests
    monkeypatch.setattr(keys, "WEBHOOK_SETTLE_MS", 0)
    monkeypatch.setattr(deliverer, "POLL_SECONDS", 0.02)


def batch(submission: str, *doc_ids: str, version: int = 1) -> IngestBatch:
    documents = tuple(
        Document(doc_id=doc_id, version=version, source="docs", text=doc_id, collection="documents")
        for doc_id in doc_ids
    )
    return IngestBatch(submission, documents)


async def work(
    broker: Broker, batch: IngestBatch, *targets: WebhookTarget, reason: str = ""
) -> None:
    """Queue ``batch`` and finish it: every document is indexed, or rejected for ``reason``."""
    await broker.queue.offer([batch])
    await work_on(broker, batch, *targets, reason=reason)


async def work_on(
    broker: Broker, batch: IngestBatch, *targets: WebhookTarget, reason: str = ""
) -> None:
    leases = lease_queue(broker, webhooks=Subscriptions.of(targets))
    [claimed] = await take(leases)
    report = BatchReport(DocumentCounts(indexed=len(batch.documents)))
    if reason:
        report = dead_letter_batch(batch, reason, tries=1)
    assert await finish(leases, claimed, report)
    assert not await finish(leases, claimed, report), "a second ack does nothing"


@asynccontextmanager
async def delivering(
    broker: Broker,
    *targets: WebhookTarget,
    retry_seconds: tuple[float, ...] = AT_ONCE,
    allow_private: bool = True,
) -> AsyncIterator[None]:
    """Deliver what is in the outbox, as a worker does."""
    async with open_sender(allow_private=allow_private) as sender:
        service = WebhookDeliverer(broker.webhooks, targets, sender, retry_seconds).service()
        async with service:
            yield


async def backlog(broker: Broker, target: str = "ours") -> WebhookBacklog:
    [found] = [each for each in (await broker.queue.overview()).webhooks if each.target == target]
    return found


async def listed(broker: Broker) -> list[ListedWebhook]:
    return (await broker.webhooks.listed())[1]


async def is_empty(broker: Broker) -> bool:
    """Return whether nothing waits, and nothing of a message is left in Redis."""
    state = await backlog(broker)
    left = [key async for key in broker.redis.scan_iter(keys.WEBHOOK + "*")]
    return not state.waiting and not left


async def test_a_finished_submission_is_posted_once(
    broker: Broker, receiver: WebhookReceiver
) -> None:
    target = receiver.target("ours", FINISHED)
    async with delivering(broker, target):
        await work(broker, batch("first", "a", "b"), target)
        [message] = await receiver.messages(1)
        await eventually(lambda: is_empty(broker))
    assert message.message["type"] == "submission.finished"
    assert message.message["timestamp"].endswith("Z")
    assert message.data == {
        "submission": "first",
        "accepted": 2,
        "documents": {"indexed": 2, "unchanged": 0, "superseded": 0, "deleted": 0, "rejected": 0},
        "chunks": {"embedded": 0, "reused": 0, "deleted": 0},
        "warned": 0,
        "dead_letters": [],
    }
    assert receiver.requests == ["POST /hooks/Xyzzy42 HTTP/1.1"]
    assert (await backlog(broker)).delivered == 1
    assert b"ingestq_webhooks_waiting 0.0" in queue_exposition(await broker.queue.overview())


async def test_a_dead_letter_is_posted_with_its_reason(
    broker: Broker, receiver: WebhookReceiver
) -> None:
    target = receiver.target()
    await work(broker, batch("first", "a"), target, reason="Broken PDF")
    async with delivering(broker, target):
        messages = await receiver.messages(2)
    by_type = {message.message["type"]: message.data for message in messages}
    assert by_type["submission.finished"]["dead_letters"] == [
        {"doc_id": "a", "reason": "Broken PDF"}
    ]
    assert by_type["document.dead_lettered"] == {
        "doc_id": "a",
        "source": "docs",
        "tenant": "",
        "collection": "documents",
        "version": 1,
        "reason": "Broken PDF",
        "tries": 1,
        "submission": "first",
    }


async def test_a_payload_stays_small(broker: Broker, receiver: WebhookReceiver) -> None:
    many = batch("first", *(f"{'x' * 100}/{n}" for n in range(300)))
    target = receiver.target("ours", FINISHED)
    await work(broker, many, target, reason="r" * 100_000)
    await work(broker, batch("second", *map(str, range(300))), target, reason="short")
    async with delivering(broker, target):
        messages = {each.data["submission"]: each for each in await receiver.messages(2)}
    large, small = messages["first"], messages["second"]
    assert large.data["documents"]["rejected"] == 300
    assert int(large.headers["content-length"]) < 20_000
    assert len(small.data["dead_letters"]) == 50


async def test_without_webhooks_nothing_is_written(broker: Broker) -> None:
    await work(broker, batch("first", "a"), reason="Broken PDF")
    assert not [key async for key in broker.redis.scan_iter("ingestq:webhook*")]
    assert not (await broker.queue.overview()).webhooks


async def test_a_submission_that_goes_on_is_posted_when_it_ends(
    broker: Broker, receiver: WebhookReceiver
) -> None:
    target = receiver.target("ours", FINISHED)
    await work(broker, batch("first", "a"), target)
    await broker.queue.offer([batch("first", "b")])
    async with delivering(broker, target):
        await work_on(broker, batch("first", "b"), target)
        await eventually(lambda: is_empty(broker))
    [message] = receiver.received
    assert message.data["accepted"] == 2


async def test_a_target_that_fails_gets_the_same_message_again(
    broker: Broker, receiver: WebhookReceiver
) -> None:
    receiver.answers = [500, 503, 404]
    target = receiver.target("ours", FINISHED)
    await work(broker, batch("first", "a"), target)
    with capture_logs() as logs:
        async with delivering(broker, target):
            messages = await receiver.messages(4)
            await eventually(lambda: is_empty(broker))
    assert len({message.id for message in messages}) == 1
    assert len({json.dumps(message.message) for message in messages}) == 1
    said = [log["event"] for log in logs]
    assert said == [events.WEBHOOK_RETRIED] * 3 + [events.WEBHOOK_DELIVERED]
    assert "Xyzzy42" not in str(logs), "the path of a URL may be secret"
    assert (await backlog(broker)).error == ""


async def test_a_target_that_was_away_gets_what_it_missed(broker: Broker) -> None:
    port = free_port()
    target = WebhookReceiver(port).target("ours", FINISHED)
    async with delivering(broker, target):
        for n in range(6):
            await work(broker, batch(f"s{n}", "a"), target)
        await eventually(lambda: backlog(broker), lambda state: "Connection refused" in state.error)
        async with webhook_receiver(port) as receiver:
            messages = await receiver.messages(6)
            await eventually(lambda: is_empty(broker))
    assert {message.data["submission"] for message in messages} == {f"s{n}" for n in range(6)}


async def test_a_target_that_hangs_holds_up_no_other(
    broker: Broker, receiver: WebhookReceiver
) -> None:
    async with webhook_receiver() as hanging:
        hanging.answering.clear()
        targets = [hanging.target("slow", FINISHED), receiver.target("ours", FINISHED)]
        async with delivering(broker, *targets):
            for n in range(8):
                await work(broker, batch(f"s{n}", "a"), *targets)
            await receiver.messages(8)
            await eventually(lambda: is_waiting(broker, "ours", 0))
            assert (await backlog(broker, "slow")).waiting == 8
            hanging.answering.set()
            await hanging.messages(8)


async def is_waiting(broker: Broker, target: str, messages: int) -> bool:
    return (await backlog(broker, target)).waiting == messages


async def test_a_message_that_is_never_taken_has_failed_until_it_is_retried(
    broker: Broker, receiver: WebhookReceiver
) -> None:
    receiver.answers = [500, 500, 500]
    target = receiver.target("ours", FINISHED)
    await work(broker, batch("first", "a"), target)
    async with delivering(broker, target, retry_seconds=(0, 0)):
        await eventually(lambda: backlog(broker), lambda state: state.failed == 1)
        [message] = await listed(broker)
        assert message.as_json() | {"id": "", "at": ""} == {
            "id": "",
            "target": "ours",
            "event": "submission.finished",
            "at": "",
            "state": "failed",
            "attempts": 3,
            "next_attempt_seconds": None,
            "error": "answered 500",
        }
        assert await broker.webhooks.retry("ours") == 1
        await receiver.messages(4)
        await eventually(lambda: is_empty(broker))


def test_retries_take_days() -> None:
    assert 3 * 86_400 < sum(RETRY_SECONDS) < 4 * 86_400


async def test_a_target_that_answers_410_is_told_no_more(
    broker: Broker, receiver: WebhookReceiver
) -> None:
    receiver.answers = [410]
    target = receiver.target("ours", FINISHED)
    await work(broker, batch("s1", "a"), target)
    async with delivering(broker, target):
        await eventually(lambda: backlog(broker), lambda state: state.is_gone)
        await work(broker, batch("s2", "a"), target)
        assert (await backlog(broker)).waiting == 0
    async with delivering(broker, target):  # the same URL
        await work(broker, batch("s3", "a"), target)
    assert len(receiver.received) == 1

    async with webhook_receiver() as another, delivering(broker, moved := another.target("ours")):
        await eventually(lambda: backlog(broker), lambda state: not state.is_gone)
        await work(broker, batch("s4", "a"), moved)
        [message] = await another.messages(1)
        assert message.data["submission"] == "s4"
        assert await broker.webhooks.retry("ours") == 1
        assert [m.data["submission"] for m in await another.messages(2)] == ["s4", "s1"]


async def test_what_is_retried_is_sent_although_its_submission_went_on_meanwhile(
    broker: Broker, receiver: WebhookReceiver
) -> None:
    receiver.answers = [410]
    target = receiver.target("ours", FINISHED)
    await work(broker, batch("s1", "a"), target)
    await work(broker, batch("s2", "a"), target)
    async with delivering(broker, target):
        await eventually(lambda: backlog(broker), lambda state: state.failed == 2)
        for submission in ("s1", "s2"):
            await work(broker, batch(submission, "b"), target)
        assert await broker.webhooks.retry("ours") == 2
        await receiver.messages(3)
        await eventually(lambda: is_empty(broker))


async def test_what_a_worker_has_claimed_and_not_delivered_is_delivered_by_another(
    broker: Broker, receiver: WebhookReceiver
) -> None:
    target = receiver.target("ours", FINISHED)
    await work(broker, batch("first", "a"), target)
    outbox = broker.webhooks
    [lost] = (await outbox.claim("ours", 9, lease_seconds=0.5, token="of a dead worker")).messages
    async with delivering(broker, target):
        [message] = await receiver.messages(1)
        assert message.id == lost.id
        await outbox.failed(lost, "of a dead worker", "too late")
        await eventually(lambda: is_empty(broker))


async def test_a_full_outbox_drops_the_oldest_and_says_so(
    broker: Broker, receiver: WebhookReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "WEBHOOK_MESSAGES", 3)
    target = receiver.target("ours", FINISHED)
    for n in range(5):
        await work(broker, batch(f"s{n}", "a"), target)
    state = await backlog(broker)
    assert (state.waiting, state.dropped) == (3, 2)
    with capture_logs() as logs:
        async with delivering(broker, target):
            messages = await receiver.messages(3)
    assert {message.data["submission"] for message in messages} == {"s2", "s3", "s4"}
    dropped = [log for log in logs if log["event"] == events.WEBHOOK_DROPPED]
    assert [log["messages"] for log in dropped] == [2]


async def test_a_message_that_alone_is_too_large_does_not_stop_the_job(
    broker: Broker, receiver: WebhookReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "WEBHOOK_BYTES", 10)
    target = receiver.target("ours", FINISHED)
    for n in range(3):
        await work(broker, batch(f"s{n}", "a"), target)
    assert (await backlog(broker)).waiting == 1


async def test_both_secrets_are_valid_while_they_are_rotated(
    broker: Broker, receiver: WebhookReceiver
) -> None:
    target = receiver.target("ours", FINISHED, secret=f"{OTHER_SECRET} {SECRET}")
    async with delivering(broker, target):
        await work(broker, batch("before", "a"), target)
        await receiver.messages(1)
        receiver.secret = OTHER_SECRET
        await work(broker, batch("after", "a"), target)
        await receiver.messages(2)
    receiver.secret = SECRET
    only_new = receiver.target("ours", FINISHED, secret=OTHER_SECRET)
    await work(broker, batch("later", "a"), only_new)
    async with delivering(broker, only_new, retry_seconds=()):
        await eventually(lambda: backlog(broker), lambda state: state.failed == 1)
    assert (await listed(broker))[0].message.error == "answered 401"


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "2130706433", "127.1"]
)
async def test_a_private_address_is_not_connected_to(
    broker: Broker, receiver: WebhookReceiver, host: str
) -> None:
    url = receiver.url.replace("127.0.0.1", host)
    target = WebhookTarget("ours", url, (SECRET,))
    await work(broker, batch("first", "a"), target)
    async with delivering(broker, target, retry_seconds=(), allow_private=False):
        await eventually(lambda: backlog(broker), lambda state: state.failed == 1)
    assert (
        "not a public address; set INGESTQ_WEBHOOK_ALLOW_PRIVATE" in (await backlog(broker)).error
    )
    assert not receiver.requests


async def test_a_redirect_is_not_followed(broker: Broker, receiver: WebhookReceiver) -> None:
    async with webhook_receiver() as elsewhere:
        receiver.answers, receiver.headers = [307], {"location": elsewhere.url}
        target = receiver.target("ours", FINISHED)
        await work(broker, batch("first", "a"), target)
        async with delivering(broker, target, retry_seconds=()):
            await eventually(lambda: backlog(broker), lambda state: state.failed == 1)
        assert not elsewhere.requests
    assert (await backlog(broker)).error == "answered 307, and redirects are not followed"


async def test_a_name_is_resolved_once_and_its_address_connected_to(
    broker: Broker, receiver: WebhookReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a name could have another address when it is connected to than when checked."""
    asked: list[Any] = []
    resolve = socket.getaddrinfo

    def rebinding(host: Any, *arguments: Any, **more: Any) -> Any:
        if host in ("rebinding.test", b"rebinding.test"):
            asked.append(host)
            return resolve("127.0.0.1" if len(asked) == 1 else "127.0.0.99", *arguments, **more)
        return resolve(host, *arguments, **more)

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    url = receiver.url.replace("127.0.0.1", "rebinding.test")
    target = WebhookTarget("ours", url, (SECRET,), (FINISHED,))
    await work(broker, batch("first", "a"), target)
    async with delivering(broker, target):
        [message] = await receiver.messages(1)
    assert message.headers["host"] == f"rebinding.test:{receiver.port}"
    assert len(asked) == 1


async def test_an_address_that_does_not_answer_leaves_time_for_the_next(
    broker: Broker, receiver: WebhookReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender, "ANSWER_SECONDS", 2.0)
    resolve = socket.getaddrinfo

    def two(host: Any, *arguments: Any, **more: Any) -> Any:
        hosts = ["127.0.0.2", "127.0.0.1"] if "two.test" in str(host) else [host]
        return [found for each in hosts for found in resolve(each, *arguments, **more)]

    monkeypatch.setattr(socket, "getaddrinfo", two)
    url = receiver.url.replace("127.0.0.1", "two.test")
    target = WebhookTarget("ours", url, (SECRET,), (FINISHED,))
    await work(broker, batch("first", "a"), target)
    with socket.socket() as dead, socket.socket() as waiting:
        dead.bind(("127.0.0.2", receiver.port))
        dead.listen(0)
        waiting.connect(dead.getsockname())  # full: the system drops what comes next
        # A busy machine may need some attempts; without time for the next address, all would fail.
        async with delivering(broker, target):
            await eventually(lambda: is_empty(broker))
    assert receiver.received


@pytest.mark.parametrize("name", ["hooks.test", "other.test"])
async def test_a_certificate_is_verified_for_the_name(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Although the connection is made to an address."""
    authority, tls = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(tls)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    resolve = socket.getaddrinfo

    def here(host: Any, *arguments: Any, **more: Any) -> Any:
        return resolve("127.0.0.1" if "test" in str(host) else host, *arguments, **more)

    monkeypatch.setattr(socket, "getaddrinfo", here)
    async with webhook_receiver(tls=tls) as receiver:
        target = WebhookTarget(
            "ours", f"https://hooks.test:{receiver.port}/", (SECRET,), (FINISHED,)
        )
        await work(broker, batch("first", "a"), target)
        async with delivering(broker, target, retry_seconds=()):
            if name == "hooks.test":
                await receiver.messages(1)
                await eventually(lambda: is_empty(broker))
            else:
                state = await eventually(lambda: backlog(broker), lambda state: state.failed == 1)
                assert "certificate" in state.error
                assert not receiver.requests


async def test_an_answer_that_never_ends_is_not_read(broker: Broker) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000000\r\n\r\n")
        try:
            while True:
                writer.write(b"x" * 65536)
                await writer.drain()
        except ConnectionError:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    target = WebhookTarget("ours", f"http://127.0.0.1:{port}/", (SECRET,), (FINISHED,))
    async with server, delivering(broker, target):
        await work(broker, batch("first", "a"), target)
        await eventually(lambda: is_empty(broker))


async def test_the_command_tests_and_lists_webhooks_and_shows_no_secret(
    ingestq: Ingestq, receiver: WebhookReceiver, redis_url: str, broker: Broker
) -> None:
    ingestq.settings |= {
        "redis_url": redis_url,
        "webhook_url": receiver.url,
        "webhook_secret": SECRET,
        "webhook_allow_private": "true",
    }
    tested = await ingestq.ended("webhooks", "test", "--json")
    assert tested.code == 0
    [result] = tested.json["webhooks"]
    assert result["delivered"]
    assert [received.message["type"] for received in receiver.received] == ["webhook.test"]

    await work(broker, batch("first", "a"), receiver.target("default"), reason="Broken PDF")
    ran = await ingestq.ended("webhooks", "list", "--json")
    [webhook] = ran.json["webhooks"]
    assert (webhook["target"], webhook["waiting"], webhook["configured"]) == ("default", 2, True)
    assert webhook["place"] == f"http://127.0.0.1:{receiver.port}"
    assert len(ran.json["messages"]) == 2
    printed = tested.out + tested.err + ran.out + ran.err
    assert "Xyzzy42" not in printed
    assert SECRET.removeprefix("whsec_") not in printed
