"""The outbox of webhooks: messages that were written when a job was finished, and not delivered.

``ack.lua`` writes them in the step that finishes the job, so none is lost, and none is written
twice. Workers claim them under leases. For each target at most `keys.WEBHOOK_MESSAGES` messages of
at most `keys.WEBHOOK_BYTES` are kept. If another one does not fit, the oldest are dropped, those
that failed first, and counted.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final, Self

import msgspec
from redis.asyncio import Redis

from ingestq.broker import keys
from ingestq.broker.connection import BrokerConfig, awaited, translate_errors
from ingestq.broker.scripts import Scripts
from ingestq.core.results import FailedDocument, SubmissionStatus, WebhookBacklog, utc_time
from ingestq.core.webhooks import payload, submission_data

LISTED_MESSAGES: Final = 100
"""Messages of a target that are listed: so many waiting, and so many failed ones."""
DELIVERED: Final = "delivered"
FAILED: Final = "failed"
GONE: Final = "gone"


@dataclass(frozen=True)
class WebhookMessage:
    """A message in the outbox; ``id`` is its ``webhook-id`` in every attempt.

    ``attempts`` counts the attempts so far, with the one for which it was claimed. ``fields`` is
    what was written when the job was finished.
    """

    id: str
    target: str
    event: str
    at_ms: int
    attempts: int
    error: str
    fields: dict[str, bytes]

    @classmethod
    def of(cls, message_id: bytes, raw: Sequence[bytes]) -> Self:
        """Return the message that a hash in Redis holds."""
        fields = {k.decode(): v for k, v in zip(raw[::2], raw[1::2], strict=True)}
        return cls(
            id=message_id.decode(),
            target=fields.get("target", b"").decode(),
            event=fields.get("event", b"").decode(),
            at_ms=int(fields.get("at", 0)),
            attempts=int(fields.get("attempts", 0)),
            error=fields.get("error", b"").decode(),
            fields=fields,
        )

    def body(self) -> bytes:
        """Return what is posted: the same bytes in every attempt.

        Raises ValueError if the message is not one that this version knows.
        """
        if (data := self.fields.get("data")) is not None:
            return payload(self.event, self.at_ms, msgspec.json.decode(data, type=dict[str, Any]))
        try:
            counts = dict(pair.split(b"=", 1) for pair in self.fields["counts"].split())
            status = SubmissionStatus.of(counts)
            rejected = msgspec.msgpack.decode(
                self.fields["rejected"], type=tuple[FailedDocument, ...]
            )
            submission = self.fields["submission"].decode()
        except KeyError as error:
            raise ValueError(f"it has no field {error}") from error
        return payload(self.event, self.at_ms, submission_data(submission, status, rejected))


@dataclass(frozen=True)
class ClaimedWebhooks:
    """Messages that this worker delivers now, each under a lease.

    The next one of the target is due in ``next_seconds``; None if none waits. ``dropped`` were
    dropped since the last claim, because too many waited.
    """

    messages: Sequence[WebhookMessage]
    next_seconds: float | None
    dropped: int


@dataclass(frozen=True)
class ListedWebhook:
    """A message that waits for its next attempt in ``next_seconds``, or that ``failed``."""

    message: WebhookMessage
    failed: bool
    next_seconds: float

    def as_json(self) -> dict[str, Any]:
        """Return the message as JSON, on whose keys other programs rely."""
        return {
            "id": self.message.id,
            "target": self.message.target,
            "event": self.message.event,
            "at": utc_time(self.message.at_ms),
            "state": "failed" if self.failed else "waiting",
            "attempts": self.message.attempts,
            "next_attempt_seconds": None if self.failed else round(self.next_seconds, 3),
            "error": self.message.error,
        }


class WebhookOutbox:
    """Reads and writes the outbox. Every method raises BrokerUnavailable while Redis is away."""

    def __init__(self, redis: Redis, config: BrokerConfig) -> None:
        self._redis = redis
        self._config = config
        self._scripts = Scripts.register(redis)

    async def claim(
        self, target: str, n: int, *, lease_seconds: float, token: str, early_seconds: float = 0
    ) -> ClaimedWebhooks:
        """Claim up to ``n`` messages for ``target`` that are due within ``early_seconds``.

        They belong to the holder of ``token``. If it does not say what became of them before the
        lease is over, another worker delivers them again.
        """
        with self._translated():
            rows, next_ms, dropped = await self._scripts.claim_webhooks(
                args=[target, n, int(lease_seconds * 1000), token, int(early_seconds * 1000)]
            )
        return ClaimedWebhooks(
            [WebhookMessage.of(*row) for row in rows],
            None if next_ms < 0 else next_ms / 1000,
            dropped,
        )

    async def delivered(self, message: WebhookMessage, token: str) -> None:
        """Delete a message that the target has taken."""
        await self._end(message, token, DELIVERED)

    async def retry_in(
        self, message: WebhookMessage, token: str, seconds: float, error: str
    ) -> None:
        """Try a message again after ``seconds``."""
        await self._end(message, token, str(int(seconds * 1000)), error)

    async def failed(self, message: WebhookMessage, token: str, error: str) -> None:
        """Try a message no more."""
        await self._end(message, token, FAILED, error)

    async def gone(self, message: WebhookMessage, token: str, error: str, url_digest: str) -> None:
        """Try none of the target's messages any more, and write no more for it.

        That lasts until `enable` is called with the digest of another URL, or `retry`.
        """
        await self._end(message, token, GONE, error, url_digest)

    async def _end(
        self, message: WebhookMessage, token: str, result: str, error: str = "", digest: str = ""
    ) -> None:
        with self._translated():
            await self._scripts.end_webhook(
                args=[message.target, message.id, token, result, error, digest]
            )

    async def enable(self, target: str, url_digest: str) -> None:
        """Write messages for ``target`` again if the URL that was gone is not this one any more."""
        key = keys.WEBHOOK_STATE + target
        with self._translated():
            gone: Any = await awaited(self._redis.hget(key, "gone"))
            if gone is not None and gone.decode() != url_digest:
                await awaited(self._redis.hdel(key, "gone"))

    async def retry(self, target: str) -> int:
        """Let all messages of ``target`` be tried at once; return how many there are."""
        with self._translated():
            return int(await self._scripts.retry_webhooks(args=[target]))

    async def purge(self, target: str) -> int:
        """Delete all messages of ``target``; return how many there were."""
        with self._translated():
            return int(await self._scripts.purge_webhooks(args=[target]))

    async def listed(self) -> tuple[list[WebhookBacklog], list[ListedWebhook]]:
        """Return the state of every target, and its oldest messages."""
        with self._translated():
            targets, messages = await self._scripts.list_webhooks(args=[LISTED_MESSAGES])
        found = [
            ListedWebhook(WebhookMessage.of(message_id, raw), state == b"failed", next_ms / 1000)
            for message_id, state, next_ms, raw in messages
        ]
        found.sort(key=lambda listed: (listed.message.target, listed.message.at_ms))
        return sorted(
            (decoded_backlog(*target) for target in targets), key=lambda b: b.target
        ), found

    def _translated(self) -> AbstractContextManager[None]:
        return translate_errors(self._config)


def decoded_backlog(
    target: bytes, waiting: int, failed: int, oldest_ms: int, raw: Sequence[bytes]
) -> WebhookBacklog:
    """Return the state of a target as the function ``webhook_state`` of the scripts returns it."""
    state = dict(zip(raw[::2], raw[1::2], strict=True))
    return WebhookBacklog(
        target=target.decode(),
        waiting=waiting,
        failed=failed,
        delivered=int(state.get(b"delivered", 0)),
        dropped=int(state.get(b"dropped", 0)),
        oldest_waiting_seconds=oldest_ms / 1000,
        is_gone=b"gone" in state,
        error=state.get(b"error", b"").decode(),
    )
