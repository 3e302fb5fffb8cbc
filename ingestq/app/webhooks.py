"""Tests the webhooks of the settings: sends each a message, and says what came of it."""

import asyncio
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ingestq.app.settings import Settings
from ingestq.core.errors import UsageError
from ingestq.core.webhooks import TEST_EVENT, WebhookTarget, payload


@dataclass(frozen=True)
class WebhookTest:
    """What came of a message that was sent to try a target; ``error`` is empty if it took it."""

    target: WebhookTarget
    message_id: str
    seconds: float
    error: str

    def as_json(self) -> dict[str, Any]:
        """Return the result as JSON, on whose keys other programs rely."""
        return {
            "target": self.target.name,
            "place": self.target.place,
            "message": self.message_id,
            "delivered": not self.error,
            "seconds": round(self.seconds, 3),
            "error": self.error,
        }


def webhooks_named(settings: Settings, name: str | None) -> Sequence[WebhookTarget]:
    """Return the webhook called ``name``, or all. Raises UsageError if there is none."""
    targets = settings.webhooks
    if not targets:
        raise UsageError(
            "no webhook is configured; add a [[webhook]] table to ingestq.toml, or set "
            "INGESTQ_WEBHOOK_URL and INGESTQ_WEBHOOK_SECRET"
        )
    found = [target for target in targets if name in (None, target.name)]
    if not found:
        known = ", ".join(target.name for target in targets)
        raise UsageError(f"there is no webhook {name!r}; known webhooks: {known}")
    return found


async def try_webhooks(settings: Settings, targets: Sequence[WebhookTarget]) -> list[WebhookTest]:
    """Post a `TEST_EVENT` to each of ``targets``, once, without the outbox."""
    from worker.webhooks.sender import WebhookSender, open_sender

    async def attempt(sender: WebhookSender, target: WebhookTarget) -> WebhookTest:
        message_id = f"msg_{uuid.uuid4().hex}"
        body = payload(TEST_EVENT, time.time_ns() // 1_000_000, {"target": target.name})
        began = time.monotonic()
        result = await sender.send(target, message_id, body)
        return WebhookTest(target, message_id, time.monotonic() - began, result.error)

    async with open_sender(allow_private=settings.webhook_allow_private) as sender:
        return list(await asyncio.gather(*(attempt(sender, target) for target in targets)))
