"""Delivers what is in the outbox of webhooks, at least once each."""

import asyncio
import random
import uuid
from collections.abc import Sequence
from typing import Final

import structlog

from ingestq.broker import keys
from ingestq.broker.webhooks import ClaimedWebhooks, WebhookMessage, WebhookOutbox
from ingestq.core import events, metrics
from ingestq.core.errors import IngestqError, ServiceUnavailable
from ingestq.core.outages import note_failure
from ingestq.core.service import Service, happens_within, run_together
from ingestq.core.webhooks import WebhookTarget
from worker.webhooks.sender import ANSWER_SECONDS, Attempt, AttemptResult, WebhookSender

log = structlog.get_logger()

RETRY_SECONDS: Final = (5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
"""The delays before each further attempt: the schedule that the specification shows, three days."""
JITTER: Final = 0.2
"""A delay is up to so much longer, so that what failed together is not tried again together."""
CONCURRENCY: Final = 4
"""Messages that a worker posts to one target at once. Targets do not wait for each other."""
LEASE_SECONDS: Final = ANSWER_SECONDS + 5
"""Longer than an attempt: no other worker delivers a message meanwhile."""
POLL_SECONDS: Final = 1.0
"""How often a worker looks for messages while there are none that are due."""
BROKER_RETRY_SECONDS: Final = 2.0
CRASH_SECONDS: Final = 30.0
"""How long a target is left alone after an unexpected error."""
LAST_SECONDS: Final = 5.0
"""How long a worker that stops tries to deliver what waits. The rest is left to other workers, or
to the next one."""


class WebhookDeliverer:
    """Posts the messages of the outbox to ``targets``. Any number of workers may do so.

    A message that is not taken is tried again at the times of `RETRY_SECONDS`, then it has failed.
    ``retry_seconds`` are those times.
    """

    def __init__(
        self,
        outbox: WebhookOutbox,
        targets: Sequence[WebhookTarget],
        sender: WebhookSender,
        retry_seconds: Sequence[float] = RETRY_SECONDS,
    ) -> None:
        self._outbox = outbox
        self._targets = targets
        self._sender = sender
        self._retry_seconds = retry_seconds
        self._token = uuid.uuid4().hex

    def service(self) -> Service:
        """Return a service that delivers until it is stopped, and then what waits, once."""
        return Service(self._run, name="webhooks", grace_seconds=LAST_SECONDS + 1)

    async def _run(self, stopping: asyncio.Event) -> None:
        await run_together(*(self._keep_serving(target, stopping) for target in self._targets))

    async def _keep_serving(self, target: WebhookTarget, stopping: asyncio.Event) -> None:
        """Serve ``target``, and start again after a defect: it must not stop the worker."""
        while True:
            try:
                await self._serve(target, stopping)
            except Exception:
                log.exception(events.WEBHOOKS_CRASHED, target=target.name)
                if await happens_within(stopping, CRASH_SECONDS):
                    return
            else:
                return

    async def _serve(self, target: WebhookTarget, stopping: asyncio.Event) -> None:
        is_enabled = False
        while not stopping.is_set():
            try:
                if not is_enabled:
                    await self._outbox.enable(target.name, target.url_digest)
                    is_enabled = True
                claimed = await self._deliver_due(target)
            except IngestqError as error:
                _note(error)
                await happens_within(stopping, BROKER_RETRY_SECONDS)
                continue
            if not claimed.messages:
                pause = POLL_SECONDS
                if claimed.next_seconds is not None:
                    pause = min(pause, claimed.next_seconds + 0.01)
                await happens_within(stopping, pause)
        try:
            async with asyncio.timeout(LAST_SECONDS):
                while (await self._deliver_due(target, is_last=True)).messages:
                    pass
        except TimeoutError:
            pass
        except IngestqError as error:
            _note(error)

    async def _deliver_due(
        self, target: WebhookTarget, *, is_last: bool = False
    ) -> ClaimedWebhooks:
        """Deliver some messages that are due; with ``is_last``, also those that settle."""
        claimed = await self._outbox.claim(
            target.name,
            CONCURRENCY,
            lease_seconds=LEASE_SECONDS,
            token=self._token,
            early_seconds=keys.WEBHOOK_SETTLE_MS / 1000 if is_last else 0,
        )
        if claimed.dropped:
            log.warning(events.WEBHOOK_DROPPED, target=target.name, messages=claimed.dropped)
        if claimed.messages:
            await run_together(*(self._deliver(target, message) for message in claimed.messages))
        return claimed

    async def _deliver(self, target: WebhookTarget, message: WebhookMessage) -> None:
        try:
            body = message.body()
        except ValueError as error:
            await self._give_up(target, message, f"the message cannot be read: {error}")
            return
        result = await self._sender.send(target, message.id, body)
        match result.attempt:
            case Attempt.DELIVERED:
                await self._outbox.delivered(message, self._token)
                metrics.count(metrics.WEBHOOK_ATTEMPTS, "delivered")
                log.info(
                    events.WEBHOOK_DELIVERED,
                    target=target.name,
                    message_id=message.id,
                    type=message.event,
                    attempts=message.attempts,
                )
            case Attempt.GONE:
                await self._outbox.gone(message, self._token, result.error, target.url_digest)
                metrics.count(metrics.WEBHOOK_ATTEMPTS, "failed")
                log.error(events.WEBHOOK_GONE, target=target.name, error=result.error)
            case Attempt.FAILED:
                await self._postpone(target, message, result)

    async def _postpone(
        self, target: WebhookTarget, message: WebhookMessage, result: AttemptResult
    ) -> None:
        if message.attempts > len(self._retry_seconds):
            await self._give_up(target, message, result.error)
            return
        delay = self._retry_seconds[message.attempts - 1] * (1 + JITTER * random.random())  # noqa: S311
        delay = max(delay, result.retry_after or 0)
        await self._outbox.retry_in(message, self._token, delay, result.error)
        metrics.count(metrics.WEBHOOK_ATTEMPTS, "retried")
        log.warning(
            events.WEBHOOK_RETRIED,
            target=target.name,
            message_id=message.id,
            type=message.event,
            attempts=message.attempts,
            error=result.error,
            retry_in=round(delay),
        )

    async def _give_up(self, target: WebhookTarget, message: WebhookMessage, error: str) -> None:
        await self._outbox.failed(message, self._token, error)
        metrics.count(metrics.WEBHOOK_ATTEMPTS, "failed")
        log.error(
            events.WEBHOOK_FAILED,
            target=target.name,
            message_id=message.id,
            type=message.event,
            attempts=message.attempts,
            error=error,
        )


def _note(error: IngestqError) -> None:
    """Log why nothing can be delivered now: Redis is away, or refuses."""
    if isinstance(error, ServiceUnavailable):
        note_failure(error)
    else:
        log.warning(events.WEBHOOKS_UNREADABLE, error=str(error))
